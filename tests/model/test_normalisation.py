from __future__ import annotations

import torch
from torch import nn

from shared_moe_conformer.model.normalisation import FeatureNorm, MaskedBatchNorm, feature_totals


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


def test_one_valid_frame_is_normalised_as_in_evaluation_and_counts_nothing() -> None:
    norm, x = MaskedBatchNorm(4), torch.randn(1, 3, 4, requires_grad=True)
    norm(torch.randn(2, 6, 4), torch.zeros(2, 6, dtype=torch.bool))
    mean = norm.running_mean.clone()
    out = norm(x, torch.tensor([[False, True, True]]))
    out.sum().backward()
    assert torch.equal(norm.running_mean, mean) and x.grad is not None and x.grad.isfinite().all()
    torch.testing.assert_close(out[:, 0], norm.eval()(x[:, :1], torch.zeros(1, 1, dtype=torch.bool))[:, 0])


def test_features_are_normalised_by_the_statistics_of_all_frames_seen() -> None:
    norm = FeatureNorm(4)
    batches = [torch.randn(2, num_frames, 4) * 3 - 5 for num_frames in (6, 9, 50)]
    first, *others = (feature_totals(x, torch.tensor([x.size(1), 4])) for x in batches)
    norm.count(first)
    norm.count(sum(others))
    seen = torch.cat([frames for x in batches for frames in (x[0], x[1, :4])])
    torch.testing.assert_close(norm.mean, seen.mean(dim=0))
    torch.testing.assert_close(norm.variance, seen.var(dim=0, unbiased=False))
    torch.testing.assert_close(norm(seen).std(dim=0, unbiased=False), torch.ones(4), rtol=1e-2, atol=0)


def test_evaluation_and_frozen_parts_count_nothing_and_nothing_counts_nothing() -> None:
    norm = FeatureNorm(4)
    norm.count(torch.zeros(9, dtype=torch.float64))
    norm.eval().count(feature_totals(torch.randn(2, 9, 4), torch.tensor([9, 5])))
    assert norm.num_frames == 0 and norm.mean.tolist() == [0] * 4 and norm.variance.tolist() == [1] * 4


def test_a_bin_that_never_changes_is_not_amplified() -> None:
    norm = FeatureNorm(1)
    norm.count(feature_totals(torch.full((1, 50, 1), -15.9), torch.tensor([50])))
    y = norm(torch.full((1, 1, 1), -15.8))
    assert 0 < y.item() < 1.1
