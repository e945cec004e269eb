"""Recordings as batches of segments of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from shared_moe_conformer.config import FRAMES_PER_SECOND, MIN_NUM_FRAMES
from shared_moe_conformer.speech.audio import stream_audio, stream_samples
from shared_moe_conformer.speech.segments import cut_at_silences

POOL_SECONDS = 300.0
"""Seconds of audio whose segments are sorted by length together; a transcript is ready when its pool is done."""


class Samples(NamedTuple):
    """A recording in memory."""

    samples: np.ndarray
    """(num_samples,), in -1..1."""
    sampling_rate: int
    """In Hz."""


class Channel(NamedTuple):
    """One channel of a file, such as one side of a call."""

    path: str
    channel: int
    """From 0."""

    def __fspath__(self) -> str:
        return self.path


Recording = str | Path | Samples | Channel


class Segment(NamedTuple):
    """Part of a recording that is recognised as one utterance."""

    recording: int
    """Number of the recording."""
    start: float
    """Time of its first sample in the recording, in seconds."""
    features: Tensor
    """(T, F)"""


class End(NamedTuple):
    """Marks that all segments of a recording have been given."""

    recording: int
    """Number of the recording."""
    error: Exception | None
    """Why the recording could not be read to its end; None if it was."""


def read_segments(
    recordings: Iterable[Recording], features: Callable[[np.ndarray, int], Tensor], *, longest: float
) -> Iterator[Segment | End]:
    """The segments of each recording, then its `End`, in order; segments too short for an encoder frame are left out.

    Args:
      recordings: files or samples.
      features: function from samples (num_samples,) and their rate in Hz to features (T, F).
      longest: the longest segment, in seconds, of a recording that is cut; see `cut_at_silences`.
    """
    for number, recording in enumerate(recordings):
        try:
            for start, samples, sampling_rate in _cut(recording, longest=longest):
                segment = Segment(number, start, features(samples, sampling_rate))
                if len(segment.features) >= MIN_NUM_FRAMES:
                    yield segment
        except (ValueError, OSError) as error:
            yield End(number, error)
        else:
            yield End(number, None)


def pools(parts: Iterable[Segment | End], *, seconds: float = POOL_SECONDS) -> Iterator[list[Segment | End]]:
    """The parts in lists of at least `seconds` of audio; the last list may have less."""
    pool: list[Segment | End] = []
    frames = 0
    for part in parts:
        pool.append(part)
        frames += len(part.features) if isinstance(part, Segment) else 1
        if frames >= seconds * FRAMES_PER_SECOND:
            yield pool
            pool, frames = [], 0
    if pool:
        yield pool


def batches(segments: Iterable[Segment], *, max_duration: float) -> Iterator[list[Segment]]:
    """The segments, longest first, in lists of at most `max_duration` seconds with padding, or of a single segment."""
    batch: list[Segment] = []
    for segment in sorted(segments, key=lambda segment: -len(segment.features)):
        longest = len((batch or [segment])[0].features)
        if batch and (len(batch) + 1) * longest > max_duration * FRAMES_PER_SECOND:
            yield batch
            batch = []
        batch.append(segment)
    if batch:
        yield batch


def _cut(recording: Recording, *, longest: float) -> Iterator[tuple[float, np.ndarray, int]]:
    """Each segment's start in seconds, its samples and their rate."""
    if isinstance(recording, Samples):
        sampling_rate, blocks = recording.sampling_rate, stream_samples(*recording)
    else:
        channel = recording.channel if isinstance(recording, Channel) else None
        sampling_rate, blocks = stream_audio(Path(recording), channel=channel)
    for first, samples in cut_at_silences(blocks, sampling_rate, longest=longest):
        yield first / sampling_rate, samples, sampling_rate
