from __future__ import annotations

import torch
from torch import nn

from shared_moe_conformer.model.frames import Frames
from shared_moe_conformer.model.norms import MaskedBatchNorm


def test_without_padding_it_is_batch_norm() -> None:
    """Outputs in training, running statistics and outputs in evaluation are those of `nn.BatchNorm1d`."""
    ours, theirs = MaskedBatchNorm(4), nn.BatchNorm1d(4)
    x = torch.randn(3, 6, 4) * 2 + 1
    no_padding = Frames(torch.tensor([6, 6, 6]), 6, head_dim=2)
    torch.testing.assert_close(ours(x, no_padding), theirs(x.transpose(1, 2)).transpose(1, 2))
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x, no_padding), theirs(x.transpose(1, 2)).transpose(1, 2))


def test_padding_changes_neither_frames_nor_statistics() -> None:
    x = torch.randn(1, 6, 4)
    padded = torch.cat([x, torch.full((1, 3, 4), 100.0)], dim=1)
    norm, padded_norm = MaskedBatchNorm(4), MaskedBatchNorm(4)
    out = norm(x, Frames(torch.tensor([6]), 6, head_dim=2))
    padded_out = padded_norm(padded, Frames(torch.tensor([6]), 9, head_dim=2))
    torch.testing.assert_close(padded_out[:, :6], out)
    torch.testing.assert_close(padded_norm.running_var, norm.running_var)


def test_one_valid_frame_is_normalised_as_in_evaluation_and_counts_nothing() -> None:
    norm, x = MaskedBatchNorm(4), torch.randn(1, 3, 4, requires_grad=True)
    norm(torch.randn(2, 6, 4), Frames(torch.tensor([6, 6]), 6, head_dim=2))
    mean = norm.running_mean.clone()
    out = norm(x, Frames(torch.tensor([1]), 3, head_dim=2))
    out.sum().backward()
    assert torch.equal(norm.running_mean, mean) and x.grad is not None and x.grad.isfinite().all()
    torch.testing.assert_close(out[:, 0], norm.eval()(x[:, :1], Frames(torch.tensor([1]), 1, head_dim=2))[:, 0])


def test_layers_that_share_a_norm_are_evaluated_by_their_own_statistics() -> None:
    norm, frames = MaskedBatchNorm(4, num_layers=2, momentum=1.0), Frames(torch.tensor([50]), 50, head_dim=2)
    inputs = torch.randn(1, 50, 4), torch.randn(1, 50, 4) * 5 + 3
    trained = [norm(x, frames, depth) for depth, x in enumerate(inputs)]
    norm.eval()
    for depth, x in enumerate(inputs):
        torch.testing.assert_close(norm(x, frames, depth), trained[depth], rtol=0.02, atol=0.02)


def test_statistics_of_a_model_that_had_one_for_all_layers_become_those_of_each() -> None:
    old, norm = MaskedBatchNorm(4), MaskedBatchNorm(4, num_layers=3)
    old.running_mean += torch.arange(4)
    norm.load_state_dict(old.state_dict())
    assert torch.equal(norm.running_mean, torch.arange(4.0).expand(3, 4))
