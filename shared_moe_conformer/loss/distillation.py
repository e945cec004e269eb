"""How far a model is from a teacher whose frames it should imitate; sums over valid frames, as the other losses are.

Source: Bai et al. 2022, section 2.4 (arXiv 2209.08326): a full-size teacher's hidden embeddings guide the shared model.
"""

from __future__ import annotations

import torch
from torch import Tensor


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


def _valid(x: Tensor, lens: Tensor) -> Tensor:
    return torch.arange(x.size(1), device=x.device) < lens.unsqueeze(1)
