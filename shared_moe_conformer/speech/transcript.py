"""Transcripts: text, tokens and words with their times, made from the results of a search."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from shared_moe_conformer.config import ENCODER_FRAME_SHIFT, frame_centre
from shared_moe_conformer.text import is_boundary, join_words

WORD_START = "\u2581"
"""Mark that SentencePiece puts before the first piece of a word."""


class Word(NamedTuple):
    """A word and its times in seconds."""

    text: str
    start: float
    """Start of the encoder frame at which its first token was found, in seconds."""
    end: float
    """End of the encoder frame at which its last token was found: a little before the word really ends."""
    confidence: float | None = None
    """Confidence of the search, 0 to 1; None where it gives none."""


class Transcript(NamedTuple):
    """The transcript of one recording; all parts are empty where nothing was said."""

    text: str
    tokens: list[str]
    """Units of tokens.txt; the first unit of a word begins with U+2581."""
    times: list[float]
    """Centre of the encoder frame at which each token was found, in seconds from the start."""
    words: list[Word]
    confidences: list[float] | None = None
    """Confidence of each token, 0 to 1; None where the search gives none."""


class GivenWord(NamedTuple):
    """A word from a graph with a lexicon."""

    text: str
    frame: float
    """Encoder frame of the arc that gave it."""
    confidence: float | None = None


class Found(Protocol):
    """The result of a search in one segment (`decoding.hypothesis.Hypothesis`)."""

    @property
    def tokens(self) -> list[int]: ...
    @property
    def frames(self) -> list[int]: ...
    @property
    def words(self) -> list[str] | None: ...
    @property
    def confidences(self) -> list[float] | None: ...
    @property
    def word_frames(self) -> list[int] | None: ...
    @property
    def word_confidences(self) -> list[float] | None: ...


EMPTY = Transcript("", [], [], [])
DIGITS = 2
"""Decimal digits of confidences; versions of torch differ by less."""


def transcript_of(
    found: Sequence[tuple[float, Found]],
    *,
    pieces: Sequence[str],
    decode: Callable[[list[int]], str],
) -> Transcript:
    """The transcript of a recording.

    Args:
      found: the start in seconds and the result of each segment, in order.
      pieces, decode: see `make_transcript`.
    """
    offsets = [start / ENCODER_FRAME_SHIFT for start, _ in found]
    sure = [c for _, hyp in found for c in hyp.confidences or ()]
    tokens = [token for _, hyp in found for token in hyp.tokens]
    return make_transcript(
        tokens,
        [offset + frame for offset, (_, hyp) in zip(offsets, found) for frame in hyp.frames],
        pieces=pieces,
        decode=decode,
        words=[word for offset, (_, hyp) in zip(offsets, found) for word in _given_words(hyp, offset)]
        if any(hyp.words for _, hyp in found)
        else None,
        confidences=sure if len(sure) == len(tokens) and found else None,
    )


def _given_words(hyp: Found, offset: float) -> list[GivenWord]:
    words, frames = hyp.words or [], hyp.word_frames or []
    sure: Sequence[float | None] = hyp.word_confidences or [None] * len(words)
    return [GivenWord(text, offset + frame, c) for text, frame, c in zip(words, frames, sure)]


def make_transcript(
    token_ids: Sequence[int],
    frames: Sequence[float],
    *,
    pieces: Sequence[str],
    decode: Callable[[list[int]], str],
    words: Sequence[GivenWord] | None = None,
    confidences: Sequence[float] | None = None,
) -> Transcript:
    """The transcript of one search result.

    Args:
      token_ids: tokens in order.
      frames: encoder frame at which each token was found, counted from the recording's start.
      pieces: each token's text, by id.
      decode: function from token ids to text.
      words: words from a graph with a lexicon; None: the tokens make the text.
      confidences: confidence of each token; a word without one of its own has the least of its tokens.

    Source of the minimum: Laptev and Ginsburg 2022, Fast entropy-based methods of word-level confidence estimation for
    end-to-end automatic speech recognition (arXiv 2212.08703), one of the aggregations compared there.
    """
    times = [frame_centre(frame) for frame in frames]
    tokens = [pieces[i] for i in token_ids]
    sure = None if confidences is None else [round(confidence, DIGITS) for confidence in confidences]
    spelled = []
    for group in word_groups(tokens):
        text = decode([token_ids[i] for i in group]).strip()
        if text:
            least = min(sure[i] for i in group) if sure is not None else None
            spelled.append(_word(text, frames[group[0]], frames[group[-1]], least))
    if words is None:
        return Transcript(decode(list(token_ids)).strip(), tokens, times, spelled, sure)
    text = join_words(word.text for word in words)
    return Transcript(text, tokens, times, _timed(words, spelled), sure)


def _word(text: str, first: float, last: float, confidence: float | None) -> Word:
    """A word from half a frame before the centre of its first encoder frame to half a frame after that of its last."""
    half = ENCODER_FRAME_SHIFT / 2
    return Word(text, round(frame_centre(first) - half, 3), round(frame_centre(last) + half, 3), confidence)


def _timed(words: Sequence[GivenWord], spelled: Sequence[Word]) -> list[Word]:
    """The words of a graph, with the times of their tokens."""
    sure = [None if word.confidence is None else round(word.confidence, DIGITS) for word in words]
    if len(words) == len(spelled):
        return [
            by_tokens._replace(text=word.text, confidence=by_tokens.confidence if c is None else c)
            for by_tokens, word, c in zip(spelled, words, sure)
        ]
    # a graph may read a run of a token as one token or two, so words and tokens differ
    return [_word(word.text, word.frame, word.frame, c) for word, c in zip(words, sure)]


def word_groups(tokens: Sequence[str]) -> list[list[int]]:
    """Positions of each word's tokens; in scripts without spaces each character is one."""
    before = ("", *tokens)
    starts = itertools.accumulate(_starts_word(token, last) for token, last in zip(tokens, before))
    numbered = itertools.groupby(enumerate(starts), key=lambda item: item[1])
    return [[position for position, _ in group] for _, group in numbered]


def _starts_word(token: str, before: str) -> bool:
    return token.startswith(WORD_START) or is_boundary(before, token)
