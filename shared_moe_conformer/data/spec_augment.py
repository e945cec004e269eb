"""SpecAugment: stretches of time and bands of frequency hidden from the model in training."""

from __future__ import annotations

import dataclasses

import torch
from torch import Generator, Tensor

from shared_moe_conformer.config import DataConfig


def spec_augment(features: Tensor, config: DataConfig, *, generator: Generator) -> Tensor:
    """A copy of one utterance's features (T, F) whose masks hold the utterance's mean of each mel bin.

    Each of the time masks covers a uniformly random width, up to an equal share of what they may cover together.

    Source: Park et al. 2019, SpecAugment (arXiv 1904.08779), section 2; no time warping.
    """
    num_frames, num_bins = features.shape
    masked = torch.zeros(num_frames, num_bins, dtype=torch.bool)
    if config.num_time_masks > 0:
        widest = int(config.max_time_mask_fraction * num_frames / config.num_time_masks)
        for _ in range(config.num_time_masks):
            masked[_random_stretch(num_frames, widest, generator)] = True
    for _ in range(config.num_freq_masks):
        masked[:, _random_stretch(num_bins, config.max_freq_mask_bins, generator)] = True
    return torch.where(masked, features.mean(dim=0), features)


def with_more_time_masks(config: DataConfig, ratio: float) -> DataConfig:
    """The options with `ratio` times as many time masks, which cover `ratio` times as many frames."""
    return dataclasses.replace(
        config,
        num_time_masks=round(ratio * config.num_time_masks),
        max_time_mask_fraction=min(ratio * config.max_time_mask_fraction, 1.0),
    )


def _random_stretch(size: int, widest: int, generator: Generator) -> slice:
    """A stretch of uniform width from 0 to `widest`, uniformly placed."""
    width = _random_int(min(widest, size), generator)
    start = _random_int(size - width, generator)
    return slice(start, start + width)


def _random_int(largest: int, generator: Generator) -> int:
    return int(torch.randint(largest + 1, (1,), generator=generator))
