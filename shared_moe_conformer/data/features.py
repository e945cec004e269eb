"""From samples to log mel filter banks: the one definition that preparation and recognition share."""

from __future__ import annotations

import functools
import importlib.util

import numpy as np
import torch
from lhotse import Fbank, FbankConfig, FeatureExtractor
from lhotse.augmentation import Resample
from torch import Tensor, nn

from shared_moe_conformer.config import FRAME_LENGTH, FeatureConfig, require


def feature_extractor(config: FeatureConfig) -> FeatureExtractor:
    """Lhotse's extractor of Kaldi-compatible filter banks that the config asks for.

    Raises:
      ValueError: kaldifeat is asked for and not installed.
    """
    return {"lhotse": _lhotse_fbank, "kaldifeat": _kaldifeat_fbank}[config.feature_extractor](config)


def filter_banks(config: FeatureConfig) -> nn.Module:
    """The network of Lhotse's extractor, which TorchScript can hold: samples (N, num_samples) to features (N, T, F)."""
    return _lhotse_fbank(config).extractor


def compute_features(samples: np.ndarray, sampling_rate: int, config: FeatureConfig) -> Tensor:
    """Features of one recording, (T, F), as `store_features` computes them.

    Args:
      samples: one channel, (num_samples,), from -1 to 1.
      sampling_rate: of the samples, in Hz; they are resampled to the config's.

    Raises:
      ValueError: several channels, or less than a frame.
    """
    require(samples.ndim == 1, f"samples of shape {samples.shape}: give one channel, (num_samples,)")
    require(
        len(samples) >= FRAME_LENGTH * sampling_rate,
        f"{len(samples)} samples at {sampling_rate} Hz: the recording is shorter than a frame, {FRAME_LENGTH} s",
    )
    resampled = resample(samples, sampling_rate, config.sampling_rate)
    features = _cached_extractor(config).extract(resampled, config.sampling_rate)
    return torch.as_tensor(features)


def resample(samples: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Samples (num_samples,) at another rate, as Lhotse's `Recording.resample` computes them."""
    channels = np.ascontiguousarray(samples, dtype=np.float32)[None]
    return np.asarray(Resample(source_rate, target_rate)(channels))[0]


@functools.lru_cache(maxsize=8)
def _cached_extractor(config: FeatureConfig) -> FeatureExtractor:
    return feature_extractor(config)


def _lhotse_fbank(config: FeatureConfig) -> Fbank:
    return Fbank(FbankConfig(sampling_rate=config.sampling_rate, num_mel_bins=config.num_mel_bins))


def _kaldifeat_fbank(config: FeatureConfig) -> FeatureExtractor:
    require(
        importlib.util.find_spec("kaldifeat") is not None,
        "kaldifeat is not installed: run `make kaldifeat`, or --feature-extractor lhotse",
    )
    from lhotse.features.kaldifeat import (
        KaldifeatFbank,
        KaldifeatFbankConfig,
        KaldifeatFrameOptions,
        KaldifeatMelOptions,
    )

    return KaldifeatFbank(
        KaldifeatFbankConfig(
            frame_opts=KaldifeatFrameOptions(sampling_rate=config.sampling_rate),
            mel_opts=KaldifeatMelOptions(num_bins=config.num_mel_bins),
        )
    )
