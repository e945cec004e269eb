"""The pruned transducer loss of a batch: a simple loss finds the likely positions, the joiner is evaluated there.

Source: Kuang et al. 2022, Pruned RNN-T for fast, memory-efficient ASR training (arXiv 2206.13236).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_moe_conformer.loss.backend import TransducerFunctions
from shared_moe_conformer.loss.distillation import arc_divergence
from shared_moe_conformer.loss.joiner_log_probs import AdditiveJoiner, Rows, joiner_log_probs


class TransducerLosses(NamedTuple):
    """Scalars, summed over utterances."""

    simple_loss: Tensor
    pruned_loss: Tensor
    distillation_loss: Tensor
    """Divergence from a teacher's joiner, averaged over the positions kept and summed over frames; 0 without one."""


class TeacherJoiner(NamedTuple):
    """A teacher's joiner and what it is applied to, without gradient; its frames are those of the model in number."""

    joiner: AdditiveJoiner
    encoder_frames: Tensor
    """(N, T, J'), projected."""
    decoder_frames: Tensor
    """(N, U + 1, J'), projected."""


def pruned_transducer_loss(
    am_simple: Tensor,
    lm_simple: Tensor,
    encoder_frames: Tensor,
    decoder_frames: Tensor,
    joiner: AdditiveJoiner,
    y: Tensor,
    x_lens: Tensor,
    y_lens: Tensor,
    *,
    prune_range: int,
    lm_only_scale: float,
    am_only_scale: float,
    functions: TransducerFunctions,
    teacher: TeacherJoiner | None = None,
) -> TransducerLosses:
    """Both losses, computed in float32 or wider whatever autocast says.

    Args:
      am_simple: the encoder's logits, (N, T, V).
      lm_simple: the decoder's logits, (N, U + 1, V).
      encoder_frames: encoder frames projected to the joiner's size, (N, T, J).
      decoder_frames: decoder frames projected to the joiner's size, (N, U + 1, J).
      joiner: its output layer is applied to the tanh of a sum of two frames.
      y: tokens, (N, U), padded with 0, the blank.
      x_lens: valid frames, (N,).
      y_lens: valid tokens, (N,); 0 is allowed.
      prune_range: positions kept at each frame; more where a transcript would not fit, that is if U > T * (S - 1).
      lm_only_scale: smoothing of the simple loss towards the decoder alone.
      am_only_scale: smoothing of the simple loss towards the encoder alone; not 0: batch-mates matter.
      functions: who computes the lattices (`transducer_functions`).
      teacher: whose joiner this one should imitate at the positions kept.
    """
    boundary = torch.stack([torch.zeros_like(x_lens), torch.zeros_like(x_lens), y_lens, x_lens], dim=1)
    # k2 1.23.4 refuses U = 0 and T < U; what is beyond the boundary changes nothing.
    y, lm_simple = _at_least(y, 1), _at_least(lm_simple, 2)
    am_simple = _at_least(am_simple, y.shape[1])
    with torch.autocast(am_simple.device.type, enabled=False):
        simple_loss, posteriors = functions.rnnt_loss_smoothed(
            lm=lm_simple.to(torch.promote_types(lm_simple.dtype, torch.float32)),
            am=am_simple.to(torch.promote_types(am_simple.dtype, torch.float32)),
            symbols=y,
            termination_symbol=0,
            lm_only_scale=lm_only_scale,
            am_only_scale=am_only_scale,
            boundary=boundary,
            reduction="sum",
            return_grad=True,
        )
    s_range = min(max(prune_range, _smallest_range(x_lens, y_lens)), y.shape[1] + 1)
    ranges = functions.get_rnnt_prune_ranges(*posteriors, boundary, s_range)
    cells = _kept_cells(ranges, x_lens, y_lens)
    rows = _rows(cells, y, num_frames=encoder_frames.shape[1], num_positions=decoder_frames.shape[1])
    log_probs = joiner_log_probs(joiner, encoder_frames, decoder_frames, rows)
    px, py = _arcs(log_probs, cells, encoder_frames.shape[:2], decoder_frames.shape[1])
    pruned_loss = -functions.mutual_information_recursion(px, py, boundary).sum()
    if teacher is None:
        return TransducerLosses(simple_loss, pruned_loss, torch.zeros_like(simple_loss))
    with torch.no_grad():
        theirs = joiner_log_probs(teacher.joiner, teacher.encoder_frames, teacher.decoder_frames, rows)
    return TransducerLosses(simple_loss, pruned_loss, arc_divergence(log_probs, theirs, rows.token) * x_lens.sum())


def _rows(cells: tuple[Tensor, ...], y: Tensor, *, num_frames: int, num_positions: int) -> Rows:
    """Where the joiner is evaluated."""
    utterance, position, frame = cells
    return Rows(
        encoder_frame=utterance * num_frames + frame,
        decoder_frame=utterance * num_positions + position,
        token=F.pad(y, (0, 1))[utterance, position],
    )


def _arcs(
    log_probs: Tensor, cells: tuple[Tensor, ...], size: Sequence[int], num_positions: int
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens (N, U, T + 1) and blanks (N, U + 1, T), -inf where nothing is kept."""
    batch, num_frames = size
    nothing = log_probs.new_full((batch, num_positions, num_frames + 1), -torch.inf)
    px, py = (nothing.index_put(cells, column) for column in log_probs.unbind(1))
    return px[:, :-1].contiguous(), py[:, :, :-1].contiguous()


def _at_least(x: Tensor, length: int) -> Tensor:
    """`x` padded with 0 to this length of dimension 1."""
    padding = max(0, length - x.shape[1])
    return F.pad(x, (0, 0) * (x.dim() - 2) + (0, padding)) if padding else x


def _smallest_range(x_lens: Tensor, y_lens: Tensor) -> int:
    """The narrowest pruning range into which every transcript fits: ceil(U / T) + 1."""
    return int(((y_lens + x_lens - 1) // x_lens.clamp(min=1)).max()) + 1


def _kept_cells(ranges: Tensor, x_lens: Tensor, y_lens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Utterance, position and frame of what is kept and not padding, each (R,)."""
    frames = torch.arange(ranges.shape[1], device=ranges.device).reshape(1, -1, 1)
    valid = (frames < x_lens.reshape(-1, 1, 1)) & (ranges <= y_lens.reshape(-1, 1, 1))
    utterance, frame, _ = valid.nonzero().unbind(1)
    return utterance, ranges[valid], frame
