"""Marks in transcripts that nobody says: noises, laughter, unclear speech."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from shared_moe_conformer.text import counted

_SURE = (
    r"<[^<>\s][^<>]*>",
    r"\[[^\[\]]+\]",
    r"\{[^{}]+\}",
    "\u3010[^\u3010\u3011]+\u3011",
    "\uff3b[^\uff3b\uff3d]+\uff3d",
    r"\+\+[^\s+]+\+\+",
    "\u2047",
    r"(?<!\S)(?:%[^\W\d]\w*|![^\W\d]\w*|&=\S+)(?!\S)",
)
_DOUBTFUL = (
    r"\(\([^()]*\)\)",
    r"\([^()]*\)",
    "\uff08[^\uff08\uff09]*\uff09",
    r"\*+[^*\s](?:[^*]{0,40}[^*\s])?\*+|\S*\*\S*",
    r"(?<![^\W_])#(?:[^#\s][^#]{0,40}[^#\s]#(?!\w)|\S*)",
    r"(?<!\S)/[^/\s]+/(?!\w)",
)
_SURE_MARK, _MARK = (re.compile("|".join(patterns)) for patterns in (_SURE, (*_SURE, *_DOUBTFUL)))
_SURE_HALF, _HALF = (re.compile(rf"(?:{pattern})\S*") for pattern in (r"[\[\]{}]", r"[\[\]{}]|\((?=\w)"))
MAX_SHOWN = 5
"""Marks that one message names."""


def marks_in(text: str, *, are_words: bool = False) -> list[str]:
    """The marks in a transcript: `<unk>`, `[NOISE]`, `%uh`, `++UH++`, `(laughs)`, `*cough*`, `#noise` and the like.

    Speech corpora mark so what is no word: in brackets, behind %, !, &= or #, between ++, asterisks or slashes.

    Args:
      are_words: what is in round brackets, between asterisks or slashes, or behind # is said, so it is no mark.
    """
    return (_SURE_MARK if are_words else _MARK).findall(text)


def without_marks(text: str, *, are_words: bool = False) -> str:
    """The text without what `marks_in` finds, also where a mark stands in another."""
    pattern = _SURE_MARK if are_words else _MARK
    while (rest := pattern.sub(" ", text)) != text:
        text = rest
    return " ".join(text.split())


def half_bracket(text: str, *, are_words: bool = False) -> str:
    """The first bracket of a mark that has no other half, with its word; empty if there is none."""
    half = (_SURE_HALF if are_words else _HALF).search(without_marks(text, are_words=are_words))
    return half[0] if half else ""


def listed(marks: Iterable[str]) -> str:
    """The most frequent marks and how often each is there, in words."""
    counts = Counter(marks).most_common()
    more = f" and {counted(len(counts) - MAX_SHOWN, 'other')}" if len(counts) > MAX_SHOWN else ""
    return ", ".join(f"{mark} {counted(count, 'time')}" for mark, count in counts[:MAX_SHOWN]) + more
