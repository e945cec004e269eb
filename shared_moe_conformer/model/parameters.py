"""How many parameters a model stores, unrolls and touches."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from torch import nn

from shared_moe_conformer.config import EncoderConfig, ModelConfig
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import Encoder
from shared_moe_conformer.model.moe import Experts
from shared_moe_conformer.model.sharing import BlockGroup


class ParameterCounts(NamedTuple):
    """Parameters of a part of the model."""

    unique: int
    """Stored."""
    unrolled: int
    """Counted once for each layer that uses them."""
    active: int
    """Unrolled, and of the experts only the `top_k` that compute a frame."""


def count_parameters(config: ModelConfig, *, num_mel_bins: int = 80) -> dict[str, ParameterCounts]:
    """The counts of each part of the model, and under `total` those of the whole."""
    model = AsrModel(config, num_mel_bins=num_mel_bins)
    counts = {"encoder": _encoder_counts(model.encoder, config.encoder)}
    counts |= {name: _dense_counts(part) for name, part in model.named_children() if name != "encoder"}
    return counts | {"total": _add(*counts.values())}


def unshared(config: EncoderConfig) -> EncoderConfig:
    """The same encoder with weights of its own for each layer."""
    return dataclasses.replace(config, group_sizes=(1,) * config.num_layers)


def _encoder_counts(encoder: Encoder, config: EncoderConfig) -> ParameterCounts:
    groups = [_group_counts(group, config) for group in encoder.block_groups()]
    front_end = [_dense_counts(part) for name, part in encoder.named_children() if name != "groups"]
    return _add(*front_end, *groups)


def _group_counts(group: BlockGroup, config: EncoderConfig) -> ParameterCounts:
    block = _size(group.block)
    idle = sum(_size(part) for part in group.block.modules() if isinstance(part, Experts))
    idle = idle // config.num_experts * (config.num_experts - config.top_k)
    individual = _size(group.norms) * group.size // len(group.norms)
    individual += _size(group.routers) * group.size // len(group.routers)
    unrolled = block * group.size + individual + _size(group.deltas)
    return ParameterCounts(_size(group), unrolled, unrolled - idle * group.size)


def _dense_counts(part: nn.Module) -> ParameterCounts:
    return ParameterCounts(*(_size(part),) * 3)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _add(*counts: ParameterCounts) -> ParameterCounts:
    return ParameterCounts(*(sum(column) for column in zip(*counts, strict=True)))
