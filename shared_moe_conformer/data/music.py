"""Made music: voices and drums, so that a recogniser hears in training what has pitch and rhythm and is no speech."""

from __future__ import annotations

import numpy as np

PIECE_SECONDS = 5.0
"""Each piece has a key, a tempo and instruments of its own."""
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
"""Semitones of the scales' degrees above their root."""
CHORD = (0, 2, 4)
"""Degrees that sound together."""
NUM_HARMONICS = 10


def music(num_samples: int, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Pieces of equal power, one after the other, (num_samples,)."""
    size = int(PIECE_SECONDS * sampling_rate)
    pieces = [_piece(size, sampling_rate, rng) for _ in range(-(-num_samples // size))]
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
