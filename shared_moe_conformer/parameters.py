"""Counts of the parameters that a model stores, unrolls and touches, and of the layers that use each."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from torch import nn

from shared_moe_conformer.config import ModelConfig
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import Encoder
from shared_moe_conformer.model.merging import Merged
from shared_moe_conformer.model.moe import MoeFeedForward


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
    return counts_of(AsrModel(config, num_mel_bins=num_mel_bins))


def counts_of(model: AsrModel) -> dict[str, ParameterCounts]:
    """The same of a model that is there."""
    counts = {"encoder": _encoder_counts(model.encoder)}
    counts |= {name: _dense_counts(part) for name, part in model.named_children() if name != "encoder"}
    return counts | {"total": _add(*counts.values())}


def layers_of(model: nn.Module) -> dict[nn.Parameter, int]:
    """The number of layers that use each parameter of the model's encoders; other parameters are left out.

    The gradient of a parameter is the sum of the layers' gradients.
    """
    encoders = [module for module in model.modules() if isinstance(module, Encoder)]
    layers = (layer for encoder in encoders for layer in encoder.layers())
    return Counter(parameter for layer in layers for module in layer.modules() for parameter in module.parameters())


def _encoder_counts(encoder: Encoder) -> ParameterCounts:
    gates = sum(_size(group.gates) for group in encoder.block_groups() if group.gates is not None)
    modules = [module for layer in encoder.layers() for module in layer.modules()]
    unrolled, active = gates + sum(map(_size, modules)), gates + sum(map(_active, modules))
    front_end = sum(_size(part) for name, part in encoder.named_children() if name not in ("groups", "mixers"))
    return ParameterCounts(_size(encoder), front_end + unrolled, front_end + active)


def _active(part: nn.Module) -> int:
    """Parameters of a block's part that a frame meets: of E experts `top_k`, of E merged sets their mean."""
    if isinstance(part, Merged):
        return _size(part) // len(part.sets)
    if isinstance(part, MoeFeedForward):
        return _size(part) - _size(part.experts) // part.num_experts * (part.num_experts - part.top_k)
    return _size(part)


def _dense_counts(part: nn.Module) -> ParameterCounts:
    return ParameterCounts(*(_size(part),) * 3)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _add(*counts: ParameterCounts) -> ParameterCounts:
    return ParameterCounts(*(sum(column) for column in zip(*counts, strict=True)))
