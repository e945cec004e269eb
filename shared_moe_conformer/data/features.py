"""Log mel filter banks of a recording, whole or as it comes; preparation and recognition share this definition."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from lhotse import Fbank, FbankConfig, FeatureExtractor
from lhotse.augmentation import Resample
from lhotse.cut import Cut
from torch import Tensor, nn

from shared_moe_conformer.config import FRAME_LENGTH, FRAME_SHIFT, FRAMES_PER_SECOND, FeatureConfig, require
from shared_moe_conformer.text import first_line

DIGITAL_SILENCE = math.log(torch.finfo(torch.float32).eps)
"""The feature of samples that are 0. Source: Kaldi, feature-fbank.cc: energies are floored at float32's epsilon."""
FILTER_REACH = 10
"""Inputs, or outputs if they are fewer, on both sides of an output that it depends on.

Source: scipy.signal.resample_poly, which Lhotse takes; torchaudio's filter, which it takes where there is one, is
shorter.
"""
CONTEXT = 2
"""Frames before the new ones that are computed again, so that the extractor's own edge touches none of the new."""


@functools.lru_cache(maxsize=8)
def feature_extractor(config: FeatureConfig) -> FeatureExtractor:
    """Lhotse's extractor of Kaldi-compatible filter banks that the config asks for.

    Raises:
      ValueError: kaldifeat is asked for and not installed.
    """
    return _lhotse_fbank(config) if config.feature_extractor == "lhotse" else _kaldifeat_fbank(config)


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
    return torch.as_tensor(feature_extractor(config).extract(resampled, config.sampling_rate))


def features_of(cut: Cut, config: FeatureConfig) -> Tensor:
    """Features (T, F) of a cut, stored or else computed from its recording as `store_features` does.

    Raises:
      ValueError: they cannot be read, or computed from the recording.
    """
    with readable(cut):
        if cut.has_features:
            return torch.from_numpy(cut.load_features())
        at_rate = cut if cut.sampling_rate == config.sampling_rate else cut.resample(config.sampling_rate)
        return torch.as_tensor(at_rate.compute_features(feature_extractor(config)))


@contextmanager
def readable(cut: Cut) -> Iterator[None]:
    """Raise `ValueError`, with the cut's name, in place of any error of the block."""
    try:
        yield
    except Exception as error:  # audio backends and storages have their own
        raise ValueError(f"cut {cut.id} cannot be read: {first_line(error)}") from error


def resample(samples: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Samples (num_samples,) at another rate, as Lhotse's `Recording.resample` computes them."""
    channels = np.ascontiguousarray(samples, dtype=np.float32)[None]
    return np.asarray(Resample(source_rate, target_rate)(channels))[0]


def _lhotse_fbank(config: FeatureConfig) -> Fbank:
    return Fbank(FbankConfig(sampling_rate=config.sampling_rate, num_mel_bins=config.num_mel_bins))


def _kaldifeat_fbank(config: FeatureConfig) -> FeatureExtractor:
    require(
        importlib.util.find_spec("kaldifeat") is not None,
        "kaldifeat is not installed: run `make kaldifeat`, or --feature-extractor lhotse",
    )
    from lhotse.features import kaldifeat

    frames = kaldifeat.KaldifeatFrameOptions(sampling_rate=config.sampling_rate)
    mels = kaldifeat.KaldifeatMelOptions(num_bins=config.num_mel_bins)
    return kaldifeat.KaldifeatFbank(kaldifeat.KaldifeatFbankConfig(frame_opts=frames, mel_opts=mels))


class LiveFeatures:
    """Features (T, F) of one channel that comes in parts, at any sampling rate.

    A frame depends on the samples around it alone. So the last samples are kept, and resampled and computed again with
    the next part; those frames are returned that no edge of the kept samples touches.
    """

    def __init__(self, config: FeatureConfig, sampling_rate: int) -> None:
        """Samples will come at `sampling_rate`, in Hz."""
        require(1 <= sampling_rate <= 1_000_000, f"sampling_rate is {sampling_rate} Hz: give that of the samples")
        self.sampling_rate = sampling_rate
        self._config = config
        self._shift = round(FRAME_SHIFT * config.sampling_rate)
        self._window_reach = round((FRAME_LENGTH + FRAME_SHIFT) / 2 * config.sampling_rate)
        """Samples, after resampling, from where a frame's shift begins to where its window ends."""
        divisor = math.gcd(sampling_rate, config.sampling_rate)
        self._down, self._up = sampling_rate // divisor, config.sampling_rate // divisor
        is_resampled = self._down != self._up
        self._filter_reach = math.ceil(FILTER_REACH * max(1, self._down / self._up)) + 1 if is_resampled else 0
        self._context = CONTEXT + math.ceil(self._filter_reach * FRAMES_PER_SECOND / sampling_rate)
        step = math.lcm(self._shift, self._up)
        self._step = step // self._shift, step // self._up * self._down
        """A number of frames, and the number of samples in the same time; after it both begin together again."""
        self._samples = np.zeros(0, dtype=np.float32)
        self._first = self._next = 0  # frame at which the samples begin, and the next to return

    def accept(self, samples: np.ndarray) -> Tensor:
        """The frames that the next samples, (num_samples,) from -1 to 1, make certain.

        Raises:
          ValueError: several channels, or samples that are no numbers.
        """
        require(samples.ndim == 1, f"samples of shape {samples.shape}: give one channel, (num_samples,)")
        require(bool(np.isfinite(samples).all()), "there are infinite or undefined samples: give them from -1 to 1")
        self._samples = np.concatenate([self._samples, samples])
        certain = max(self._num_samples - self._filter_reach, 0) * self._up // self._down
        return self._frames(up_to=(certain - self._window_reach) // self._shift + 1)

    def finish(self) -> Tensor:
        """The last frames, whose windows are mirrored at the end; as many as the whole recording has."""
        num_resampled = -(-self._num_samples * self._up // self._down)
        is_enough = num_resampled >= FRAME_LENGTH * self._config.sampling_rate
        return self._frames(up_to=(num_resampled + self._shift // 2) // self._shift if is_enough else 0)

    @property
    def _num_samples(self) -> int:
        """All that have come."""
        frames, samples = self._step
        return self._first // frames * samples + len(self._samples)

    def _frames(self, *, up_to: int) -> Tensor:
        if up_to <= self._next:
            return torch.zeros(0, self._config.num_mel_bins)
        rate, samples = self._config.sampling_rate, self._samples
        resampled = samples if self.sampling_rate == rate else resample(samples, self.sampling_rate, rate)
        features = torch.as_tensor(feature_extractor(self._config).extract(resampled, rate))
        new = features[self._next - self._first : up_to - self._first]
        self._next = up_to
        step, step_samples = self._step
        first = max(up_to - self._context, 0) // step * step
        self._samples = samples[(first - self._first) // step * step_samples :]
        self._first = first
        return new
