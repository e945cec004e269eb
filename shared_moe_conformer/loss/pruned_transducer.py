"""The pruned transducer loss of a batch: a simple loss finds the likely positions, the joiner is evaluated there.

The lattices are computed by k2 or by plain torch; no other module of the losses imports k2.

Source: Kuang et al. 2022, Pruned RNN-T for fast, memory-efficient ASR training (arXiv 2206.13236).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_moe_conformer.kernels.recursion import mutual_information_recursion
from shared_moe_conformer.kernels.rows import loss_of_rows
from shared_moe_conformer.loss.transducer import get_rnnt_prune_ranges, rnnt_loss_smoothed

SMALLEST_PROBABILITY = 1e-6

try:
    import k2
except ImportError:
    k2 = None

Joiner = Callable[[Tensor, Tensor], Tensor]
"""Function from projected encoder and decoder frames, (R, J) each, to logits (R, V)."""


class TransducerFunctions(NamedTuple):
    """k2's functions of these names, or this package's; both take the same arguments."""

    rnnt_loss_smoothed: Callable[..., Any]
    get_rnnt_prune_ranges: Callable[..., Any]
    mutual_information_recursion: Callable[..., Any]


TORCH_FUNCTIONS = TransducerFunctions(rnnt_loss_smoothed, get_rnnt_prune_ranges, mutual_information_recursion)


def transducer_functions(backend: str, device: torch.device | str) -> TransducerFunctions:
    """The functions that compute transducer losses on a device.

    Args:
      backend: "k2"; "torch"; or "auto": k2 on a GPU where it is installed, otherwise torch, which is faster on a CPU
        (benchmarks/pruned_transducer.py).

    Raises:
      ValueError: k2 is asked for and not installed, or another backend.
    """
    if backend not in ("auto", "k2", "torch"):
        raise ValueError(f"transducer_backend is {backend!r}: give one of auto, k2, torch")
    if backend == "k2" and k2 is None:
        raise ValueError(
            "transducer_backend is k2, which is not installed: run `make install ENGINE=k2`, or give torch"
        )
    if backend == "torch" or (backend == "auto" and (k2 is None or torch.device(device).type != "cuda")):
        return TORCH_FUNCTIONS
    return TransducerFunctions(*(getattr(k2, name) for name in TransducerFunctions._fields))


class TransducerLosses(NamedTuple):
    """Scalars, summed over utterances."""

    simple_loss: Tensor
    pruned_loss: Tensor
    distillation_loss: Tensor
    """Divergence from a teacher's joiner, averaged over the positions kept and summed over frames; 0 without one."""


class TeacherJoiner(NamedTuple):
    """A teacher's joiner and what it is applied to, without gradient; its frames are those of the model in number."""

    joiner: Joiner
    encoder_frames: Tensor
    """(N, T, J'), projected."""
    decoder_frames: Tensor
    """(N, U + 1, J'), projected."""


