"""Conditions that training utterances are recorded under: rooms, noises, bands and levels, made on log mel features.

Features are what a prepared corpus has, so nothing here reads audio or computes a filter bank, noises excepted:

* a gain adds a constant;
* noise adds its energies, as if phases were unrelated; a stretch of true noise's features is taken;
* a room spreads energies over the frames that follow;
* above a band there is digital silence.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from lhotse import MonoCut
from scipy.signal import lfilter
from torch import Generator, Tensor

from shared_moe_conformer.config import FRAME_SHIFT, FRAMES_PER_SECOND, DataConfig, FeatureConfig
from shared_moe_conformer.data.augment import DIGITAL_SILENCE, Example, happens, mix, uniform
from shared_moe_conformer.data.distortions import TALKERS, Setting, hum, pink_noise, white_noise
from shared_moe_conformer.data.features import compute_features, features_of

NOISE_SECONDS = 60
"""Duration of each noise; utterances get stretches of it."""
SIGNALS = {"white": white_noise, "pink": pink_noise, "hum": hum}
NEPERS = math.log(10) / 10
"""Natural logarithm of the energy that is one decibel."""
PREEMPHASIS = 0.97
"""The features' pre-emphasis. Source: Kaldi, feature-window.h."""
LOWEST_MEL, HIGHEST_BELOW_NYQUIST = 20.0, 400.0
"""Hz at which the mel filters begin, and Hz below half the sampling rate at which they end (lhotse.FbankConfig)."""


class Cuts(Protocol):
    """A split's cuts (`StoredCuts`, or a list)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> MonoCut: ...


@dataclass
class Conditions:
    """Draws the conditions of an utterance; an option whose probability is 0 draws nothing."""

    config: DataConfig
    features: FeatureConfig
    noises: Sequence[Tensor]
    """Features (T, F) of each noise."""

    @classmethod
    def of(cls, config: DataConfig, features: FeatureConfig, cuts: Cuts) -> Conditions | None:
        """The conditions that a config asks for, with its noises made; None where it asks for none.

        Args:
          config: the options.
          features: of the corpus.
          cuts: the training split, of which babble is made.
        """
        needs_noise = config.made_noise_probability or config.noise_alone_probability
        if not (needs_noise or config.gain_probability or config.reverb_probability or config.band_limit_probability):
            return None
        makers = {name: functools.partial(noise_features, name) for name in SIGNALS}
        makers["babble"] = functools.partial(babble_features, cuts)
        return cls(config, features, [makers[name](features) for name in config.made_noises if needs_noise])

    def __call__(self, example: Example, generator: Generator) -> Example:
        """An utterance in a room, with noise, through a band, at a level; or noise alone in its place."""
        config, x = self.config, example.features
        if happens(config.noise_alone_probability, generator):
            example, x = example._replace(tokens=[], text=""), self._noise_like(x, generator)
        else:
            if happens(config.reverb_probability, generator):
                x = reverberated(x, uniform(config.reverb_time, generator))
            if happens(config.made_noise_probability, generator):
                noise = self._stretch(len(x), generator)
                snr = uniform(config.made_noise_snr, generator)
                x = mix(x, noise, snr=snr, log_weights=log_power_weights(self.features))
        if happens(config.band_limit_probability, generator):
            x = band_limited(x, uniform(config.band_limit, generator), self.features)
        if happens(config.gain_probability, generator):
            x = x + NEPERS * uniform(config.gain_range, generator)
        return example._replace(features=x.clamp(min=DIGITAL_SILENCE) if x is not example.features else x)

    def _noise_like(self, features: Tensor, generator: Generator) -> Tensor:
        """Noise as long as an utterance, below its level by one of the ratios of speech to noise."""
        noise = self._stretch(len(features), generator)
        levels = (_log_power(x, log_power_weights(self.features)) for x in (features, noise))
        speech_level, noise_level = levels
        return noise + (speech_level - noise_level - NEPERS * uniform(self.config.made_noise_snr, generator))

    def _stretch(self, num_frames: int, generator: Generator) -> Tensor:
        """Frames of one of the noises, begun anywhere; its end is followed by its beginning."""
        noise = self.noises[int(torch.randint(len(self.noises), (), generator=generator))]
        start = int(torch.randint(len(noise), (), generator=generator))
        return noise[torch.arange(start, start + num_frames) % len(noise)]


def noise_features(name: str, config: FeatureConfig) -> Tensor:
    """Features (T, F) of a minute of white or pink noise or hum, always the same."""
    setting = Setting(config.sampling_rate, np.random.default_rng(0), lambda: np.zeros(1))
    samples = SIGNALS[name](NOISE_SECONDS * config.sampling_rate, setting)
    return compute_features((samples / samples.std()).astype(np.float32), config.sampling_rate, config)


def babble_features(cuts: Cuts, config: FeatureConfig) -> Tensor:
    """Features (T, F) of a minute of babble: the energies of seven rows of the corpus's utterances, of equal power."""
    num_frames, rng = NOISE_SECONDS * FRAMES_PER_SECOND, np.random.default_rng(0)
    rows = []
    for _ in range(TALKERS):
        parts: list[Tensor] = []
        while sum(map(len, parts)) < num_frames:
            own = features_of(cuts[int(rng.integers(len(cuts)))], config)
            parts.append(own - _log_power(own, log_power_weights(config)))
        rows.append(torch.cat(parts)[:num_frames])
    return torch.logsumexp(torch.stack(rows), dim=0)


