from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared_moe_conformer.config import DataConfig
from shared_moe_conformer.data.spec_augment import spec_augment, with_more_time_masks


def masked(num_frames: int, config: DataConfig, seed: int = 0) -> Tensor:
    """Where SpecAugment hides something, (T, F)."""
    features = torch.rand(num_frames, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = spec_augment(features, config, generator=torch.Generator().manual_seed(seed))
    changed = result != features
    assert torch.equal(result[changed], features.mean(dim=0).expand_as(features)[changed])
    return changed


@settings(max_examples=50, deadline=None)
@given(
    num_frames=st.integers(2, 300),
    count=st.integers(0, 4),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 2**40),
)
def test_time_masks_hide_whole_frames_within_their_share(
    num_frames: int, count: int, fraction: float, seed: int
) -> None:
    config = DataConfig(num_time_masks=count, max_time_mask_fraction=fraction, num_freq_masks=0)
    hidden = masked(num_frames, config, seed)
    assert torch.equal(hidden.any(1), hidden.all(1))
    assert hidden.all(1).sum() <= fraction * num_frames


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 3), widest=st.integers(0, 100), seed=st.integers(0, 2**40))
def test_frequency_masks_hide_whole_bins(count: int, widest: int, seed: int) -> None:
    config = DataConfig(num_freq_masks=count, max_freq_mask_bins=widest, num_time_masks=0)
    hidden = masked(50, config, seed)
    assert torch.equal(hidden.any(0), hidden.all(0))
    assert hidden.all(0).sum() <= min(80, count * widest)


def test_masks_reach_every_place_and_width() -> None:
    config = DataConfig(num_time_masks=1, max_time_mask_fraction=0.5, num_freq_masks=1, max_freq_mask_bins=20)
    many = torch.stack([masked(20, config, seed) for seed in range(600)])
    frames, bins = many.all(2), many.all(1)
    assert set(frames.sum(1).tolist()) == set(range(11))
    assert frames.any(0).all() and bins.any(0).all()
    assert {0, 20} <= set(bins.sum(1).tolist())


def test_the_input_stays_as_it_is_and_the_seed_decides() -> None:
    config = DataConfig()
    features = torch.randn(200, 80)
    before = features.clone()
    first, same, other = (
        spec_augment(features, config, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(features, before)
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_no_masks_change_nothing() -> None:
    features = torch.randn(100, 80)
    config = DataConfig(num_time_masks=0, num_freq_masks=0)
    assert torch.equal(spec_augment(features, config, generator=torch.Generator()), features)


def test_more_time_masks_cover_more_and_at_most_everything() -> None:
    config = DataConfig(num_time_masks=2, max_time_mask_fraction=0.15)
    more = with_more_time_masks(config, 2.5)
    assert (more.num_time_masks, more.max_time_mask_fraction) == (5, 0.375)
    assert with_more_time_masks(config, 9).max_time_mask_fraction == 1.0
