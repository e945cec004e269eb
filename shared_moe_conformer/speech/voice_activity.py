"""Where somebody speaks, found by Silero VAD, so that music, noise and silence give no words.

A recogniser writes letters into music and is sure of them. A detector, trained on thousands of hours, hears the
difference.
"""

from __future__ import annotations

import functools
import importlib
import math
import threading
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.signal import resample_poly

from shared_moe_conformer.speech.transcript import Transcript, word_groups
from shared_moe_conformer.text import join_words

WINDOWS = {8000: 256, 16000: 512}
"""Samples that the detector takes at once, by the sampling rates in Hz that it takes."""
USUAL_RATE = 16000
PEAK = 0.2
"""Loudest sample that the detector hears of a segment; otherwise it misses speech that is 20 dB quieter than usual.

At 0.12 it misses an utterance of 500 (an4, asterisk, uqm, speechocean762), at 0.25 it hears two seconds of speech in 18
minutes of music, and here 0.7.
"""
MARGIN = 0.3
"""Seconds around speech in which words are believed: a token is found a little before or after its sound."""

SHORTEST = 0.25
"""Shortest speech in seconds: the detector's own value for recordings, which it does not apply to streams."""
BLOCK = 0.1
"""Seconds of a stream that are resampled together."""
HALF_LIFE = 5.0
"""Seconds in which half of a stream's loudest sample is forgotten, so that a click does not deafen the detector."""

_ONE_AT_A_TIME = threading.Lock()
"""The detector has a memory of its own."""


class Span(NamedTuple):
    """A stretch of speech, in seconds."""

    start: float
    end: float


def speech_spans(samples: np.ndarray, sampling_rate: int) -> list[Span]:
    """Where somebody speaks.

    Args:
      samples: (num_samples,), in -1..1, at any level.
      sampling_rate: of the samples, in Hz.

    Source: github.com/snakers4/silero-vad; its thresholds and lengths are taken as they are.
    """
    peak = float(np.abs(samples).max(initial=0.0))
    if peak == 0:
        return []
    rate = sampling_rate if sampling_rate in WINDOWS else USUAL_RATE
    audio = samples if rate == sampling_rate else _resampled(samples, sampling_rate, rate)
    audio = np.ascontiguousarray(audio * (PEAK / peak), dtype=np.float32)
    with _ONE_AT_A_TIME:
        package, detector = _detector()
        found = package.get_speech_timestamps(torch.from_numpy(audio), detector, sampling_rate=rate)
    return [Span(each["start"] / rate, each["end"] / rate) for each in found]


class LiveSpeech:
    """Where somebody speaks in a stream, heard part by part."""

    def __init__(self, sampling_rate: int) -> None:
        """Samples will come at `sampling_rate`, in Hz."""
        self._given = sampling_rate
        self._rate = sampling_rate if sampling_rate in WINDOWS else USUAL_RATE
        package, detector = _new_detector()
        self._iterator = package.VADIterator(detector, sampling_rate=self._rate)
        self._block = math.ceil(BLOCK * sampling_rate)
        self._waiting = np.zeros(0, dtype=np.float32)
        self._before = np.zeros(self._block, dtype=np.float32)
        self._audio = np.zeros(0, dtype=np.float32)
        self._peak = 0.0
        self._spans: list[Span] = []
        self._heard = 0.0  # seconds

    @property
    def spans(self) -> list[Span]:
        """In seconds from the stream's beginning; while somebody speaks, the last one has no end yet (infinity)."""
        return [span for span in self._spans if min(span.end, self._heard) - span.start >= SHORTEST]

    def accept(self, samples: np.ndarray) -> None:
        """Hear the next samples, (num_samples,) in -1..1."""
        self._waiting = np.concatenate([self._waiting, samples])
        while len(self._waiting) >= self._block:
            block, self._waiting = self._waiting[: self._block], self._waiting[self._block :]
            self._hear(block)

    def forget(self, before: float) -> None:
        """Forget speech that ended so many seconds after the stream's beginning."""
        self._spans = [span for span in self._spans if span.end + MARGIN > before]

    def _hear(self, block: np.ndarray) -> None:
        self._heard += BLOCK
        peak = float(np.abs(block).max())
        self._peak = max(peak, self._peak * 0.5 ** (BLOCK / HALF_LIFE))
        level = PEAK / self._peak if self._peak else 1.0
        audio = level * self._at_rate(block)
        self._audio = np.concatenate([self._audio, audio])
        size = WINDOWS[self._rate]
        while len(self._audio) >= size:
            window, self._audio = self._audio[:size], self._audio[size:]
            for what, second in (
                self._iterator(torch.from_numpy(window), return_seconds=True, time_resolution=3) or {}
            ).items():
                self._note(what, second)

    def _at_rate(self, block: np.ndarray) -> np.ndarray:
        """The block at the detector's rate; the block before it keeps its beginning free of the filter's edge."""
        if self._given == self._rate:
            return block
        both, self._before = np.concatenate([self._before, block]), block
        return _resampled(both, self._given, self._rate)[-round(len(block) * self._rate / self._given) :]

    def _note(self, what: str, second: float) -> None:
        if what == "start":
            self._spans.append(Span(second, math.inf))
        else:
            self._spans[-1] = self._spans[-1]._replace(end=second)


def only_spoken(transcript: Transcript, spans: Sequence[Span]) -> Transcript:
    """A transcript without the words that lie outside speech; both count seconds from the same beginning."""

    def spoken(first: float, last: float) -> bool:
        return any(first < span.end + MARGIN and last > span.start - MARGIN for span in spans)

    words = [word for word in transcript.words if spoken(word.start, word.end)]
    times, sure = transcript.times, transcript.confidences
    groups = [group for group in word_groups(transcript.tokens) if spoken(times[group[0]], times[group[-1]])]
    kept = [i for group in groups for i in group]
    if len(words) == len(transcript.words) and len(kept) == len(times):
        return transcript
    return Transcript(
        join_words(word.text for word in words),
        [transcript.tokens[i] for i in kept],
        [times[i] for i in kept],
        words,
        None if sure is None else [sure[i] for i in kept],
    )


def _resampled(samples: np.ndarray, rate: int, target: int) -> np.ndarray:
    divisor = math.gcd(rate, target)
    result: np.ndarray = resample_poly(samples, target // divisor, rate // divisor)
    return result


@functools.lru_cache(maxsize=1)
def _detector() -> tuple[Any, Any]:
    """The package and the detector of recordings."""
    return _new_detector()


def _new_detector() -> tuple[Any, Any]:
    """The package and a detector; the package sets torch to one thread, which is taken back."""
    num_threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how the package reads its own files
        package = importlib.import_module("silero_vad")
        detector = package.load_silero_vad()
    torch.set_num_threads(num_threads)
    return package, detector
