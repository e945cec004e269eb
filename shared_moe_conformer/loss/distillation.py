"""Distances of a model from a teacher whose frames it should imitate; sums over valid frames, as the other losses are.

Source: that a full-size teacher guides the shared model is the idea of Bai et al. 2022 (arXiv 2209.08326, abstract);
their formulas could not be looked up, and those here need not be theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_PROBABILITY = 1e-6


def hidden_distance(encoder_out: Tensor, teacher_out: Tensor, lens: Tensor) -> Tensor:
    """Squared distance of encoder frames, averaged over channels and summed over valid frames.

    Args:
      encoder_out: the model's, (N, T, C).
      teacher_out: the teacher's, (N, T, C), without gradient.
      lens: valid frames, (N,).
    """
    squares = (encoder_out.float() - teacher_out.float()).square().mean(dim=-1)
    return squares[_valid(squares, lens)].sum()


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


def arc_divergence(log_probs: Tensor, teacher_log_probs: Tensor, tokens: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the joiner's choices from the teacher's, averaged over lattice positions.

    The vocabulary is collapsed to three: the token that is next in the transcript, blank, and the rest.

    Source: Panchapagesan et al. 2021, Efficient knowledge distillation for RNN-transducer models, section 3 (arXiv
    2011.06110); there over the whole lattice, here over the positions that pruning keeps.

    Args:
      log_probs: the model's, of the next token and of blank, (R, 2).
      teacher_log_probs: the teacher's, (R, 2), without gradient.
      tokens: the next token, (R,); 0, the blank, where the transcript has ended and there is none.
    """
    ours, theirs = (_three_choices(x.float(), tokens) for x in (log_probs, teacher_log_probs))
    return (theirs * (theirs.log() - ours.log())).sum(dim=1).mean()


def _three_choices(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """Probabilities (R, 3) of the next token, of blank and of the rest; none is quite 0."""
    token, blank = log_probs.exp().unbind(1)
    token = token.masked_fill(tokens == 0, 0.0)
    return torch.stack([token, blank, 1 - token - blank], dim=1).clamp(min=SMALLEST_PROBABILITY)


def _valid(x: Tensor, lens: Tensor) -> Tensor:
    return torch.arange(x.size(1), device=x.device) < lens.unsqueeze(1)
