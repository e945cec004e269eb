"""Noise that is added to utterances in training, another one at each visit, in the domain of log mel features."""

from __future__ import annotations

import math

import torch
from lhotse import CutSet
from torch import Generator, Tensor

from shared_moe_conformer.config import DataConfig


class NoiseMixer:
    """Adds stretches of recorded noise, of which only the features are used: a text that they may have says nothing."""

    def __init__(self, cuts: CutSet, config: DataConfig) -> None:
        """Nothing is read yet.

        Args:
          cuts: noises with features.
          config: how often noise is added, and how loud.
        """
        self.cuts = list(cuts)
        self.config = config

    def __call__(self, features: Tensor, *, generator: Generator) -> Tensor:
        """One utterance's features (T, F), with noise or as they are."""
        if float(torch.rand((), generator=generator)) >= self.config.noise_probability:
            return features
        low, high = self.config.noise_snr
        snr = low + (high - low) * float(torch.rand((), generator=generator))
        return mix(features, self._noise(len(features), generator), snr=snr)

    def _noise(self, num_frames: int, generator: Generator) -> Tensor:
        """So many frames of noises drawn at random, one after the other, the last one cut off."""
        parts: list[Tensor] = []
        while (missing := num_frames - sum(map(len, parts))) > 0:
            cut = self.cuts[_random_int(len(self.cuts), generator)]
            noise = torch.from_numpy(cut.load_features())
            start = _random_int(max(len(noise) - missing, 0) + 1, generator)
            parts.append(noise[start : start + missing])
        return torch.cat(parts)


def mix(speech: Tensor, noise: Tensor, *, snr: float) -> Tensor:
    """Log mel energies (T, F) of the sum of two signals, the noise scaled to a ratio of energies.

    Phases are taken as unrelated, so that energies add. Source: Lhotse, FeatureMixer and Fbank.mix.

    Args:
      speech: (T, F).
      noise: (T, F).
      snr: energy of the speech over that of the scaled noise, in decibel.
    """
    gain = _log_energy(speech) - _log_energy(noise) - snr / 10 * math.log(10)
    return torch.logaddexp(speech, noise + gain)


def _log_energy(features: Tensor) -> Tensor:
    return torch.logsumexp(features.flatten(), dim=0)


def _random_int(count: int, generator: Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))
