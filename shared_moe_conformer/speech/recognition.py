"""Recognition of recordings: they are cut at silences, searched in batches of similar length, and put together again.

So an hour takes no more memory than half a minute. Recordings of up to half a minute stay whole, like the utterances of
corpora. Segments are cut off the beginning of a longer one until the rest may stay whole. Each cut shortens the rest
that may stay whole, from half a minute down to the longest segment, so the number of segments grows by one at a time as
recordings get longer.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from shared_moe_conformer.config import FRAMES_PER_SECOND, MIN_NUM_FRAMES
from shared_moe_conformer.decoding.hypothesis import Hypothesis
from shared_moe_conformer.decoding.methods import decode_batch
from shared_moe_conformer.decoding.options import DecodingConfig, Resources
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.speech.audio import seconds_of, stream_audio, stream_samples
from shared_moe_conformer.speech.transcript import EMPTY, Transcript
from shared_moe_conformer.speech.voice_activity import Span, only_spoken, speech_spans

POOL_SECONDS = 300.0
"""Seconds of audio whose segments are sorted by length together; a transcript is ready once its pool is."""
WHOLE = 30.0
"""Longest recording that is not cut, in seconds."""
USUAL_SHARE = 0.95
"""A segment is no longer than this share of the training's utterances. Chosen on the dev sets of asterisk and fillets:
segments much longer than the training's utterances cost word errors, and so do cuts within sentences."""
LEAST = 5.0
"""Smallest limit of a segment's length in seconds; shorter audio may have no pause to cut at."""
SHORTEST_PART = 1 / 3
"""Least length of a segment that is cut off, as a share of the longest."""
SHRINKING = 1 / 6
"""Length by which each cut shortens the rest that may stay whole, as a share of the longest segment. It is less than
the shortest segment; otherwise one more second of audio could make several more segments."""
QUIET = 0.4
"""Seconds over which loudness is measured: a pause between words, not the closure of a stop consonant."""
STEP = 0.01
"""Seconds from one measurement to the next."""
REST = 1.0
"""Least length of the last segment, in seconds."""


class Samples(NamedTuple):
    """A recording in memory."""

    samples: np.ndarray
    """(num_samples,), in -1..1."""
    sampling_rate: float
    """Rate of the samples, in Hz; a whole number."""


class Channel(NamedTuple):
    """One channel of a file, such as one side of a call."""

    path: str
    channel: int
    """Number of the channel, from 0."""

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
    """Its features, (T, F)."""
    speech: Sequence[Span] | None = None
    """Stretches of speech, in seconds from the recording's beginning; None: not asked."""


class Recognised(NamedTuple):
    """A segment's hypothesis."""

    start: float
    """Start of the segment, in seconds."""
    hypothesis: Hypothesis
    speech: Sequence[Span] | None


class End(NamedTuple):
    """Marks that all segments of a recording have been given."""

    recording: int
    """Number of the recording."""
    error: Exception | None
    """Error that ended the reading; None: the whole recording was read."""


def read_segments(
    recordings: Iterable[Recording],
    features: Callable[[np.ndarray, int], Tensor],
    *,
    longest: float,
    speech: Callable[[np.ndarray, int], Sequence[Span]] | None = None,
) -> Iterator[Segment | End]:
    """The segments of each recording, then its `End`, in order; segments of less than 70 ms are left out.

    Args:
      recordings: files or samples.
      features: function from samples (num_samples,) and their rate in Hz to features (T, F).
      longest: the longest segment, in seconds, of a recording that is cut; see `cut_at_silences`.
      speech: function from samples and their rate to stretches of speech; segments without speech are left out.
    """
    for number, recording in enumerate(recordings):
        try:
            for start, samples, sampling_rate in _cut(recording, longest=longest):
                segment = Segment(number, start, features(samples, sampling_rate))  # refuses what is no audio
                if speech is not None:
                    spans = [Span(start + begin, start + end) for begin, end in speech(samples, sampling_rate)]
                    segment = segment._replace(speech=spans)
                # a length of MIN_NUM_FRAMES may be 65 ms, rounded up, which holds no word
                if len(segment.features) > MIN_NUM_FRAMES and segment.speech != []:
                    yield segment
        except (ValueError, OSError) as error:
            yield End(number, error)
        else:
            yield End(number, None)


def pools(parts: Iterable[Segment | End], *, seconds: float = POOL_SECONDS) -> Iterator[list[Segment | End]]:
    """The parts in lists of at least `seconds` of audio; only the last may have less."""
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
        sampling_rate, blocks = stream_samples(*recording)
    else:
        channel = recording.channel if isinstance(recording, Channel) else None
        sampling_rate, blocks = stream_audio(Path(recording), channel=channel)
    for first, samples in cut_at_silences(blocks, sampling_rate, longest=longest):
        yield first / sampling_rate, samples, sampling_rate


def usual_length(durations: Sequence[float]) -> float:
    """The longest segment in seconds, for a model that was trained on utterances of these durations in seconds."""
    return float(np.clip(np.quantile(durations, USUAL_SHARE), LEAST, WHOLE).round(1))


