"""Log mel filter banks of one recording, whole or as it comes; preparation and recognition share this definition."""

from __future__ import annotations

import functools
import importlib.util
import math

import numpy as np
import torch
from lhotse import Fbank, FbankConfig, FeatureExtractor
from lhotse.augmentation import Resample
from lhotse.cut import Cut
from torch import Tensor, nn

from shared_moe_conformer.config import FRAME_LENGTH, FRAME_SHIFT, FeatureConfig, require

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
    """Features of one recording, (T, F), as `feature_files.store_features` computes them.

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
    """Features (T, F) of a cut, stored or else computed from its recording as `feature_files.store_features` does."""
    if cut.has_features:
        return torch.from_numpy(cut.load_features())
    at_rate = cut if cut.sampling_rate == config.sampling_rate else cut.resample(config.sampling_rate)
    return torch.as_tensor(at_rate.compute_features(feature_extractor(config)))


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


class LiveResampler:
    """Samples at another rate, part by part; together they are those of `data.features.resample`.

    An output depends on the inputs around it alone. So the last inputs are kept and resampled again with the next
    part, and of the outputs those are returned that no kept or missing input's edge touches.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self._rates = source_rate, target_rate
        divisor = math.gcd(source_rate, target_rate)
        self._down, self._up = source_rate // divisor, target_rate // divisor
        self._reach = math.ceil(FILTER_REACH * max(1, self._down / self._up)) + 1
        self._inputs = np.zeros(0, dtype=np.float32)
        self._first = self._next = 0  # input at which those that are kept begin, and the next output to return

    def accept(self, samples: np.ndarray) -> np.ndarray:
        """The outputs that the next samples, (num_samples,), make certain."""
        if self._down == self._up:
            return samples
        self._inputs = np.concatenate([self._inputs, samples.astype(np.float32)])
        num_certain = self._first + len(self._inputs) - self._reach
        return self._outputs(up_to=max(num_certain, 0) * self._up // self._down)

    def finish(self) -> np.ndarray:
        """The last outputs; after the end there is silence."""
        if self._down == self._up:
            return np.zeros(0, dtype=np.float32)
        return self._outputs(up_to=-(-(self._first + len(self._inputs)) * self._up // self._down))

    def _outputs(self, *, up_to: int) -> np.ndarray:
        if up_to <= self._next:
            return np.zeros(0, dtype=np.float32)
        first_output = self._first // self._down * self._up
        new = resample(self._inputs, *self._rates)[self._next - first_output : up_to - first_output]
        self._next = up_to
        seen = up_to * self._down // self._up - self._reach  # the first input that the next output depends on
        first = max(seen // self._down * self._down, self._first)
        self._inputs = self._inputs[first - self._first :]
        self._first = first
        return new


class LiveFeatures:
    """Features (T, F) of one channel that comes in parts."""

    def __init__(self, config: FeatureConfig, sampling_rate: int) -> None:
        """Samples will come at `sampling_rate`, in Hz."""
        require(1 <= sampling_rate <= 1_000_000, f"sampling_rate is {sampling_rate} Hz: give that of the samples")
        self.sampling_rate = sampling_rate
        self._config = config
        self._extractor = feature_extractor(config)
        self._resampler = LiveResampler(sampling_rate, config.sampling_rate)
        self._shift = round(FRAME_SHIFT * config.sampling_rate)
        self._reach = round((FRAME_LENGTH + FRAME_SHIFT) / 2 * config.sampling_rate)
        """Samples from where a frame's shift begins to where its window ends."""
        self._samples = np.zeros(0, dtype=np.float32)
        self._first = self._next = 0  # frame at which the samples begin, and the next to return

    def accept(self, samples: np.ndarray) -> Tensor:
        """The frames that the next samples, (num_samples,) from -1 to 1, make certain.

        Raises:
          ValueError: several channels, or samples that are no numbers.
        """
        require(samples.ndim == 1, f"samples of shape {samples.shape}: give one channel, (num_samples,)")
        require(bool(np.isfinite(samples).all()), "there are infinite or undefined samples: give them from -1 to 1")
        self._samples = np.concatenate([self._samples, self._resampler.accept(samples)])
        num_samples = self._first * self._shift + len(self._samples)
        return self._frames(up_to=(num_samples - self._reach) // self._shift + 1)

    def finish(self) -> Tensor:
        """The last frames, whose windows are mirrored at the end; as many as the whole recording has."""
        self._samples = np.concatenate([self._samples, self._resampler.finish()])
        num_samples = self._first * self._shift + len(self._samples)
        if num_samples < FRAME_LENGTH * self._config.sampling_rate:
            return torch.zeros(0, self._config.num_mel_bins)
        return self._frames(up_to=(num_samples + self._shift // 2) // self._shift)

    def _frames(self, *, up_to: int) -> Tensor:
        if up_to <= self._next:
            return torch.zeros(0, self._config.num_mel_bins)
        features = torch.as_tensor(self._extractor.extract(self._samples, self._config.sampling_rate))
        new = features[self._next - self._first : up_to - self._first]
        self._next = up_to
        first = max(up_to - CONTEXT, 0)
        self._samples = self._samples[(first - self._first) * self._shift :]
        self._first = first
        return new
