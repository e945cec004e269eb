"""Stretches of speech, found by Silero VAD, so that music, noise and silence give no words.

A recogniser writes letters into music and is sure of them. A detector, trained on thousands of hours, hears the
difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.signal import resample_poly
from torch import Tensor

from shared_moe_conformer.config import ENCODER_FRAME_SHIFT
from shared_moe_conformer.speech.silero import WINDOWS, Memory, StreamRules, network, speech_timestamps
from shared_moe_conformer.speech.transcript import Transcript, word_groups
from shared_moe_conformer.text import join_words

USUAL_RATE = 16000
PEAK = 0.2
"""Loudest sample that the detector hears of a segment; otherwise it misses speech that is 20 dB quieter than usual.

At 0.12 it misses an utterance of 500 (an4, asterisk, uqm, speechocean762), at 0.25 it hears two seconds of speech in 18
minutes of music, and here 0.7.
"""
MARGIN = 1.2
"""Seconds around speech in which words are believed: a model that hears the whole utterance often finds its first word
at the first frame, up to a second before its sound.

Chosen on dev. Of 300 utterances of uqm 0.3 costs 50 words, 0.5 29, 0.8 16 and 1.2 seven; of an4 three, three, 0, 0.
"""

SHORTEST = 0.25
"""Shortest speech in seconds: the detector's own value for recordings, which it does not apply to streams."""
EDGE = 0.3
"""Seconds of silence that the detector hears around a recording; otherwise it misses a word that fills its file."""
SHORT = 2.0
"""Seconds of a recording, at most, that is heard again at full scale if there is no speech in it at `PEAK`.

With both, none of asterisk's 539 prompts is missed; without, three are (AT, FOR, L). Its tones are never speech.
"""
AGAIN = 3.0
"""Times by which what is not speech must be quieter than the rest to be heard again, at a level of its own."""
QUIETEST = 100.0
"""Most times by which it may be quieter; speech so much quieter than the loudest sound is not recognised either."""
LOUDNESS = 0.06
"""Its loudness then (RMS of a frame): that of frames in speech whose loudest sample is `PEAK`."""
LOUD_PERCENTILE = 95
"""Percentile of the frames that have this loudness, so that clicks do not count."""
FRAME = 0.05
"""Seconds of a frame whose loudness is measured."""
BLOCK = 0.1
"""Seconds of a stream that are resampled together."""
OFFSET_SHARE = 0.1
"""Share of a block's mean in the offset of a stream, which is taken out: it is no sound."""
HALF_LIFE = 5.0
"""Seconds in which half of a stream's loudest sample is forgotten, so that a click does not deafen the detector."""


class Span(NamedTuple):
    """A stretch of speech, in seconds."""

    start: float
    end: float


def speech_spans(samples: np.ndarray, sampling_rate: int) -> list[Span]:
    """The stretches of speech.

    What is much quieter than the rest, such as the far end of a call or a recording with a click in it, is heard again
    by itself.

    Args:
      samples: (num_samples,), in -1..1, at any level.
      sampling_rate: of the samples, in Hz.
    """
    rate = sampling_rate if sampling_rate in WINDOWS else USUAL_RATE
    audio = samples if rate == sampling_rate else _resampled(samples, sampling_rate, rate)
    audio = audio - audio.mean() if len(audio) else audio  # an offset is no sound
    peak = float(np.abs(audio).max(initial=0.0))
    if peak == 0:
        return []
    usual, seconds = PEAK / peak, len(audio) / rate
    found = _heard(audio * usual, rate)
    if not found and seconds <= SHORT:
        return _heard(audio / peak, rate)
    for gap in _gaps(found, seconds):
        part = audio[round(gap.start * rate) : round(gap.end * rate)]
        gain = min(LOUDNESS / max(_loudness(part, rate), 1e-9), QUIETEST * usual)
        if gain > AGAIN * usual:
            again = _heard(np.clip(part * gain, -1, 1), rate)
            found += [Span(gap.start + span.start, gap.start + span.end) for span in again]
    return sorted(found)


def _heard(audio: np.ndarray, rate: int) -> list[Span]:
    """The stretches in which the detector hears speech, in samples of a level and a rate that it takes."""
    edge, seconds = round(EDGE * rate), len(audio) / rate
    found = speech_timestamps(np.pad(audio, edge), rate)
    times = [[(sample - edge) / rate for sample in each] for each in found]
    return [Span(max(start, 0.0), min(end, seconds)) for start, end in times]


def _gaps(spans: Sequence[Span], seconds: float) -> list[Span]:
    """The stretches without speech, apart from the margins around it, of a recording of this length in seconds."""
    starts = [0.0, *(span.end + MARGIN for span in spans)]
    ends = [*(span.start - MARGIN for span in spans), seconds]
    return [Span(start, end) for start, end in zip(starts, ends) if end - start >= SHORTEST]


