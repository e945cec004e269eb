"""What searches find in the padding of a batch: nothing, so that batch-mates never change an utterance's result."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_frames(encoder_out: Tensor, encoder_out_lens: Tensor) -> Tensor:
    """True where a frame of (N, T, C) belongs to its utterance, (N, T)."""
    return torch.arange(encoder_out.size(1), device=encoder_out.device) < encoder_out_lens.unsqueeze(1)


def only_blank_in_padding(log_probs: Tensor, valid: Tensor, *, blank_id: int = 0) -> Tensor:
    """Log-probabilities (..., V) in which blank is certain wherever `valid`, (...), is False."""
    padding = torch.full_like(log_probs[..., :1, :], -torch.inf)
    padding[..., blank_id] = 0.0
    return log_probs.where(valid.unsqueeze(-1), padding)
