"""What training does to log mel features: silence and joining, SpecAugment's masks, and conditions.

Conditions are what utterances are recorded under: rooms, noises, bands and levels. A prepared corpus has features, so
only noises are made as audio:

* a gain adds a constant;
* noise adds its energies, as if phases were unrelated; a stretch of true noise's features is taken;
* a room spreads energies over the frames that follow;
* above a band there is digital silence.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from lhotse.cut import Cut
from scipy.signal import lfilter
from torch import Generator, Tensor

from shared_moe_conformer.config import FRAME_SHIFT, FRAMES_PER_SECOND, DataConfig, FeatureConfig
from shared_moe_conformer.data.distortions import SIGNALS, TALKERS, Setting
from shared_moe_conformer.data.features import DIGITAL_SILENCE, compute_features, features_of
from shared_moe_conformer.data.manifests import StoredCuts

LONGEST_JOINED = 1500
"""Frames of joined utterances at most, without the silence."""
MOST_JOINED = 3
GAP = (10, 80)
"""Fewest and most frames between two utterances that are joined."""
MARGIN = (0, 50)
"""Fewest and most frames before and after an utterance that gets silence."""
QUIET_SHARE = 0.05
"""The quietest share of an utterance's frames; silence is made of them."""
NOISE_SECONDS = 60
"""Duration of each noise; utterances get stretches of it."""
NEPERS = math.log(10) / 10
"""Natural logarithm of the energy that is one decibel."""
PREEMPHASIS = 0.97
"""The features' pre-emphasis. Source: Kaldi, feature-window.h."""
LOWEST_MEL, HIGHEST_BELOW_NYQUIST = 20.0, 400.0
"""Hz at which the mel filters begin, and Hz below half the sampling rate at which they end (lhotse.FbankConfig)."""

Silence = Callable[[Tensor, tuple[int, int]], Tensor]
"""Makes silence (.., F) for an utterance's features (T, F), of a number of frames between the two."""


class Example(NamedTuple):
    """One utterance of a batch."""

    features: Tensor
    """(T, F)"""
    tokens: list[int]
    """(U,)"""
    cut_id: str
    text: str


def with_silence(examples: Sequence[Example], config: DataConfig, *, generator: Generator) -> list[Example]:
    """A batch whose utterances may be joined, all in twos or all in threes, and may begin and end with silence.

    Corpora are cut close to the speech. A model that has seen nothing else errs where a recording begins with silence,
    and after a pause. Lhotse's CutConcatenate and ExtraPadding would not do: their silence, on stored features, is
    -23, where samples of 0 have -15.9 and quiet rooms more, and all gaps are of one length.
    """
    together = 1  # the same number in all of a batch, so that little is padding
    if happens(config.join_probability, generator):
        most = _most_joined(examples)
        together = _random_int(2, most, generator) if most > 1 else 1
    silence = functools.partial(_random_silence, generator=generator)
    joined = _joined(examples, together, silence)
    if config.silence_probability == 0:
        return joined
    drawn = [_random(generator) < config.silence_probability for _ in joined]
    return [_between(example, silence) if is_drawn else example for example, is_drawn in zip(joined, drawn)]


def with_most_silence(examples: Sequence[Example], config: DataConfig) -> list[list[Example]]:
    """The largest that `with_silence` makes of a batch: with most frames and, where joined, with longest utterances."""
    numbers = {1, _most_joined(examples) if config.join_probability > 0 else 1}
    batches = [_joined(examples, number, _most_silence) for number in sorted(numbers)]
    if config.silence_probability > 0:
        batches = [[_between(example, _most_silence) for example in batch] for batch in batches]
    return batches


def _most_joined(examples: Sequence[Example]) -> int:
    """Up to 3, and no more than what makes 15 seconds; 1: none."""
    fitting = LONGEST_JOINED // max(len(example.features) for example in examples)
    return max(1, min(fitting, MOST_JOINED, len(examples)))


def _joined(examples: Sequence[Example], together: int, silence: Silence) -> list[Example]:
    """One utterance for every `together` examples, with a gap between two of them."""
    if together == 1:
        return list(examples)  # uncopied
    joined = []
    for start in range(0, len(examples), together):
        features, tokens, cut_ids, texts = zip(*examples[start : start + together])
        parts = [part for own in features[1:] for part in (silence(own, GAP), own)]
        joined.append(Example(torch.cat([features[0], *parts]), sum(tokens, []), "+".join(cut_ids), " ".join(texts)))
    return joined


