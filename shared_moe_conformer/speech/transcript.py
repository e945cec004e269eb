"""Transcripts: text, tokens and words with their times, made from the results of a search."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from shared_moe_conformer.config import ENCODER_FRAME_SHIFT, frame_centre
from shared_moe_conformer.text import is_boundary, join_words

if TYPE_CHECKING:
    from shared_moe_conformer.decoding.hypothesis import Hypothesis

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


EMPTY = Transcript("", [], [], [])
DIGITS = 2
"""Decimal digits of confidences; versions of torch differ by less."""


def transcript_of(
    found: Sequence[tuple[float, Hypothesis]], *, pieces: Sequence[str], decode: Callable[[list[int]], str]
) -> Transcript:
    """The transcript of a recording; a word that has no confidence of its own has the least of its tokens.

    Args:
      found: the start in seconds and the hypothesis of each segment, in order.
      pieces: each token's text, by id.
      decode: function from token ids to text.

    Source of the minimum: Laptev and Ginsburg 2022, Fast entropy-based methods of word-level confidence estimation for
    end-to-end automatic speech recognition (arXiv 2212.08703), one of the aggregations compared there.
    """
    token_ids = [token for _, hyp in found for token in hyp.tokens]
    frames = [start / ENCODER_FRAME_SHIFT + frame for start, hyp in found for frame in hyp.frames]
    given = [round(confidence, DIGITS) for _, hyp in found for confidence in hyp.confidences or ()]
    sure = given if len(given) == len(token_ids) and found else None
    tokens, times = [pieces[i] for i in token_ids], [frame_centre(frame) for frame in frames]
    words = []
    for group in word_groups(tokens):
        if text := decode([token_ids[i] for i in group]).strip():
            least = None if sure is None else min(sure[i] for i in group)
            words.append(_word(text, frames[group[0]], frames[group[-1]], least))
    if not any(hyp.words for _, hyp in found):
        return Transcript(decode(token_ids).strip(), tokens, times, words, sure)
    of_graph = [word for start, hyp in found for word in _words_of_graph(hyp, start / ENCODER_FRAME_SHIFT)]
    if len(of_graph) == len(words):  # a graph may read a run of a token as one token or two; then they differ
        of_graph = [_at(word, by_tokens) for word, by_tokens in zip(of_graph, words)]
    return Transcript(join_words(word.text for word in of_graph), tokens, times, of_graph, sure)


def _words_of_graph(hyp: Hypothesis, offset: float) -> list[Word]:
    """The words of a graph with a lexicon, each at the frame of the arc that gave it."""
    words, frames = hyp.words or [], hyp.word_frames or []
    sure: Sequence[float | None] = hyp.word_confidences or [None] * len(words)
    return [
        _word(text, offset + frame, offset + frame, None if c is None else round(c, DIGITS))
        for text, frame, c in zip(words, frames, sure)
    ]


def _at(word: Word, by_tokens: Word) -> Word:
    """A word of a graph with the times of its tokens and, if it has no confidence of its own, their confidence."""
    confidence = by_tokens.confidence if word.confidence is None else word.confidence
    return by_tokens._replace(text=word.text, confidence=confidence)


def _word(text: str, first: float, last: float, confidence: float | None) -> Word:
    """A word from half a frame before the centre of its first encoder frame to half a frame after that of its last."""
    half = ENCODER_FRAME_SHIFT / 2
    return Word(text, round(frame_centre(first) - half, 3), round(frame_centre(last) + half, 3), confidence)


def word_groups(tokens: Sequence[str]) -> list[list[int]]:
    """Positions of each word's tokens; in scripts without spaces each character is one."""
    before = ("", *tokens)
    starts = itertools.accumulate(_starts_word(token, last) for token, last in zip(tokens, before))
    numbered = itertools.groupby(enumerate(starts), key=lambda item: item[1])
    return [[position for position, _ in group] for _, group in numbered]


def _starts_word(token: str, before: str) -> bool:
    return token.startswith(WORD_START) or is_boundary(before, token)
