"""The expert of each frame, layer by layer, in recordings; and how many frames of a set each expert computes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import ENCODER_FRAME_SHIFT, EncoderConfig
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.moe import count_frames
from shared_moe_conformer.speech.recognition import Recording
from shared_moe_conformer.speech.transcript import Transcript

if TYPE_CHECKING:
    from shared_moe_conformer.data.batch import AsrBatch


class Layer(NamedTuple):
    """A feed-forward with experts."""

    layer: int
    """Position in depth, from 1."""
    group: int
    """The group whose experts it uses, from 1: layers of a group share them."""
    feed_forward: str
    """first or second of the layer's two."""


class SegmentExperts(NamedTuple):
    """The experts of one segment's frames."""

    start: float
    """Start of the segment, in seconds."""
    expert_ids: Tensor
    """(L, T', K), for the layers in order; a frame's most probable expert first."""


def expert_layers(config: EncoderConfig) -> list[Layer]:
    """The feed-forwards with experts, in the order of depth."""
    names = {"none": (), "first": ("first",), "second": ("second",), "both": ("first", "second")}[config.experts_in]
    return [Layer(layer + 1, config.layer_blocks[layer] + 1, name) for layer in config.expert_layers for name in names]


def transcribe_with_experts(
    bundle: Bundle, recording: Recording, *, vad: bool = False
) -> tuple[Transcript, list[SegmentExperts]]:
    """Transcribe a recording; return the experts of its frames as well, segment by segment.

    Args:
      vad: believe words only where Silero VAD hears speech; other segments are not computed.

    Returns:
      the transcript; the segments in order, none without experts.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not audio.
    """
    segments: list[SegmentExperts] = []
    (transcript,) = bundle.transcribe_many(
        [recording],
        vad=vad,
        on_experts=lambda segment, ids: segments.append(SegmentExperts(segment.start, ids)),
    )
    return transcript, sorted(segments, key=lambda segment: segment.start)


def experts_table(bundle: Bundle, segments: Sequence[SegmentExperts]) -> dict[str, Any] | None:
    """The experts of each frame; None where the model has none.

    Returns:
      frame_shift, in seconds; num_experts; layers; and each segment's start in seconds and expert_ids, (L, T', K).
    """
    encoder = bundle.config.model.encoder
    if encoder.experts_in == "none":
        return None
    return {
        "frame_shift": ENCODER_FRAME_SHIFT,
        "num_experts": encoder.num_experts,
        "layers": [layer._asdict() for layer in expert_layers(encoder)],
        "segments": [experts_message(segment) for segment in segments],
    }


def experts_message(segment: SegmentExperts) -> dict[str, Any]:
    """A segment's experts for JSON: start, in seconds, and expert_ids, (L, T', K)."""
    return {"start": round(segment.start, 3), "expert_ids": segment.expert_ids.tolist()}


@torch.inference_mode()
def frames_per_expert(model: AsrModel, batches: Iterable[AsrBatch]) -> Tensor:
    """Valid frames that each expert computes, (L, E), rows in the order of depth.

    Args:
      model: in evaluation mode.
      batches: the set.

    Raises:
      ValueError: the model has no experts, or the set no batch.
    """
    device = next(model.parameters()).device
    total: Tensor | None = None
    for batch in batches:
        routing = model.encode(batch.x.to(device), batch.x_lens.to(device)).routing
        if routing is None:
            raise ValueError("the model has no experts: --experts-in was none")
        frames = count_frames(routing.expert_ids, routing.router_logits.size(2))
        total = frames if total is None else total + frames
    if total is None:
        raise ValueError("the set has no batch")
    return total.cpu()
