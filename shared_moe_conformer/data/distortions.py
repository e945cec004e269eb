"""Distortions that a recording may have met on its way: levels, noises, rooms, bands and codecs.

Distortions of test sets are applied to samples. Training does the same to log mel features (`augment`), codecs
excepted: preparation has a share of the training recordings coded.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import soundfile

from shared_moe_conformer.config import require
from shared_moe_conformer.data.features import resample

TALKERS = 7
"""Recordings that babble is made of. Source: Snyder et al. 2018, X-vectors, section 3.3: three to seven."""
MAINS = (50.0, 60.0)
"""Frequencies of mains in Hz."""
HIGHEST_HUM = 1000.0
"""In Hz; the harmonics of hum go up to here."""
LOWEST_PINK = 20.0
"""In Hz; without it, the power of pink noise would depend on its length."""
BAND_STEP = 10
"""Hz to whose multiples a band is rounded: the kernel that resamples is small then."""
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
"""Sampling rates that Opus has, in Hz. Source: RFC 6716, section 2.1.3."""
OPUS_BITS = (6000, 256_000)
"""Lowest and highest bit rate, between which libsndfile's compression level goes. Source: libsndfile, ogg_opus.c."""
TRAINED_OPUS = (10_000, 32_000)
"""Bit rates of Opus in messengers and calls, among which training's are drawn."""
PIECE_SECONDS = 5.0
"""Each piece has a key, a tempo and instruments of its own."""
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
"""Semitones of the scales' degrees above their root."""
CHORD = (0, 2, 4)
"""Degrees that sound together."""
NUM_HARMONICS = 10


class Setting(NamedTuple):
    """The means of distorting a recording."""

    sampling_rate: int
    """Sampling rate of the samples, in Hz."""
    rng: np.random.Generator
    """Generator of all that is random."""
    draw_talker: Callable[[], np.ndarray]
    """Samples (num_samples,) of another recording of the corpus, drawn at random; for babble."""


class Kind(NamedTuple):
    """A kind of distortion."""

    apply: Callable[[np.ndarray, float, Setting], np.ndarray]
    lowest: float
    highest: float
    unit: str
    meaning: str


class Distortion(NamedTuple):
    """Steps that a recording goes through, one after the other."""

    name: str
    """As the user wrote it: `white=10`, `reverb=0.6+white=10`."""
    steps: tuple[tuple[str, float], ...]
    """Kind and value of each."""

    def __call__(self, samples: np.ndarray, setting: Setting) -> np.ndarray:
        """The samples (num_samples,), float32, distorted; as many as before."""
        for kind, value in self.steps:
            samples = KINDS[kind].apply(samples, value, setting).astype(np.float32)
        return samples


class Codec(NamedTuple):
    """A codec that changes samples as Lhotse's `augment_fn` does."""

    kind: str
    bits: float

    def __call__(self, samples: np.ndarray, sampling_rate: int) -> np.ndarray:
        """The samples (num_channels, num_samples), coded and decoded; as many as before."""
        setting = Setting(sampling_rate, np.random.default_rng(0), lambda: np.zeros(1))
        distortion = Distortion(self.kind, ((self.kind, self.bits),))
        return np.stack([distortion(channel, setting) for channel in samples])


def codec_of(cut_id: str, *, share: float) -> Codec | None:
    """The codec of a training cut, for a share of all names: Opus for three in four of these, else a telephone's."""
    rng = np.random.default_rng(list(hashlib.sha256(cut_id.encode()).digest()))
    if rng.random() >= share:
        return None
    if rng.random() < 0.25:
        return Codec("mulaw", 64_000)
    return Codec("opus", float(round(np.exp(rng.uniform(*np.log(TRAINED_OPUS))))))


def parse_distortion(text: str) -> Distortion:
    """The distortion that a text such as `white=10` or `reverb=0.6+opus=12k` names.

    Raises:
      ValueError: an unknown kind, or a value that it cannot have.
    """
    return Distortion(text, tuple(_parse_step(part, text) for part in re.split(r"\+(?=[a-z])", text)))


def _parse_step(part: str, text: str) -> tuple[str, float]:
    kind, _, number = part.partition("=")
    require(kind in KINDS, f"--distort {text}: no distortion is called {kind!r}: give one of {', '.join(KINDS)}")
    match = re.fullmatch(r"([+-]?\d+(?:\.\d+)?|[+-]?\.\d+)(k?)", number)
    _, lowest, highest, unit, _ = KINDS[kind]
    value = float(match[1]) * (1000 if match[2] else 1) if match else math.nan
    require(
        lowest <= value <= highest,
        f"--distort {text}: {kind} is {number!r}: give {lowest:g} to {highest:g} {unit}, as in {kind}={lowest:g}",
    )
    return kind, value


