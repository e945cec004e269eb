"""The simple transducer loss and the pruning ranges in plain torch, by the names and signatures of k2's functions.

`rnnt_type` "regular" only: a token leaves the frame where it is, blank goes to the next; several tokens may share a
frame. k2's `delay_penalty` is left out. Where k2 says S and C this package says U (tokens) and V (vocabulary); here
S is the width of pruning.

Source: Kuang et al. 2022, Pruned RNN-T for fast, memory-efficient ASR training (arXiv 2206.13236).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_moe_conformer.kernels.recursion import mutual_information_recursion


def rnnt_loss_smoothed(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    lm_only_scale: float = 0.1,
    am_only_scale: float = 0.1,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    reduction: str | None = "mean",
    return_grad: bool = False,
) -> Any:
    """Loss whose joiner is a mere sum, smoothed towards its parts: no (N, T, U + 1, V) tensor is ever made.

    Args:
      lm: the decoder's logits, (N, U + 1, V).
      am: the encoder's logits, (N, T, V).
      symbols: tokens, (N, U).
      termination_symbol: the blank.
      lm_only_scale: weight of the decoder's log-probabilities alone.
      am_only_scale: weight of the encoder's log-probabilities with one unigram for the whole batch in place of the
        decoder; not 0: an utterance's loss depends on its batch-mates, and on padding, as in k2.
      boundary: [begin_symbol, begin_frame, end_symbol, end_frame] of each utterance, ends exclusive, (N, 4).
      rnnt_type: "regular".
      reduction: "none" (or None), "mean" or "sum" over the utterances.
      return_grad: also return the arcs' posteriors, (N, U, T + 1) and (N, U + 1, T), for the pruning ranges.

    Returns:
      the loss, a Tensor; with return_grad (loss, (posteriors of tokens, posteriors of blanks)).

    Source: Kuang et al. 2022, sections 3.1 and 3.2.
    """
    _require_regular(rnnt_type)
    lm, am = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (lm, am))
    px, py = _smoothed_log_probs(lm, am, symbols, termination_symbol, lm_only_scale, am_only_scale)
    log_prob, posteriors = mutual_information_recursion(px, py, boundary, return_grad=True)
    loss = _reduce(-log_prob, reduction)
    return (loss, posteriors) if return_grad else loss


def get_rnnt_prune_ranges(px_grad: Tensor, py_grad: Tensor, boundary: Tensor, s_range: int) -> Tensor:
    """The tokens' positions that are kept at each frame, (N, T, S), S = min(s_range, U + 1) neighbours.

    A frame keeps the window that keeps most probability: the blanks that leave it for the next frame, less the tokens
    that enter it from below, whose paths are cut. Then windows are moved so that they start at 0, never fall, reach
    the end and overlap (rise by less than S), as every alignment must pass through all of them.
    If U > T * (S - 1), no windows can do that.

    Args:
      px_grad: posteriors of tokens, (N, U, T + 1).
      py_grad: posteriors of blanks, (N, U + 1, T).
      boundary: [begin_symbol, begin_frame, end_symbol, end_frame] of each utterance, (N, 4).
      s_range: width of the windows, at least 2.

    Source: Kuang et al. 2022, section 3.3.
    """
    num_positions, num_frames = py_grad.shape[1:]
    s_range = min(s_range, num_positions)
    if s_range < min(2, num_positions):
        raise ValueError(f"s_range is {s_range}: give 2 or more, otherwise no token fits into a window")
    num_windows = num_positions - s_range + 1
    kept = py_grad.unfold(1, s_range, 1).sum(-1)  # (N, num_windows, T)
    kept[:, 1:] -= px_grad[:, : num_windows - 1, :num_frames]
    begin = kept.argmax(1)
    frames = torch.arange(num_frames, device=begin.device)
    last = (boundary[:, 2:3] - s_range + 1).clamp(min=0)
    begin = torch.where(frames < boundary[:, 3:4] - 1, begin, last)

    begin = _suffix_min(begin)
    slack = (s_range - 1) * frames
    begin = slack - _suffix_min(slack - begin).clamp(min=0)
    return begin.unsqueeze(-1) + torch.arange(s_range, device=begin.device)


def sequence_log_probs(tokens: Sequence[Tensor], blanks: Sequence[Tensor]) -> Tensor:
    """The log-probabilities (N,) of token sequences, all alignments of each together.

    Args:
      tokens: for each sequence, of its next token at each frame after each number of tokens, (T, U).
      blanks: of blank there, (T, U + 1).
    """
    num_frames, lengths = len(blanks[0]), [x.size(1) for x in tokens]
    if num_frames == 0:
        return torch.tensor([-math.inf if length else 0.0 for length in lengths])
    px = blanks[0].new_full((len(tokens), max(lengths), num_frames + 1), -torch.inf)
    py = blanks[0].new_full((len(tokens), max(lengths) + 1, num_frames), -torch.inf)
    for number, (token, blank) in enumerate(zip(tokens, blanks)):
        px[number, : token.size(1), :-1] = token.T
        py[number, : blank.size(1)] = blank.T
    boundary = torch.tensor([[0, 0, length, num_frames] for length in lengths], device=px.device)
    log_probs: Tensor = mutual_information_recursion(px, py, boundary)
    return log_probs


def _suffix_min(x: Tensor) -> Tensor:
    """The smallest value from each frame on, (N, T)."""
    return x.flip(1).cummin(1).values.flip(1)


def _smoothed_log_probs(
    lm: Tensor, am: Tensor, symbols: Tensor, blank: int, lm_only_scale: float, am_only_scale: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens (N, U, T + 1) and blanks (N, U + 1, T): a weighted sum of three models' ones."""
    num_symbols, num_frames = symbols.shape[1], am.shape[1]
    tiny = torch.finfo(lm.dtype).tiny
    lm_max, am_max = (x.detach().amax(2, keepdim=True) for x in (lm, am))
    lm_exp = (lm - lm_max).exp()
    lm_token, lm_blank = lm[:, :num_symbols].gather(2, symbols.unsqueeze(2)), lm[:, :, blank].unsqueeze(2)
    wanted = F.pad(symbols, (0, 1), value=blank).unsqueeze(1).expand(-1, num_frames, -1)
    am_exp = (am - am_max).exp()
    am_token, am_blank = am.gather(2, wanted).transpose(1, 2).split([num_symbols, 1], dim=1)
    am_max = am_max.transpose(1, 2)  # (N, 1, T)

    normalizer = ((am_exp @ lm_exp.transpose(1, 2)).transpose(1, 2) + tiny).log() + lm_max + am_max
    scale = 1 - lm_only_scale - am_only_scale
    px = scale * (lm_token + am_token - normalizer[:, :num_symbols])
    py = scale * (lm_blank + am_blank - normalizer)
    if lm_only_scale != 0:
        normalizer = lm_exp.sum(2, keepdim=True).log() + lm_max
        px = px + lm_only_scale * (lm_token - normalizer[:, :num_symbols])
        py = py + lm_only_scale * (lm_blank - normalizer)
    if am_only_scale != 0:
        unigram = (lm_exp / lm_exp.sum(2, keepdim=True)).mean((0, 1)) + tiny
        normalizer = (am_exp @ unigram + tiny).log().unsqueeze(1) + am_max
        px = px + am_only_scale * (am_token + unigram.log()[symbols].unsqueeze(2) - normalizer)
        py = py + am_only_scale * (am_blank + unigram[blank].log() - normalizer)
    return F.pad(px, (0, 1), value=-torch.inf), py


def _require_regular(rnnt_type: str) -> None:
    if rnnt_type != "regular":
        raise ValueError(f"rnnt_type is {rnnt_type!r}: give 'regular', or set transducer_backend to k2")


def _reduce(loss: Tensor, reduction: str | None) -> Tensor:
    """The losses (N,) themselves, their mean or their sum."""
    if reduction in (None, "none"):
        return loss
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}: give none, mean or sum")
    return loss.mean() if reduction == "mean" else loss.sum()
