"""What was said and when: text, tokens, and words with their times."""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from shared_moe_conformer.text import is_ideograph

WORD_START = "\u2581"
"""Mark that SentencePiece puts before the first piece of a word."""


class Word(NamedTuple):
    """A word and when it was said, in seconds."""

    text: str
    start: float
    """When its first token was found."""
    end: float
    """One encoder frame after its last token was found: a little before the word really ends."""


class Transcript(NamedTuple):
    """The result of transcribing one recording; all parts are empty where nothing was said."""

    text: str
    tokens: list[str]
    """Units as in tokens.txt; a word's first one begins with U+2581."""
    times: list[float]
    """When each token was found, in seconds from the start."""
    words: list[Word]


EMPTY = Transcript("", [], [], [])
LINE_WIDTH = 100
INDENT = "    "


def make_transcript(
    token_ids: Sequence[int],
    frames: Sequence[float],
    *,
    pieces: Sequence[str],
    decode: Callable[[list[int]], str],
    frame_shift: float,
    words: Sequence[tuple[str, float]] | None = None,
) -> Transcript:
    """The transcript of a search's result.

    Args:
      token_ids: tokens in order.
      frames: the encoder frame at which each was found, counted from the recording's start.
      pieces: every token's text, by id.
      decode: token ids to text.
      frame_shift: seconds from one encoder frame to the next.
      words: the words, where a graph with a lexicon gave them, and the frame at which it gave each; None: the tokens
        alone tell the text.
    """
    times = [round(frame * frame_shift, 3) for frame in frames]
    tokens = [pieces[i] for i in token_ids]
    spelled = []
    for group in _word_groups(tokens):
        text = decode([token_ids[i] for i in group]).strip()
        if text:
            spelled.append(Word(text, times[group[0]], round(times[group[-1]] + frame_shift, 3)))
    if words is None:
        return Transcript(decode(list(token_ids)).strip(), tokens, times, spelled)
    if len(words) == len(spelled):
        given = [word._replace(text=text) for word, (text, _) in zip(spelled, words)]
    else:  # a run of a token, which a graph may read as one token or as two
        given = [Word(text, round(f * frame_shift, 3), round((f + 1) * frame_shift, 3)) for text, f in words]
    return Transcript(" ".join(text for text, _ in words), tokens, times, given)


def _word_groups(tokens: Sequence[str]) -> list[list[int]]:
    """Positions of each word's tokens; a Chinese or Japanese character is a word by itself."""
    before = ("", *tokens)
    starts = itertools.accumulate(_starts_word(token, last) for token, last in zip(tokens, before))
    numbered = itertools.groupby(enumerate(starts), key=lambda item: item[1])
    return [[position for position, _ in group] for _, group in numbered]


def _starts_word(token: str, before: str) -> bool:
    return token.startswith(WORD_START) or is_ideograph(token[:1]) or is_ideograph(before[-1:])


def as_text(name: str, transcript: Transcript) -> str:
    """The text alone, on one line."""
    return transcript.text


def as_times(name: str, transcript: Transcript) -> str:
    """`name: text`, and under it each token over its time in seconds."""
    rows = [f"{name}: {transcript.text or '(nothing recognised)'}"]
    columns = [(token, f"{time:.2f}") for token, time in zip(transcript.tokens, transcript.times)]
    for line in _wrapped(columns, width=LINE_WIDTH - len(INDENT)):
        tokens = (token + " " * (_column_width((token, time)) - display_width(token)) for token, time in line)
        times = (time.ljust(_column_width((token, time))) for token, time in line)
        rows += [(INDENT + "".join(tokens)).rstrip(), (INDENT + "".join(times)).rstrip()]
    return "\n".join(rows)


def as_json(name: str, transcript: Transcript) -> str:
    """One JSON object on one line."""
    words = [word._asdict() for word in transcript.words]
    return json.dumps({"file": name, **transcript._asdict(), "words": words}, ensure_ascii=False)


def display_width(text: str) -> int:
    """Columns that a text takes in a terminal."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _column_width(column: tuple[str, str]) -> int:
    return max(display_width(cell) for cell in column) + 2


def _wrapped(columns: list[tuple[str, str]], *, width: int) -> Iterator[list[tuple[str, str]]]:
    """The columns in lines of at most this width, and of at least one column."""
    line: list[tuple[str, str]] = []
    for column in columns:
        if line and sum(map(_column_width, [*line, column])) > width:
            yield line
            line = []
        line.append(column)
    if line:
        yield line
