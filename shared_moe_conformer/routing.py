"""The expert of each frame, layer by layer: in a recording that is transcribed, and in a set beside what is said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import ENCODER_FRAME_SHIFT, SUBSAMPLING_FACTOR, EncoderConfig
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.moe import count_frames
from shared_moe_conformer.speech.recognition import Recording
from shared_moe_conformer.speech.transcript import Transcript

if TYPE_CHECKING:
    from shared_moe_conformer.data.batch import AsrBatch


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
    """Start of the segment, in seconds."""
    expert_ids: Tensor
    """(L, T', K), for the layers in order; a frame's most probable expert first."""


def expert_layers(config: EncoderConfig) -> list[Layer]:
    """The feed-forwards that carry experts; none without experts."""
    names = {"none": (), "first": ("first",), "second": ("second",), "both": ("first", "second")}[config.experts_in]
    return [Layer(layer + 1, config.layer_blocks[layer] + 1, name) for layer in config.expert_layers for name in names]


def transcribe_with_experts(bundle: Bundle, recording: Recording) -> tuple[Transcript, list[SegmentExperts]]:
    """Transcribe a recording, and return the experts of its frames, segment by segment, as well.

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


BLANK = 0
REACH = 3
"""Frames of 40 ms from the one in which a unit is found up to which it is taken to be said."""


class LabelledFrames(NamedTuple):
    """The M valid frames of a set, utterance by utterance, and what is known of each."""

    expert_ids: Tensor
    """Its most probable expert in each of L feed-forwards, (L, M)."""
    units: Tensor
    """The unit that is said in it, (M,); 0 in a pause."""
    loudness: Tensor
    """Mean of its features, the logarithm of energies, (M,)."""
    utterances: Tensor
    """The number of its utterance in `cut_ids`, (M,)."""
    cut_ids: list[str]


@torch.inference_mode()
def label_frames(model: AsrModel, batches: Iterable[AsrBatch]) -> LabelledFrames:
    """The experts of a set's frames beside what is said in them, which the CTC head aligns with the references.

    Args:
      model: with experts, in evaluation mode.
      batches: the set.

    Raises:
      ValueError: the model has no experts, or the set no batch.
    """
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    cut_ids: list[str] = []
    for batch in batches:
        encoder_out, lens, routing = model.encode(batch.x, batch.x_lens)
        if routing is None:
            raise ValueError("the model has no experts: --experts-in was none")
        log_probs, loudness = model.ctc_log_probs(encoder_out), F.avg_pool1d(batch.x.mean(dim=2), SUBSAMPLING_FACTOR)
        for n, ids in enumerate(routing.expert_ids[..., 0].split(lens.tolist(), dim=1)):
            length = ids.size(1)
            aligned = ctc_alignment(log_probs[n, :length], batch.y[n, : batch.y_lens[n]].tolist())
            number = torch.full((length,), len(cut_ids))
            parts.append((ids, spread(torch.tensor(aligned), REACH), loudness[n, :length], number))
            cut_ids.append(batch.cut_ids[n])
    if not parts:
        raise ValueError("the set has no batch")
    ids, units, loudnesses, utterances = (torch.cat(rows, dim=-1) for rows in zip(*parts))
    return LabelledFrames(ids, units, loudnesses, utterances, cut_ids)


def ctc_alignment(log_probs: Tensor, tokens: Sequence[int]) -> list[int]:
    """The units of T frames, blanks between them, on the likeliest path on which these tokens are said.

    Source: Graves et al. 2006, Connectionist temporal classification, section 4.1, with maxima instead of sums.

    Args:
      log_probs: of the CTC head, (T, V).
      tokens: at most as many as a path through T frames can hold.
    """
    units = [BLANK, *(unit for token in tokens for unit in (token, BLANK))]
    impossible = torch.full((2,), -torch.inf)
    skips = torch.tensor([s > 1 and units[s] not in (BLANK, units[s - 2]) for s in range(len(units))])
    emitted = log_probs[:, units]
    scores = torch.cat([emitted[0, :2], emitted.new_full((len(units),), -torch.inf)])[: len(units)]
    steps: list[Tensor] = []
    for frame in emitted[1:]:
        padded = torch.cat([impossible, scores])
        ways = torch.stack([scores, padded[1:-1], padded[:-2].masked_fill(~skips, -torch.inf)])
        best, step = ways.max(dim=0)
        scores = best + frame
        steps.append(step)
    place = len(units) - 1 - int(len(units) > 1 and scores[-2] > scores[-1])
    path = [place]
    for step in reversed(steps):
        place -= int(step[place])
        path.append(place)
    return [units[place] for place in reversed(path)]


def spread(units: Tensor, reach: int) -> Tensor:
    """The units (M,) of an alignment, and in place of a blank the nearest unit within `reach` frames, (M,)."""
    found = units.nonzero().squeeze(1)
    if len(found) == 0:
        return units
    distance = (torch.arange(len(units)).unsqueeze(1) - found).abs()
    nearest = distance.min(dim=1)
    return torch.where(nearest.values <= reach, units[found[nearest.indices]], torch.zeros_like(units))
