from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from shared_moe_conformer.config import MIN_NUM_FRAMES, subsampled_length
from shared_moe_conformer.model.frontend import Conv2dSubsampling, FeatureNorm, loudness


@pytest.mark.parametrize("num_frames", [7, 8, 10, 11, 40, 123])
def test_length_is_the_one_that_the_convolutions_give(num_frames: int) -> None:
    module = Conv2dSubsampling(80, 16, channels=4)
    x, lens = module(torch.randn(2, num_frames, 80), torch.tensor([num_frames, 7]))
    assert x.shape == (2, subsampled_length(num_frames), 16)
    assert lens.tolist() == [subsampled_length(num_frames), 1]


def test_fewer_frames_than_the_convolutions_need_give_none() -> None:
    assert subsampled_length(MIN_NUM_FRAMES) == 1
    assert subsampled_length(MIN_NUM_FRAMES - 1) == 0
    assert subsampled_length(torch.tensor([0, 6, 7])).tolist() == [0, 0, 1]
    _, lens = Conv2dSubsampling(80, 16, channels=4)(torch.randn(1, 3, 80), torch.tensor([3]))
    assert lens.tolist() == [0]


def test_valid_frames_see_no_padding() -> None:
    module = Conv2dSubsampling(80, 16, channels=4)
    x = torch.randn(1, 40, 80, requires_grad=True)
    out, lens = module(x, torch.tensor([30]))
    out[0, : lens[0]].sum().backward()
    assert x.grad is not None and x.grad[0, 30:].abs().max() == 0
    assert x.grad[0, :27].abs().sum(dim=-1).min() > 0


def test_features_are_normalised_by_the_statistics_of_all_frames_seen() -> None:
    norm = FeatureNorm(4)
    batches = [torch.randn(2, num_frames, 4) * 3 - 5 for num_frames in (6, 9, 50)]
    for update in (batches[:1], batches[1:]):
        norm.count(sum(norm.totals(x, torch.tensor([x.size(1), 4])) for x in update))
    seen = torch.cat([frames for x in batches for frames in (x[0], x[1, :4])])
    torch.testing.assert_close(norm.mean, seen.mean(dim=0))
    torch.testing.assert_close(norm.variance, seen.var(dim=0, unbiased=False))
    torch.testing.assert_close(
        norm(seen[None], torch.tensor([len(seen)]))[0].std(dim=0, unbiased=False), torch.ones(4), rtol=1e-2, atol=0
    )


def test_evaluation_and_frozen_parts_count_nothing_and_nothing_counts_nothing() -> None:
    norm = FeatureNorm(4)
    norm.count(torch.zeros(9, dtype=torch.float64))
    norm.eval().count(norm.totals(torch.randn(2, 9, 4), torch.tensor([9, 5])))
    assert norm.num_frames == 0 and norm.mean.tolist() == [0] * 4 and norm.variance.tolist() == [1] * 4


def test_a_bin_that_never_changes_is_not_amplified() -> None:
    norm = FeatureNorm(1)
    norm.count(norm.totals(torch.full((1, 50, 1), -15.9), torch.tensor([50])))
    y = norm(torch.full((1, 1, 1), -15.8), torch.tensor([1]))
    assert 0 < y.item() < 1.1


def test_only_sums_of_utterances_are_float64() -> None:
    """A GPU computes float64 at a fraction of float32's speed."""

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dtype == torch.float64:
                self.size = max(self.size, out.numel())
            return out

    norm, x = FeatureNorm(20), torch.randn(3, 50, 20)
    with Largest() as largest:
        norm.totals(x, torch.tensor([50, 40, 30]))
    assert largest.size == 3 * 2 * 20


def test_a_gain_changes_nothing_once_utterances_have_the_same_loudness() -> None:
    norm = FeatureNorm(5, by_loudness=True)
    x, x_lens = torch.randn(3, 40, 5), torch.tensor([40, 25, 0])
    gains = torch.tensor([-7.0, 3.0, 0.0]).view(3, 1, 1)
    norm.count(norm.totals(x, x_lens))
    torch.testing.assert_close(norm(x + gains, x_lens), norm(x, x_lens))
    torch.testing.assert_close(norm.totals(x + gains, x_lens), norm.totals(x, x_lens), rtol=1e-4, atol=1e-4)
    alone = norm(x[1:2, :25], x_lens[1:2])  # without the padding
    torch.testing.assert_close(norm(x, x_lens)[1:2, :25], alone)


def test_loudness_is_that_of_the_mean_energy() -> None:
    energies = torch.rand(2, 30, 4) + 0.1
    found = loudness(energies.log(), torch.tensor([30, 12]))
    torch.testing.assert_close(found.flatten(), torch.stack([energies[0].mean(), energies[1, :12].mean()]).log())
