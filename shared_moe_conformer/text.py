"""What a word is, in scripts with spaces and in those without."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Chinese characters, their extensions, compatibility forms and iteration mark; hiragana and katakana.
_IDEOGRAPHS = "\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\s{_IDEOGRAPHS}]+")
_IDEOGRAPH = re.compile(rf"[{_IDEOGRAPHS}]")


def words_of(text: str) -> list[str]:
    """The words of a text: what stands between spaces, and each Chinese or Japanese character by itself.

    So the word error rate of Mandarin is its character error rate, as is usual, and a mixed text gets the mixed rate.
    """
    return _WORD.findall(text)


def join_words(words: Iterable[str]) -> str:
    """The text of words, with spaces where `words_of` needs them."""
    joined = " ".join(words)
    return re.sub(rf"(?<=[{_IDEOGRAPHS}]) | (?=[{_IDEOGRAPHS}])", "", joined)


def is_ideograph(character: str) -> bool:
    """Whether a character is a word by itself."""
    return _IDEOGRAPH.fullmatch(character) is not None
