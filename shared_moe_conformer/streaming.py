"""Recognition of speech while it is spoken: batches of streams that take audio in parts and end segments at pauses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from shared_moe_conformer.config import (
    ENCODER_FRAME_SHIFT,
    MIN_NUM_FRAMES,
    SUBSAMPLING_FACTOR,
    FeatureConfig,
    require,
)
from shared_moe_conformer.data.features import LiveFeatures
from shared_moe_conformer.decoding.ctc import CtcGreedySearch
from shared_moe_conformer.decoding.hypothesis import Hypothesis, Search, WholeUtteranceSearch, search_utterances
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import EncoderState
from shared_moe_conformer.speech.audio import require_floats, whole_rate
from shared_moe_conformer.speech.transcript import Transcript
from shared_moe_conformer.speech.voice_activity import LiveSpeech, hear, load_detector, only_spoken
from shared_moe_conformer.text import join_words

OVERLAP = MIN_NUM_FRAMES - SUBSAMPLING_FACTOR
"""Feature frames of a chunk that the next one sees again."""


@dataclass(frozen=True)
class EndpointRules:
    """Rules by which a segment of live speech ends; its words are then final.

    Source: sherpa-onnx's rules, their names and their values.
    """

    rule1_min_trailing_silence: float = 2.4
    """Seconds without a token, whether or not there was one before."""
    rule2_min_trailing_silence: float = 1.2
    """Seconds without a token after at least one."""
    rule3_min_utterance_length: float = 20.0
    """Seconds of a segment, whatever it contains."""

    def __post_init__(self) -> None:
        for name, seconds in vars(self).items():
            require(seconds > 0, f"{name} is {seconds}: give a positive number of seconds")

    def end_segment(self, *, length: float, trailing_silence: float) -> bool:
        """Whether a segment of these seconds ends; without a token all of it is silence."""
        is_pause = self.is_pause(length=length, trailing_silence=trailing_silence)
        return is_pause or length >= self.rule3_min_utterance_length

    def is_pause(self, *, length: float, trailing_silence: float) -> bool:
        """Whether a segment of these seconds ends with a pause, by the first or the second rule."""
        has_tokens = trailing_silence < length
        return trailing_silence >= self.rule1_min_trailing_silence or (
            has_tokens and trailing_silence >= self.rule2_min_trailing_silence
        )


class StreamResult(NamedTuple):
    """The words of a stream so far; times count from its beginning."""

    final: Transcript
    """Final words: those of ended segments that `pop_segments` has not taken yet."""
    partial: Transcript
    """Words of the current segment; they may still change."""
    segment: int
    """Number of ended segments with words."""
    is_final: bool
    """The stream has ended: nothing more will come."""

    @property
    def text(self) -> str:
        """All words so far."""
        return join_words(part.text for part in (self.final, self.partial) if part.text)


class EndedSegment(NamedTuple):
    """A segment whose words are final."""

    start: float
    """Seconds from the stream's beginning; so are the transcript's times."""
    transcript: Transcript


class Stream:
    """One speaker's audio and words. `StreamingRecognizer.stream` makes it."""

    def __init__(self, recognizer: StreamingRecognizer) -> None:
        self._recognizer = recognizer
        self._live: LiveFeatures | None = None
        self.speech: LiveSpeech | None = None
        """Where somebody speaks; None: not asked."""
        self._features = torch.zeros(0, recognizer.features.num_mel_bins)
        self._state = recognizer.model.encoder.start(1, left_context=recognizer.left_context)
        self._ended: list[tuple[float, Hypothesis]] = []
        self._num_ended = 0
        self._finished = False
        self.expert_ids: Tensor | None = None
        """The experts of the last chunk's frames, (L, T', K), by depth; None: the model has none."""
        self._segment_start = self._num_frames = 0
        self._frames: list[Tensor] = []
        with torch.inference_mode():
            self._search_state: Any = recognizer.incremental.start(1)

    def add(self, samples: np.ndarray, sampling_rate: float) -> None:
        """Take the next samples, (num_samples,) from -1 to 1, without recognising them yet.

        Raises:
          ValueError: the stream has ended, the rate differs from before, or the samples are not mono audio.
        """
        require(not self._finished, "the stream has ended: begin another one")
        require_floats(samples)
        rate = whole_rate(sampling_rate)
        if self._live is None:
            self._live = LiveFeatures(self._recognizer.features, rate)
            self.speech = LiveSpeech(rate) if self._recognizer.vad else None
        before = self._live.sampling_rate
        require(rate == before, f"samples at {rate} Hz after others at {before} Hz: keep one rate")
        samples = np.asarray(samples, dtype=np.float32)
        self._append(self._live.accept(samples))
        if self.speech is not None:
            self.speech.accept(samples)

    def accept(self, samples: np.ndarray, sampling_rate: float) -> StreamResult:
        """Take the next samples and recognise what they complete; see `add`."""
        self.add(samples, sampling_rate)
        self._recognizer.advance([self])
        return self.result

    def end(self) -> None:
        """Take no more samples; the next `advance` recognises the rest."""
        if not self._finished:
            self._finished = True
            if self._live is not None:
                self._append(self._live.finish())
            if self.speech is not None:
                self.speech.finish()
            if not self.is_ready:
                self._end_segment()

    def finish(self) -> StreamResult:
        """End the stream and return all that was said."""
        self.end()
        self._recognizer.advance([self])
        return self.result

    @property
    def result(self) -> StreamResult:
        """The words so far."""
        now = [(self.segment_start, self._partial())]
        final, partial = map(self._transcript, (self._ended, now))
        return StreamResult(final, partial, self._num_ended, self._finished and not self.is_ready)

    @property
    def segment_start(self) -> float:
        """Start of the current segment, in seconds."""
        return self._segment_start * ENCODER_FRAME_SHIFT

    @property
    def seconds(self) -> float:
        """Seconds that were recognised, up to the end of the last chunk's frames."""
        return (self._segment_start + self._num_frames) * ENCODER_FRAME_SHIFT

    def pop_segments(self) -> list[EndedSegment]:
        """The segments with words that have ended since the last call.

        The stream forgets them: one that is asked regularly takes no more memory after an hour than after a minute.
        """
        ended, self._ended = self._ended, []
        segments = [EndedSegment(found[0], self._transcript([found])) for found in ended]
        if self.speech is not None:
            self.speech.forget(self.segment_start)
        return segments

    @property
    def is_ready(self) -> bool:
        """Whether there is a chunk to recognise: a whole one, or the last."""
        needed = MIN_NUM_FRAMES if self._finished else self._recognizer.frames_per_chunk
        return len(self._features) >= needed

    def next_chunk(self) -> tuple[Tensor, int]:
        """The next chunk's features, padded, and how many of them are valid; they are taken from the stream."""
        size = self._recognizer.frames_per_chunk
        chunk = self._features[:size]
        self._features = self._features[size - OVERLAP :]
        return torch.cat([chunk, chunk.new_zeros(size - len(chunk), chunk.size(1))]), len(chunk)

    def take(self, encoder_out: Tensor, state: EncoderState, expert_ids: Tensor | None) -> None:
        """Search the frames (1, T', C) of the chunk, and end the segment if a rule says so."""
        self._state, self.expert_ids = state, expert_ids
        lens = torch.tensor([encoder_out.size(1)], device=encoder_out.device)
        self._search_state = self._recognizer.incremental.advance(self._search_state, encoder_out, lens)
        if self._recognizer.at_end is not None:
            self._frames.append(encoder_out)
        self._num_frames += encoder_out.size(1)
        partial = self._partial()
        silent = self._num_frames - 1 - partial.frames[-1] if partial.frames else self._num_frames
        seconds, silence = self._num_frames * ENCODER_FRAME_SHIFT, silent * ENCODER_FRAME_SHIFT
        is_last, rules = self._finished and not self.is_ready, self._recognizer.rules
        if is_last or rules.end_segment(length=seconds, trailing_silence=silence):
            self._end_segment(is_pause=is_last or rules.is_pause(length=seconds, trailing_silence=silence))

    @property
    def encoder_state(self) -> EncoderState:
        """The encoder's memory of the stream."""
        return self._state

    def _transcript(self, found: Sequence[tuple[float, Hypothesis]]) -> Transcript:
        transcript = self._recognizer.to_transcript(found)
        return transcript if self.speech is None else only_spoken(transcript, self.speech.spans)

    def _append(self, features: Tensor) -> None:
        self._features = torch.cat([self._features, features])

    def _partial(self) -> Hypothesis:
        return self._recognizer.incremental.finish(self._search_state)[0]

    @torch.inference_mode()
    def _end_segment(self, *, is_pause: bool = True) -> None:
        """End the segment; without a pause somebody may be in the middle of a word, so the search goes on there."""
        hypothesis, at_end = self._partial(), self._recognizer.at_end
        if at_end is not None and self._frames:
            encoder_out = torch.cat(self._frames, dim=1)
            lens = torch.tensor([encoder_out.size(1)], device=encoder_out.device)
            (hypothesis,) = search_utterances(at_end, encoder_out, lens)
        if self._transcript([(self.segment_start, hypothesis)]).tokens:
            self._ended.append((self.segment_start, hypothesis))
            self._num_ended += 1
        self._segment_start, self._num_frames = self._segment_start + self._num_frames, 0
        self._frames = []
        search = self._recognizer.incremental
        self._search_state = search.start(1) if is_pause else search.next_segment(self._search_state)