def add_noise(samples: np.ndarray, noise: np.ndarray, *, snr: float) -> np.ndarray:
    """Samples plus noise, both (num_samples,), the noise scaled to a ratio of mean powers in decibel.

    Digital silence stays as it is: no noise has a ratio to it.
    """
    signal_power, noise_power = (np.square(x, dtype=np.float64).mean() for x in (samples, noise))
    if signal_power == 0 or noise_power == 0:
        return samples
    return samples + noise * math.sqrt(signal_power / noise_power / 10 ** (snr / 10))


def white_noise(num_samples: int, setting: Setting) -> np.ndarray:
    """Independent normal samples."""
    return setting.rng.standard_normal(num_samples)


def pink_noise(num_samples: int, setting: Setting) -> np.ndarray:
    """Noise whose power per hertz falls as 1/f from 20 Hz on, with nothing below, where nobody hears it."""
    frequencies = np.fft.rfftfreq(num_samples, 1 / setting.sampling_rate)
    spectrum = np.fft.rfft(setting.rng.standard_normal(num_samples))
    shape = np.where(frequencies < LOWEST_PINK, 0, 1 / np.sqrt(np.maximum(frequencies, LOWEST_PINK)))
    return np.fft.irfft(spectrum * shape, num_samples)


def hum(num_samples: int, setting: Setting) -> np.ndarray:
    """Mains of 50 or 60 Hz and its harmonics up to 1 kHz; the k-th has 1/k of the amplitude and a random phase."""
    fundamental = setting.rng.choice(MAINS)
    time = np.arange(num_samples) / setting.sampling_rate
    order = np.arange(1, int(min(HIGHEST_HUM, setting.sampling_rate / 2) / fundamental) + 1)
    phases = setting.rng.uniform(0, 2 * np.pi, len(order))
    return sum(np.sin(2 * np.pi * k * fundamental * time + phase) / k for k, phase in zip(order, phases))