def reverberated(features: Tensor, reverberation_time: float) -> Tensor:
    """Features (T, F) as in a room: half of the energy stays, half decays over the frames that follow.

    The energies of sound and echoes add. A frame that is late by t seconds has 10^(-6 t / T60) of the echoes' first.

    Source: Sehr and Kellermann 2010, Reverberation model-based decoding in the logmelspec domain, section III
    (the convolution of energies); `distortions.room_response` for the response.
    """
    energies = features.double().exp().numpy()
    decay = 10 ** (-6 * FRAME_SHIFT / reverberation_time)
    echoes = lfilter([1 - decay], [1, -decay], energies, axis=0)
    return torch.from_numpy(energies + echoes).mul(0.5).log().to(features.dtype)


def band_limited(features: Tensor, band: float, config: FeatureConfig) -> Tensor:
    """Features (T, F) without the mel bins whose centre is above `band` Hz."""
    return features.masked_fill(mel_centres(config) > band, DIGITAL_SILENCE)


@functools.lru_cache(maxsize=8)
def mel_centres(config: FeatureConfig) -> Tensor:
    """The frequencies in Hz at which the mel filters are highest, (F,).

    Source: Kaldi, mel-computations.cc: they are equally far from each other on the scale 1127 ln(1 + f / 700).
    """
    lowest, highest = (
        1127 * math.log(1 + f / 700) for f in (LOWEST_MEL, config.sampling_rate / 2 - HIGHEST_BELOW_NYQUIST)
    )
    return 700 * (torch.linspace(lowest, highest, config.num_mel_bins + 2)[1:-1] / 1127).exp() - 700


@functools.lru_cache(maxsize=8)
def log_power_weights(config: FeatureConfig) -> Tensor:
    """Logarithms (F,) of the weights with which the energies of mel bins sum to the power of the samples.

    Neighbouring filters sum to 1 at each frequency between them. So the bins' sum is the signal's power after
    pre-emphasis, which is taken back here.
    """
    angle = 2 * math.pi * mel_centres(config) / config.sampling_rate
    return -(1 - 2 * PREEMPHASIS * angle.cos() + PREEMPHASIS**2).log()


def _log_power(features: Tensor, log_weights: Tensor) -> Tensor:
    """The logarithm of an utterance's mean power, up to a constant."""
    return torch.logsumexp((features + log_weights).flatten(), dim=0) - math.log(len(features))