class StreamingRecognizer:
    """A model that recognises many streams at once; the encoder takes the chunks of all of them in one batch."""

    def __init__(
        self,
        model: AsrModel,
        search: Search[Any],
        *,
        features: FeatureConfig,
        to_transcript: Callable[[Sequence[tuple[float, Hypothesis]]], Transcript],
        chunk_size: int,
        left_context: int,
        rules: EndpointRules,
        vad: bool = False,
    ) -> None:
        """Recognise in chunks of `chunk_size` encoder frames, which attend to `left_context` frames before them.

        Args:
          model: in evaluation mode.
          search: one of lattices needs whole segments: it searches at their ends; until then CTC's likeliest tokens
            are shown.
          to_transcript: from the starts (in seconds) and hypotheses of segments to their transcript.
          chunk_size, left_context: in encoder frames of 40 ms.
          rules: rules by which segments end.
          vad: believe words only where Silero VAD hears speech.
        """
        require(chunk_size >= 1, f"chunk_size is {chunk_size}: give 1 or more frames of 40 ms")
        require(left_context >= 1, f"left_context is {left_context}: give 1 or more frames; memory is finite")
        self.model, self.features, self.rules = model, features, rules
        self.to_transcript, self.vad = to_transcript, vad
        if vad:
            load_detector()  # now, not while somebody waits
        self.left_context = left_context
        self.frames_per_chunk = SUBSAMPLING_FACTOR * chunk_size + OVERLAP
        is_whole = isinstance(search, WholeUtteranceSearch)
        self.at_end = search if is_whole else None
        self.incremental: Search[Any] = CtcGreedySearch(model) if is_whole else search

    def stream(self) -> Stream:
        """A stream that has heard nothing yet."""
        return Stream(self)

    def advance(self, streams: Sequence[Stream]) -> None:
        """Recognise all chunks that these streams have."""
        while self.step(streams):
            pass

    @torch.inference_mode()
    def step(self, streams: Sequence[Stream]) -> list[Stream]:
        """Recognise one chunk of each stream that has one, as one batch; return these streams."""
        ready = [stream for stream in streams if stream.is_ready]
        if not ready:
            return []
        device = self.model.joiner.output.weight.device
        hear(speech for stream in ready if (speech := stream.speech) is not None)
        chunks, lens = zip(*(stream.next_chunk() for stream in ready))
        state = EncoderState(*(torch.cat(parts) for parts in zip(*(stream.encoder_state for stream in ready))))
        x, x_lens = torch.stack(chunks).to(device), torch.tensor(lens, device=device)
        (encoder_out, out_lens, routing), state = self.model.encoder.step(x, x_lens, state)
        experts = routing.expert_ids.split(out_lens.tolist(), dim=1) if routing else [None] * len(ready)
        for i, (stream, length) in enumerate(zip(ready, out_lens.tolist())):
            own = EncoderState(*(part[i : i + 1] for part in state))
            stream.take(encoder_out[i : i + 1, :length], own, experts[i])
        return ready