def music(num_samples: int, setting: Setting) -> np.ndarray:
    """Made pieces of voices and drums, of equal power, one after the other: pitch and rhythm without speech."""
    size = int(PIECE_SECONDS * setting.sampling_rate)
    pieces = [_piece(size, setting.sampling_rate, setting.rng) for _ in range(-(-num_samples // size))]
    return np.concatenate(pieces)[:num_samples]


def _piece(num_samples: int, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """One to four voices, and often drums, (num_samples,), of unit power."""
    samples = np.zeros(num_samples)
    beat = sampling_rate * 60 / rng.uniform(60, 160)
    scale = rng.integers(36, 48) + np.array(rng.choice([MAJOR, MINOR]))  # MIDI's numbers of semitones
    for _ in range(rng.integers(1, 5)):
        _add_voice(samples, beat, scale, sampling_rate, rng)
    if rng.random() < 0.6:
        _add_drums(samples, beat, sampling_rate, rng)
    return samples / np.sqrt(np.square(samples).mean())


def _add_voice(
    samples: np.ndarray, beat: float, scale: np.ndarray, sampling_rate: int, rng: np.random.Generator
) -> None:
    """Add a melody, or chords, of one instrument: a random walk over the scale."""
    step = int(beat / rng.choice([0.5, 1, 2, 4]))
    octave, degree = rng.integers(0, 4), rng.integers(7)
    chord = CHORD if rng.random() < 0.4 else (0,)
    time = np.arange(2 * step) / sampling_rate
    attack, decay = rng.uniform(0.002, 0.1), rng.uniform(0.1, 1.0)  # seconds
    envelope = rng.uniform(0.3, 1) * np.minimum(time / attack, 1) * np.exp(-time / decay)
    brightness, vibrato = rng.uniform(0.4, 0.9), rng.uniform(0, 0.5) * np.sin(2 * np.pi * rng.uniform(4, 7) * time)
    for start in range(0, len(samples), step):
        degree += rng.integers(-2, 3)
        for above in chord:
            octaves, number = divmod(int(degree + above), len(scale))
            frequency = 440 * 2 ** ((scale[number] + 12 * (octave + octaves) - 69) / 12)
            num_harmonics = min(NUM_HARMONICS, int(sampling_rate / 2 / frequency))
            wave = np.exp(1j * (2 * np.pi * frequency * time + vibrato))
            harmonics = sum((brightness * wave) ** k for k in range(1, num_harmonics + 1))
            note = (envelope * np.imag(harmonics))[: len(samples) - start]
            samples[start : start + len(note)] += note


def _add_drums(samples: np.ndarray, beat: float, sampling_rate: int, rng: np.random.Generator) -> None:
    """Add bursts of noise that decay, on beats or between them."""
    step = int(beat / rng.choice([1, 2, 4]))
    for start in range(0, len(samples), step):
        time = np.arange(min(step, len(samples) - start)) / sampling_rate
        burst = rng.standard_normal(len(time)) * np.exp(-time / rng.uniform(0.01, 0.1))
        samples[start : start + len(time)] += rng.uniform(0, 1.5) * burst


def babble(num_samples: int, setting: Setting) -> np.ndarray:
    """The sum of other recordings of equal power, each begun anywhere and repeated as often as needed."""
    total = np.zeros(num_samples)
    for _ in range(TALKERS):
        talker = setting.draw_talker().astype(np.float64)
        start = int(setting.rng.integers(len(talker)))
        power = float(np.square(talker).mean()) or 1.0
        total += np.resize(np.roll(talker, -start), num_samples) / math.sqrt(power)
    return total


def room_response(reverberation_time: float, setting: Setting) -> np.ndarray:
    """A room's response of unit energy: the direct sound, and as much energy in noise that decays exponentially.

    The noise has lost 60 dB after `reverberation_time` seconds. Equal energies are what a microphone gets at the
    room's critical distance.

    Source: Polack 1988, the statistical model of late reverberation (Habets 2007, Single- and multi-microphone speech
    dereverberation, section 2.3).
    """
    length = max(2, round(reverberation_time * setting.sampling_rate))
    time = np.arange(1, length) / setting.sampling_rate
    tail = setting.rng.standard_normal(length - 1) * 10 ** (-3 * time / reverberation_time)
    return np.concatenate([[1.0], tail / np.linalg.norm(tail)]) / math.sqrt(2)


def _gained(samples: np.ndarray, gain: float, setting: Setting) -> np.ndarray:
    """Louder by `gain` decibel; what goes beyond full scale is clipped, as by a recorder."""
    return np.clip(samples * 10 ** (gain / 20), -1, 1)


def _adding(noise: Callable[[int, Setting], np.ndarray]) -> Callable[[np.ndarray, float, Setting], np.ndarray]:
    return lambda samples, snr, setting: add_noise(samples, noise(len(samples), setting), snr=snr)


def _reverberated(samples: np.ndarray, reverberation_time: float, setting: Setting) -> np.ndarray:
    response = room_response(reverberation_time, setting)
    size = len(samples) + len(response) - 1
    return np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[: len(samples)]


def _band_limited(samples: np.ndarray, band: float, setting: Setting) -> np.ndarray:
    """Without what lies above `band` Hz: sampled at twice that, and back."""
    rate = 2 * BAND_STEP * round(band / BAND_STEP)
    return samples if rate >= setting.sampling_rate else _sampled_at(samples, rate, setting, lambda low: low)


def _by_opus(samples: np.ndarray, bits: float, setting: Setting) -> np.ndarray:
    rate = next((rate for rate in OPUS_RATES if rate >= setting.sampling_rate), OPUS_RATES[-1])
    lowest, highest = OPUS_BITS
    level = (highest - bits) / (highest - lowest)
    kind = {"format": "OGG", "subtype": "OPUS", "compression_level": level}
    return _sampled_at(samples, rate, setting, lambda x: _coded(x, rate, kind))


def _by_mu_law(samples: np.ndarray, bits: float, setting: Setting) -> np.ndarray:
    """Coded in 8 bits a sample. Source: ITU-T G.711."""
    rate = round(bits / 8)
    return _sampled_at(samples, rate, setting, lambda x: _coded(x, rate, {"format": "AU", "subtype": "ULAW"}))


def _sampled_at(
    samples: np.ndarray, rate: int, setting: Setting, change: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The samples, changed at another rate."""
    changed = change(resample(samples, setting.sampling_rate, rate))
    back = resample(changed, rate, setting.sampling_rate)[: len(samples)]
    return np.pad(back, (0, len(samples) - len(back)))


def _coded(samples: np.ndarray, sampling_rate: int, kind: dict[str, object]) -> np.ndarray:
    """The samples, written and read again."""
    file = io.BytesIO()
    soundfile.write(file, samples, sampling_rate, **kind)
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0]


KINDS = {
    "gain": Kind(_gained, -100, 60, "dB", "level"),
    "white": Kind(_adding(white_noise), -30, 100, "dB", "white noise, speech over noise"),
    "pink": Kind(_adding(pink_noise), -30, 100, "dB", "pink noise"),
    "hum": Kind(_adding(hum), -30, 100, "dB", "mains"),
    "music": Kind(_adding(music), -30, 100, "dB", "made music"),
    "babble": Kind(_adding(babble), -30, 100, "dB", "other recordings of the test set"),
    "reverb": Kind(_reverberated, 0.05, 5, "s", "time in which a room's sound decays by 60 dB"),
    "band": Kind(_band_limited, 100, 96_000, "Hz", "highest frequency"),
    "opus": Kind(_by_opus, *OPUS_BITS, "bit/s", "Opus"),
    "mulaw": Kind(_by_mu_law, 16_000, 384_000, "bit/s", "G.711; telephone: 64k"),
}
"""Each kind by its name; the values are between the lowest and the highest, in the unit."""


SIGNALS = {"white": white_noise, "pink": pink_noise, "hum": hum, "music": music}
"""The noises that a recording does not have to be read for."""


def kinds_help() -> str:
    """The kinds, for a flag's help."""
    return "; ".join(f"{name} ({kind.unit}: {kind.meaning})" for name, kind in KINDS.items())
