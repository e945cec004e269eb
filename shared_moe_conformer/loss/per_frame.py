"""Losses frame by frame: CTC, and the distances from a teacher or from another copy of the utterance.

All are sums over valid frames or over utterances.

Source: Bai et al. 2022 (arXiv 2209.08326, abstract) have a full-size teacher guide the shared model; their formulas
could not be looked up, and those here need not be theirs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_moe_conformer.loss.pruned_transducer import TeacherJoiner


class TeacherOutput(NamedTuple):
    """A teacher's output for a batch, without gradient."""

    encoder_out: Tensor
    """(N, T', C)."""
    ctc_log_probs: Tensor
    """(N, T', V)."""
    group_ends: dict[int, Tensor]
    """(N, T', C) after the last layer of each group, by its depth."""
    joiner: TeacherJoiner | None = None
    """None: not to be imitated."""


def ctc_loss(log_probs: Tensor, lens: Tensor, y: Tensor, y_lens: Tensor) -> Tensor:
    """Negative log-probability of the tokens by CTC, summed over utterances; blank is 0.

    An utterance with too few frames for its tokens (one each, and one more between two equal ones) counts as 0.

    Args:
      log_probs: log-softmax, (N, T, V); half precision is computed in float32.
      lens: valid frames, (N,).
      y: tokens, (N, U).
      y_lens: valid tokens, (N,).

    Source: Graves et al. 2006, Connectionist Temporal Classification.
    """
    log_probs = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32)).transpose(0, 1)
    losses = F.ctc_loss(log_probs, y, lens.clamp(min=1), y_lens, blank=0, reduction="none", zero_infinity=True)
    return losses.masked_fill(lens == 0, 0.0).sum()  # torch 1.13 reads beyond an utterance without frames


def hidden_distance(encoder_out: Tensor, teacher_out: Tensor, lens: Tensor) -> Tensor:
    """Squared distance of encoder frames, averaged over channels and summed over valid frames.

    Args:
      encoder_out: the model's, (N, T, C).
      teacher_out: the teacher's, (N, T, C), without gradient.
      lens: valid frames, (N,).
    """
    squares = (encoder_out.float() - teacher_out.float()).square().mean(dim=-1)
    return squares[_valid(squares, lens)].sum()


def distance_at_ends(ends: dict[int, Tensor], teacher_ends: dict[int, Tensor], lens: Tensor) -> Tensor:
    """The hidden distance after the layers at which groups of both end, averaged; after the last, if depths differ.

    Args:
      ends: frames (N, T, C) after the last layer of each group, by its depth.
      teacher_ends: the teacher's, without gradient.
      lens: valid frames, (N,).
    """
    pairs = [(ends[depth], teacher_ends[depth]) for depth in ends if depth in teacher_ends]
    if max(ends) != max(teacher_ends):
        pairs = [(ends[max(ends)], teacher_ends[max(teacher_ends)])]
    return torch.stack([hidden_distance(ours, theirs, lens) for ours, theirs in pairs]).mean()


def ctc_divergence(log_probs: Tensor, teacher_log_probs: Tensor, lens: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the model's CTC posteriors from the teacher's, summed over valid frames.

    Source: Hinton et al. 2015, Distilling the knowledge in a neural network (arXiv 1503.02531), at temperature 1.

    Args:
      log_probs: the model's, (N, T, V).
      teacher_log_probs: the teacher's, (N, T, V), without gradient.
      lens: valid frames, (N,).
    """
    log_probs, teacher_log_probs = log_probs.float(), teacher_log_probs.float()
    divergences = (teacher_log_probs.exp() * (teacher_log_probs - log_probs)).sum(dim=-1)
    return divergences[_valid(divergences, lens)].sum()


def consistency(log_probs: Tensor, lens: Tensor) -> Tensor:
    """Divergence of each copy's CTC posteriors from those of the other copy, summed over the valid frames of both.

    The other copy's posteriors are a target without gradient.

    Source: Yao et al. 2024, CR-CTC: consistency regularization on CTC (arXiv 2410.05101); there half of this sum counts
    per utterance, as it does here in the mean over the frames of both copies.

    Args:
      log_probs: of the first copy of the utterances, then of the second, (2N, T, V).
      lens: valid frames, (2N,).
    """
    return ctc_divergence(log_probs, log_probs.detach().roll(len(lens) // 2, dims=0), lens)


def _valid(x: Tensor, lens: Tensor) -> Tensor:
    return torch.arange(x.size(1), device=x.device) < lens.unsqueeze(1)
