"""Which experts computed each frame of a recording, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.speech.recognition import End, Recording, read_segments


class Layer(NamedTuple):
    """A feed-forward that carries experts, in the order of depth."""

    layer: int
    """Position in depth, from 1."""
    group: int
    """The group whose experts it uses, from 1: layers of a group share them."""
    feed_forward: str
    """first or second, of the layer's two."""


class SegmentExperts(NamedTuple):
    """The experts of one segment's frames."""

    start: float
    """When the segment begins, in seconds."""
    expert_ids: torch.Tensor
    """(L, T', K), for the layers in order; a frame's most probable expert first."""


def expert_layers(config: EncoderConfig) -> list[Layer]:
    """The feed-forwards that carry experts; none without experts."""
    names = {"none": (), "first": ("first",), "second": ("second",), "both": ("first", "second")}[config.experts_in]
    groups = [number for number, size in enumerate(config.group_sizes, start=1) for _ in range(size)]
    return [Layer(layer, group, name) for layer, group in enumerate(groups, start=1) for name in names]


@torch.inference_mode()
def frame_experts(bundle: Bundle, recording: Recording) -> Iterator[SegmentExperts]:
    """The experts of each segment of a recording, cut as `Bundle.transcribe` cuts it; none without experts.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not audio.
    """
    for part in read_segments([recording], bundle.features):
        if isinstance(part, End):
            if part.error is not None:
                raise part.error
            continue
        x = part.features[None].to(bundle.model.joiner.output.weight.device)
        losses = bundle.model.encode(x, torch.tensor([x.size(1)], device=x.device)).router_losses
        if losses is not None:
            yield SegmentExperts(part.start, losses.expert_ids[:, 0].cpu())