def pruned_transducer_loss(
    am_simple: Tensor,
    lm_simple: Tensor,
    encoder_frames: Tensor,
    decoder_frames: Tensor,
    joiner: Joiner,
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
      joiner: from projected frames to logits.
      y: tokens, (N, U), padded with 0, the blank.
      x_lens: valid frames, (N,).
      y_lens: valid tokens, (N,); 0 is allowed.
      prune_range: positions kept at each frame; more for an utterance that does not fit, that is if U > T * (S - 1).
      lm_only_scale: smoothing of the simple loss towards the decoder alone.
      am_only_scale: smoothing of the simple loss towards the encoder alone; not 0: batch-mates matter.
      functions: functions that compute the lattices (`transducer_functions`).
      teacher: the joiner to imitate at the positions kept.
    """
    boundary = torch.stack([torch.zeros_like(x_lens), torch.zeros_like(x_lens), y_lens, x_lens], dim=1)
    # k2 1.23.4 refuses U = 0 and T < U; values beyond the boundary change nothing.
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
    cells = _kept_cells(posteriors, boundary, prune_range, functions)
    token = F.pad(y, (0, 1))[cells.utterance, cells.position]

    def log_probs_of(rows: Tensor) -> Tensor:
        some = _Cells(*(part[rows] for part in cells))
        return _joiner_log_probs(joiner, encoder_frames, decoder_frames, some, token[rows])

    def loss_of(log_probs: Tensor) -> Tensor:
        px, py = _arcs(log_probs, cells, encoder_frames.shape[:2], decoder_frames.shape[1])
        return -functions.mutual_information_recursion(px, py, boundary).sum()

    if teacher is None:
        pruned_loss = loss_of_rows(log_probs_of, loss_of, torch.arange(len(token), device=token.device))
        return TransducerLosses(simple_loss, pruned_loss, torch.zeros_like(simple_loss))
    log_probs = _joiner_log_probs(joiner, encoder_frames, decoder_frames, cells, token)
    with torch.no_grad():
        theirs = _joiner_log_probs(teacher.joiner, teacher.encoder_frames, teacher.decoder_frames, cells, token)
    divergence = arc_divergence(log_probs, theirs, token) * x_lens.sum()
    return TransducerLosses(simple_loss, loss_of(log_probs), divergence)


def arc_divergence(log_probs: Tensor, teacher_log_probs: Tensor, tokens: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the joiner's choices from the teacher's, averaged over lattice positions.

    Without positions it is 0. The vocabulary is collapsed to three: the token that is next in the transcript, blank,
    and the rest.

    Source: Panchapagesan et al. 2021, Efficient knowledge distillation for RNN-transducer models, section 3 (arXiv
    2011.06110); there over the whole lattice, here over the positions that pruning keeps.

    Args:
      log_probs: the model's, of the next token and of blank, (R, 2).
      teacher_log_probs: the teacher's, (R, 2), without gradient.
      tokens: the next token, (R,); 0, the blank, where the transcript has ended and there is none.
    """
    ours, theirs = (_three_choices(x.float(), tokens) for x in (log_probs, teacher_log_probs))
    return (theirs * (theirs.log() - ours.log())).sum() / max(len(tokens), 1)


def _three_choices(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """Probabilities (R, 3) of the next token, of blank and of the rest; none is quite 0."""
    token, blank = log_probs.exp().unbind(1)
    token = token.masked_fill(tokens == 0, 0.0)
    return torch.stack([token, blank, 1 - token - blank], dim=1).clamp(min=SMALLEST_PROBABILITY)


class _Cells(NamedTuple):
    """The nodes of the lattices at which the joiner is evaluated, each (R,)."""

    utterance: Tensor
    position: Tensor
    frame: Tensor


def _kept_cells(
    posteriors: tuple[Tensor, Tensor], boundary: Tensor, prune_range: int, functions: TransducerFunctions
) -> _Cells:
    """The nodes that pruning keeps, without padding; each utterance is pruned to a width of its own."""
    y_lens, x_lens = boundary[:, 2], boundary[:, 3]
    frames = torch.arange(posteriors[1].shape[2], device=boundary.device).view(1, -1, 1)
    fitting = (y_lens + x_lens - 1) // x_lens.clamp(min=1) + 1  # ceil(U / T) + 1: every transcript fits
    widths = fitting.clamp(min=prune_range)
    parts = []
    for width in widths.unique().tolist():
        some = (widths == width).nonzero().squeeze(1)
        arcs = (posterior.index_select(0, some) for posterior in posteriors)
        ranges = functions.get_rnnt_prune_ranges(*arcs, boundary[some], min(width, posteriors[1].shape[1]))
        valid = (frames < x_lens[some].view(-1, 1, 1)) & (ranges <= y_lens[some].view(-1, 1, 1))
        number, frame, _ = valid.nonzero().unbind(1)
        parts.append((some[number], ranges[valid], frame))
    return _Cells(*map(torch.cat, zip(*parts)))


def _joiner_log_probs(
    joiner: Joiner, encoder_frames: Tensor, decoder_frames: Tensor, cells: _Cells, token: Tensor
) -> Tensor:
    """Log-probabilities of each cell's next token (R,) and of blank, (R, 2), in float32 or wider."""
    encoder_rows = encoder_frames[cells.utterance, cells.frame]
    logits = joiner(encoder_rows, decoder_frames[cells.utterance, cells.position])
    log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
    return log_probs.gather(1, torch.stack([token, torch.zeros_like(token)], dim=1))


def _arcs(log_probs: Tensor, cells: _Cells, size: Sequence[int], num_positions: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens (N, U, T + 1) and blanks (N, U + 1, T), -inf where nothing is kept."""
    batch, num_frames = size
    nothing = log_probs.new_full((batch, num_positions, num_frames + 1), -torch.inf)
    px, py = (nothing.index_put(cells, column) for column in log_probs.unbind(1))
    return px[:, :-1].contiguous(), py[:, :, :-1].contiguous()


def _at_least(x: Tensor, length: int) -> Tensor:
    """`x` padded with 0 to this length of dimension 1."""
    padding = max(0, length - x.shape[1])
    return F.pad(x, (0, 0) * (x.dim() - 2) + (0, padding)) if padding else x