def cut_at_silences(
    blocks: Iterable[np.ndarray], sampling_rate: int, *, longest: float = WHOLE
) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a stream of samples into segments without gaps; half a minute or less stays whole.

    Args:
      blocks: samples (num_samples,) in order, however they are split.
      longest: the longest segment that is cut off, in seconds, 5 to 30.

    Yields:
      Each segment's first sample, counted from the beginning, and its samples.
    """
    first, waiting, whole = 0, np.zeros(0, dtype=np.float32), WHOLE
    needed = itertools.chain(((block, longest + REST) for block in blocks), [(waiting, 0.0)])
    for block, seconds in needed:  # a cut needs all candidates, or the end of the stream
        waiting = np.concatenate([waiting, block])
        while len(waiting) > max(whole, seconds) * sampling_rate:
            cut = quietest(waiting, sampling_rate, longest=longest)
            yield first, waiting[:cut]
            first, waiting = first + cut, waiting[cut:]
            whole = max(longest, whole - SHRINKING * longest)
    if len(waiting):
        yield first, waiting


def quietest(samples: np.ndarray, sampling_rate: int, *, longest: float) -> int:
    """The middle of the quietest 0.4 s between a third and the whole of the longest segment; the last of equals."""
    step = max(1, round(STEP * sampling_rate))
    begin = int(longest * SHORTEST_PART * sampling_rate)
    end = int(min(longest * sampling_rate, len(samples) - REST * sampling_rate))
    frames = samples[begin:end][: (end - begin) // step * step].astype(np.float64).reshape(-1, step)
    width = round(QUIET / STEP)
    energies = np.convolve((frames**2).mean(axis=1), np.ones(width), mode="valid")
    quietest_first = len(energies) - 1 - int(np.argmin(energies[::-1]))
    return begin + (quietest_first + width // 2) * step


MAX_DURATION = 120.0
"""Seconds of audio recognised together."""


@dataclass(frozen=True, eq=False)
class OfflineRecognizer:
    """A model that recognises recordings of any length."""

    model: AsrModel
    """The model, in evaluation mode."""
    decoding: DecodingConfig
    resources: Resources
    """Graphs and everything else that the search uses."""
    features: Callable[[np.ndarray, int], Tensor]
    """Function from samples (num_samples,) and their rate in Hz to features (T, F)."""
    to_transcript: Callable[[Sequence[tuple[float, Hypothesis]]], Transcript]
    """Function from the starts (in seconds) and hypotheses of segments to their transcript."""
    longest: float
    """The longest segment, in seconds, of a recording that is cut."""
    vad: bool = False
    """Words are believed only where a detector hears speech; other segments are not searched."""

    def transcribe(
        self,
        recordings: Iterable[Recording],
        *,
        max_duration: float = MAX_DURATION,
        progress: bool = False,
        on_error: Callable[[int, Exception], None] | None = None,
        on_experts: Callable[[Segment, Tensor], None] | None = None,
    ) -> Iterator[Transcript]:
        """The transcript of each recording, in their order; the arguments are those of `Bundle.transcribe_many`."""
        found: dict[int, list[Recognised]] = {}
        parts = read_segments(
            recordings, self.features, longest=self.longest, speech=speech_spans if self.vad else None
        )
        shown = progress and sys.stderr.isatty()
        total = _seconds(recordings) if shown else None  # reads the header of every file
        with tqdm(total=total, unit="s", unit_scale=True, disable=not shown) as bar:
            for pool in pools(parts):
                segments = [part for part in pool if isinstance(part, Segment)]
                for batch in batches(segments, max_duration=max_duration):
                    for segment, hyp in zip(batch, self._search(batch, on_experts)):
                        found.setdefault(segment.recording, []).append(Recognised(segment.start, hyp, segment.speech))
                    bar.update(sum(len(segment.features) for segment in batch) / FRAMES_PER_SECOND)
                for end in (part for part in pool if isinstance(part, End)):
                    yield self._finish(end, found.pop(end.recording, []), on_error)

    @torch.inference_mode()
    def _search(
        self, batch: Sequence[Segment], on_experts: Callable[[Segment, Tensor], None] | None
    ) -> list[Hypothesis]:
        device = self.model.joiner.output.weight.device
        x_lens = torch.tensor([len(segment.features) for segment in batch], device=device)
        x = pad_sequence([segment.features for segment in batch], batch_first=True)
        encoder_output = self.model.encode(x.to(device), x_lens, self.decoding.chunking)
        if on_experts is not None and encoder_output.routing is not None:
            expert_ids = encoder_output.routing.expert_ids.cpu()
            for segment, ids in zip(batch, expert_ids.split(encoder_output.encoder_out_lens.tolist(), dim=1)):
                on_experts(segment, ids)
        return decode_batch(self.model, encoder_output, self.decoding, resources=self.resources)

    def _finish(
        self, end: End, found: list[Recognised], on_error: Callable[[int, Exception], None] | None
    ) -> Transcript:
        """The transcript of a recording, given the hypotheses of its segments in any order."""
        if end.error is None:
            transcript = self.to_transcript([each[:2] for each in sorted(found, key=lambda each: each.start)])
            return only_spoken(transcript, [s for each in found for s in each.speech or ()]) if self.vad else transcript
        if on_error is None:
            raise end.error
        on_error(end.recording, end.error)
        return EMPTY


def _seconds(recordings: Iterable[Recording]) -> float | None:
    """Seconds of all recordings; None if these are not known in advance."""
    if not isinstance(recordings, Sequence):
        return None
    return sum(len(r[0]) / r[1] if isinstance(r, Samples) else seconds_of(Path(r)) for r in recordings)