def _between(example: Example, silence: Silence) -> Example:
    before, after = (silence(example.features, MARGIN) for _ in range(2))
    return example._replace(features=torch.cat([before, example.features, after]))


def _random_silence(features: Tensor, length: tuple[int, int], *, generator: Generator) -> Tensor:
    """Random frames of the utterance's quietest, or digital silence, each half of the time."""
    num_frames = _random_int(*length, generator)
    if _random(generator) < 0.5:
        return features.new_full((num_frames, features.size(1)), DIGITAL_SILENCE)
    num_quiet = max(1, int(QUIET_SHARE * len(features)))
    quiet = features[features.mean(dim=1).argsort(stable=True)[:num_quiet]]
    return quiet[torch.randint(num_quiet, (num_frames,), generator=generator)]


def _most_silence(features: Tensor, length: tuple[int, int]) -> Tensor:
    return features.new_full((length[1], features.size(1)), DIGITAL_SILENCE)


def mix(speech: Tensor, noise: Tensor, *, snr: float, log_weights: Tensor | float = 0.0) -> Tensor:
    """Log mel energies (T, F) of speech and noise, both (T, F), the noise scaled to a ratio of energies in decibel.

    Phases are taken as unrelated, so that energies add; `log_weights`, (F,), are added to the features before they are
    summed to a signal's energy. Source: Lhotse, FeatureMixer and Fbank.mix.
    """
    speech_energy, noise_energy = (torch.logsumexp((x + log_weights).flatten(), dim=0) for x in (speech, noise))
    gain = speech_energy - noise_energy - snr / 10 * math.log(10)
    return torch.logaddexp(speech, noise + gain)


def spec_augment(features: Tensor, config: DataConfig, *, generator: Generator) -> Tensor:
    """One utterance's features (T, F), a copy whose masks hold the utterance's mean of each mel bin if there are masks.

    Each time mask has a uniformly random width, up to an equal share of what all may cover together.

    Lhotse's SpecAugment draws from torch's and Python's global generators and masks with one number for all bins.

    Source: Park et al. 2019, SpecAugment (arXiv 1904.08779), section 2; `time_warped` for the time warp.
    """
    if config.num_time_masks == config.num_freq_masks == 0:
        return features
    num_frames, num_bins = features.shape
    masked = torch.zeros(num_frames, num_bins, dtype=torch.bool)
    for _ in range(config.num_time_masks):
        widest = int(config.max_time_mask_fraction * num_frames / config.num_time_masks)
        masked[_random_stretch(num_frames, widest, generator)] = True
    for _ in range(config.num_freq_masks):
        masked[:, _random_stretch(num_bins, config.max_freq_mask_bins, generator)] = True
    return torch.where(masked, features.mean(dim=0), features)


def time_warped(features: Tensor, most: int, *, generator: Generator) -> Tensor:
    """One utterance's features (T, F), a frame of which moves by up to `most` frames; as long as before.

    What is before that frame becomes longer or shorter, and what is after it the opposite, by factors from 0.5 to 1.5.
    For this the largest move is at most a quarter of the utterance, and the frame is twice that far from both ends.

    Source: Park et al. 2019, SpecAugment (arXiv 1904.08779), section 2, where the frame may be closer to the ends, so
    that seconds of speech may become one frame; and linear between two frames, not a spline.
    """
    last = len(features) - 1
    most = min(most, last // 4)
    if most == 0:
        return features
    source = _random_int(2 * most, last - 2 * most, generator)
    target = source + _random_int(-most, most, generator)
    positions = torch.from_numpy(np.interp(np.arange(last + 1), [0, target, last], [0, source, last]))
    before = positions.long().clamp(max=last - 1)
    return features[before].lerp(features[before + 1], (positions - before)[:, None].to(features.dtype))


def with_more_time_masks(config: DataConfig, ratio: float) -> DataConfig:
    """The options with `ratio` times as many time masks, which cover `ratio` times as many frames."""
    return dataclasses.replace(
        config,
        num_time_masks=round(ratio * config.num_time_masks),
        max_time_mask_fraction=min(ratio * config.max_time_mask_fraction, 1.0),
    )


def _random_stretch(size: int, widest: int, generator: Generator) -> slice:
    """A stretch of uniform width from 0 to `widest`, uniformly placed."""
    width = _random_int(0, min(widest, size), generator)
    start = _random_int(0, size - width, generator)
    return slice(start, start + width)


def happens(probability: float, generator: Generator) -> bool:
    """Whether something of this probability happens; a probability of 0 draws no number."""
    return probability > 0 and _random(generator) < probability


def uniform(limits: tuple[float, float], generator: Generator) -> float:
    """A random number between two."""
    low, high = limits
    return low + (high - low) * _random(generator)


def _random(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))