def _loudness(audio: np.ndarray, rate: int) -> float:
    """Root mean square of the louder frames of at least `SHORTEST` seconds."""
    length = round(FRAME * rate)
    frames = audio[: len(audio) // length * length].reshape(-1, length)
    return float(np.percentile(np.sqrt(np.square(frames, dtype=np.float64).mean(axis=1)), LOUD_PERCENTILE))


class LiveSpeech:
    """The stretches of speech in a stream, heard part by part."""

    def __init__(self, sampling_rate: int) -> None:
        """Samples will come at `sampling_rate`, in Hz."""
        self._given = sampling_rate
        self.rate = sampling_rate if sampling_rate in WINDOWS else USUAL_RATE
        """Sampling rate at which it hears, in Hz."""
        self._rules, self._memory = StreamRules(self.rate), network(self.rate).start
        self._block = math.ceil(BLOCK * sampling_rate)
        self._waiting = np.zeros(0, dtype=np.float32)
        self._before = np.zeros(self._block, dtype=np.float32)
        self._audio = np.zeros(round(EDGE * self.rate), dtype=np.float32)
        self._peak = self._offset = 0.0
        self._spans: list[Span] = []
        self._num_taken = self._num_resampled = 0

    @property
    def spans(self) -> list[Span]:
        """In seconds from the stream's beginning; while somebody speaks, the last one has no end yet (infinity)."""
        hear([self])
        taken = self._num_taken / self._given
        return [span for span in self._spans if min(span.end, taken) - span.start >= SHORTEST]

    @property
    def num_windows(self) -> int:
        """Whole windows that wait to be heard."""
        return len(self._audio) // WINDOWS[self.rate]

    def accept(self, samples: np.ndarray) -> None:
        """Take the next samples, (num_samples,) in -1..1; they wait to be heard."""
        self._waiting = np.concatenate([self._waiting, samples])
        blocks = [self._audio]
        while len(self._waiting) >= self._block:
            block, self._waiting = self._waiting[: self._block], self._waiting[self._block :]
            blocks.append(self._levelled(block))
        self._audio = np.concatenate(blocks)

    def finish(self) -> None:
        """Take it that the stream has ended: no other samples will come."""
        self.accept(np.zeros(round(2 * EDGE * self._given), dtype=np.float32))

    def forget(self, before: float) -> None:
        """Forget speech that ended before this second of the stream."""
        self._spans = [span for span in self._spans if span.end + MARGIN > before]

    def _levelled(self, block: np.ndarray) -> np.ndarray:
        """A block at the level and the rate at which it is heard."""
        mean = float(block.mean())
        self._offset = mean if not self._num_taken else self._offset + OFFSET_SHARE * (mean - self._offset)
        self._num_taken += len(block)
        block = block - np.float32(self._offset)
        peak = float(np.abs(block).max())
        self._peak = max(peak, self._peak * 0.5 ** (BLOCK / HALF_LIFE))
        level = np.float32(PEAK / self._peak if self._peak else 1.0)
        return level * self._at_rate(block)

    def _at_rate(self, block: np.ndarray) -> np.ndarray:
        """The block at the detector's rate; the block before it keeps its beginning free of the filter's edge."""
        if self._given == self.rate:
            return block
        both, self._before = np.concatenate([self._before, block]), block
        before, self._num_resampled = self._num_resampled, round(self._num_taken * self.rate / self._given)
        return _resampled(both, self._given, self.rate)[before - self._num_resampled :]

    def next_windows(self, number: int) -> tuple[Tensor, Memory]:
        """The samples of the next windows, (number * window,), and what is remembered of those before.

        They are taken from the stream.
        """
        length = number * WINDOWS[self.rate]
        windows, self._audio = self._audio[:length], self._audio[length:]
        return torch.from_numpy(windows), self._memory

    def take(self, probabilities: Sequence[float], memory: Memory) -> None:
        """Take the probabilities of speech in the windows, and what is remembered after them."""
        self._memory = memory
        for probability in probabilities:
            if (found := self._rules.take(probability)) is not None:
                self._note(*found)

    def _note(self, what: str, second: float) -> None:
        second = max(second - EDGE, 0.0)
        if what == "start":
            self._spans.append(Span(second, math.inf))
        else:
            self._spans[-1] = self._spans[-1]._replace(end=second)


def hear(streams: Iterable[LiveSpeech]) -> None:
    """Hear what waits in these streams, all together: a window then takes a tenth of the time or less."""
    waiting = [stream for stream in streams if stream.num_windows]
    while waiting:
        rate = waiting[0].rate
        together = [stream for stream in waiting if stream.rate == rate]
        number = min(stream.num_windows for stream in together)
        windows, memories = zip(*(stream.next_windows(number) for stream in together))
        probabilities, after = network(rate)(torch.stack(windows), memories)
        for stream, own, memory in zip(together, probabilities.tolist(), after):
            stream.take(own, memory)
        waiting = [stream for stream in waiting if stream.num_windows]


def load_detector() -> None:
    """Load the detector, which takes half a second."""
    for rate in WINDOWS:
        network(rate)


def only_spoken(transcript: Transcript, spans: Sequence[Span]) -> Transcript:
    """A transcript without the words that lie outside speech; both count seconds from the same beginning."""

    def spoken(first: float, last: float) -> bool:
        return any(first < span.end + MARGIN and last > span.start - MARGIN for span in spans)

    words = [word for word in transcript.words if spoken(word.start, word.end)]
    times, sure = transcript.times, transcript.confidences
    half = ENCODER_FRAME_SHIFT / 2  # times are the centres of frames
    by_tokens = word_groups(transcript.tokens)
    groups = [group for group in by_tokens if spoken(times[group[0]] - half, times[group[-1]] + half)]
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
