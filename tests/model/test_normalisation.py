from __future__ import annotations

import torch
from torch import nn

from shared_moe_conformer.model.normalisation import MaskedBatchNorm


def test_without_padding_it_is_batch_norm() -> None:
    """Outputs in training, running statistics and outputs in evaluation are those of `nn.BatchNorm1d`."""
    ours, theirs = MaskedBatchNorm(4), nn.BatchNorm1d(4)
    x = torch.randn(3, 6, 4) * 2 + 1
    no_padding = torch.zeros(3, 6, dtype=torch.bool)
    torch.testing.assert_close(ours(x, no_padding), theirs(x.transpose(1, 2)).transpose(1, 2))
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x, no_padding), theirs(x.transpose(1, 2)).transpose(1, 2))


def test_padding_changes_neither_frames_nor_statistics() -> None:
    x = torch.randn(1, 6, 4)
    padded = torch.cat([x, torch.full((1, 3, 4), 100.0)], dim=1)
    norm, padded_norm = MaskedBatchNorm(4), MaskedBatchNorm(4)
    out = norm(x, torch.zeros(1, 6, dtype=torch.bool))
    padded_out = padded_norm(padded, torch.arange(9)[None] >= 6)
    torch.testing.assert_close(padded_out[:, :6], out)
    torch.testing.assert_close(padded_norm.running_var, norm.running_var)
