"""Words of texts, in scripts with and without spaces, and normalisation of transcripts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# Chinese characters, their extensions, compatibility forms and iteration mark; hiragana and katakana.
_IDEOGRAPHS = "\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\s{_IDEOGRAPHS}]+")
_IDEOGRAPH = re.compile(rf"[{_IDEOGRAPHS}]")


def words_of(text: str) -> list[str]:
    """The words of a text: parts between spaces, and each Chinese or Japanese character by itself.

    The word error rate of Mandarin is then its character error rate, as usual, and mixed texts get the mixed rate.
    """
    return _WORD.findall(text)


def join_words(words: Iterable[str]) -> str:
    """The text of words, with spaces only where `words_of` needs them."""
    joined = " ".join(words)
    return re.sub(rf"(?<=[{_IDEOGRAPHS}]) | (?=[{_IDEOGRAPHS}])", "", joined)


def is_ideograph(character: str) -> bool:
    """Whether a character is a word by itself."""
    return _IDEOGRAPH.fullmatch(character) is not None


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def counted(number: int, noun: str) -> str:
    """A number with its noun, `1 run` or `2 runs`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


_QUOTES_AND_DASHES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u2013": "-", "\u2014": "-"})


def normalise(text: str, case: str) -> str:
    """A transcript as training needs it, in Unicode's form NFC.

    Args:
      text: any text.
      case: `upper` or `lower`: words in that case, without punctuation except apostrophes inside words; numbers and
        the signs % & + @ # stay. `none`: only spaces change.
    """
    text = unicodedata.normalize("NFC", text)
    if case == "none":
        return " ".join(text.split())
    text = text.translate(_QUOTES_AND_DASHES)
    kept = (c if c == "'" or unicodedata.category(c)[0] in "LMN" or c in "%&+@#" else " " for c in text)
    words = (word.strip("'") for word in "".join(kept).split())
    joined = join_words(word for part in words for word in words_of(part))
    return unicodedata.normalize("NFC", joined.upper() if case == "upper" else joined.lower())
