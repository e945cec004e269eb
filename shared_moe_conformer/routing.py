"""Which experts computed each frame of a recording that was transcribed, layer by layer."""

from __future__ import annotations

from typing import NamedTuple

import torch

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.speech.recognition import Recording
from shared_moe_conformer.speech.transcript import Transcript


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


def transcribe_with_experts(bundle: Bundle, recording: Recording) -> tuple[Transcript, list[SegmentExperts]]:
    """What `Bundle.transcribe` finds, and the experts of the frames in which it was found, segment by segment.

    Returns:
      the transcript; the segments in order, none without experts.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not audio.
    """
    segments: list[SegmentExperts] = []
    (transcript,) = bundle.transcribe_many(
        [recording], on_experts=lambda segment, ids: segments.append(SegmentExperts(segment.start, ids))
    )
    return transcript, sorted(segments, key=lambda segment: segment.start)