def _random_int(smallest: int, largest: int, generator: Generator) -> int:
    return int(torch.randint(smallest, largest + 1, (1,), generator=generator))


def noise_features(name: str, config: FeatureConfig) -> Tensor:
    """Features (T, F) of a minute of a noise, always the same."""
    setting = Setting(config.sampling_rate, np.random.default_rng(0), lambda: np.zeros(1))
    samples = SIGNALS[name](NOISE_SECONDS * config.sampling_rate, setting)
    return compute_features((samples / samples.std()).astype(np.float32), config.sampling_rate, config)


def babble_features(cuts: StoredCuts | Sequence[Cut], config: FeatureConfig) -> Tensor:
    """Features (T, F) of a minute of babble: the energies of seven rows of the corpus's utterances, of equal power."""
    num_frames, rng = NOISE_SECONDS * FRAMES_PER_SECOND, np.random.default_rng(0)
    rows = []
    for _ in range(TALKERS):
        parts: list[Tensor] = []
        while sum(map(len, parts)) < num_frames:
            own = features_of(cuts[int(rng.integers(len(cuts)))], config)
            parts.append(own - log_power(own, log_power_weights(config)))
        rows.append(torch.cat(parts)[:num_frames])
    return torch.logsumexp(torch.stack(rows), dim=0)


def reverberated(features: Tensor, reverberation_time: float) -> Tensor:
    """Features (T, F) as in a room: half of the energy stays, half decays over the frames that follow.

    The energies of sound and echoes add. A frame that is late by t seconds has 10^(-6 t / T60) of the echoes' first.

    Source: Sehr and Kellermann 2010, Reverberation model-based decoding in the logmelspec domain, section III
    (the convolution of energies); `room_response` for the response.
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


def log_power(features: Tensor, log_weights: Tensor) -> Tensor:
    """The logarithm of an utterance's mean power, up to a constant."""
    return torch.logsumexp((features + log_weights).flatten(), dim=0) - math.log(len(features))


@dataclass
class Conditions:
    """Draws the conditions of an utterance; an option whose probability is 0 draws nothing."""

    config: DataConfig
    features: FeatureConfig
    noises: Sequence[Tensor]
    """Features (T, F) of each noise."""

    @classmethod
    def of(
        cls, config: DataConfig, features: FeatureConfig, cuts: Callable[[], StoredCuts | Sequence[Cut]]
    ) -> Conditions | None:
        """The conditions that a config asks for, with its noises, babble of `cuts`; None where it asks for none."""
        needs_noise = config.made_noise_probability or config.noise_alone_probability
        if not (needs_noise or config.gain_probability or config.reverb_probability or config.band_limit_probability):
            return None
        noises = [
            noise_features(name, features) if name in SIGNALS else babble_features(cuts(), features)
            for name in (config.made_noises if needs_noise else ())
        ]
        return cls(config, features, noises)

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
        levels = (log_power(x, log_power_weights(self.features)) for x in (features, noise))
        speech_level, noise_level = levels
        return noise + (speech_level - noise_level - NEPERS * uniform(self.config.made_noise_snr, generator))

    def _stretch(self, num_frames: int, generator: Generator) -> Tensor:
        """Frames of one of the noises, begun anywhere; its end is followed by its beginning."""
        noise = self.noises[int(torch.randint(len(self.noises), (), generator=generator))]
        start = int(torch.randint(len(noise), (), generator=generator))
        return noise[torch.arange(start, start + num_frames) % len(noise)]
