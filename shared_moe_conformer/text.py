"""Words of texts, in scripts with and without spaces; characters, counts, errors and tables for reading."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

# Chinese characters, their extensions, compatibility forms and iteration mark; hiragana and katakana, wide and narrow;
# letters of Thai, Lao, Burmese and Khmer. Their digits make numbers, as others do.
_LETTERS = (
    "\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af"
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6\u0edc-\u0edf"
    "\u1000-\u102a\u103f\u1050-\u1055\u105a-\u105d\u1780-\u17b3\u17d7\u17dc"
)
# Marks above, below or beside a letter of the last four scripts, and signs that put the next letter below it.
_MARKS = (
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u1038\u103a-\u103e\u1056-\u1059"
    "\u17b4-\u17d1\u17d3\u17dd"
)
_STACKING = "\u1039\u17d2"
_ATTACHED = rf"(?:[{_STACKING}][{_LETTERS}]?|[{_MARKS}])"
_WORD = re.compile(rf"[{_LETTERS}]{_ATTACHED}*|{_ATTACHED}+|[^\s{_LETTERS}{_MARKS}{_STACKING}]+")
_NEEDLESS_SPACE = re.compile(
    rf"(?<=[{_LETTERS}{_MARKS}]) (?![{_MARKS}{_STACKING}])| (?=[{_LETTERS}])(?<![{_STACKING}] )"
)
_SPACELESS = re.compile(rf"[{_LETTERS}{_MARKS}{_STACKING}]")


def words_of(text: str) -> list[str]:
    """The words of a text: parts between spaces, and single characters in scripts without spaces.

    These scripts are Chinese, Japanese, Thai, Lao, Burmese and Khmer; a character keeps its vowel signs and tone marks.
    Their word error rate is then a character error rate, as usual, and mixed texts get the mixed rate.
    """
    return _WORD.findall(text)


def join_words(words: Iterable[str]) -> str:
    """The text of words, with spaces only where `words_of` needs them."""
    return _NEEDLESS_SPACE.sub("", " ".join(words))


def is_spaceless(character: str) -> bool:
    """Whether a character belongs to a script that puts no spaces between words."""
    return _SPACELESS.fullmatch(character) is not None


def is_boundary(before: str, after: str) -> bool:
    """Whether a word ends between two neighbouring parts of a text, neither of them a space."""
    return len(words_of(before[-1:] + after[:1])) > 1


def shown(character: str) -> str:
    """A character in quotes, or the code point and name of an invisible one: `U+00AD SOFT HYPHEN`."""
    if unicodedata.category(character)[0] not in "CMZ":
        return repr(character)
    return " ".join(filter(None, (f"U+{ord(character):04X}", unicodedata.name(character, ""))))


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def one_line(message: object) -> str:
    """A message in one line, also where it quotes a file's name; control characters, which terminals obey, become ?."""
    return "".join("?" if unicodedata.category(c) == "Cc" else c for c in " ".join(str(message).split()))


def counted(number: int, noun: str) -> str:
    """A number with its noun, `1 run` or `2 runs`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """A duration in words: `40 seconds`, `25 minutes`, `3.5 hours`, `2.1 days`."""
    for unit, length in (("days", 86400), ("hours", 3600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def aligned_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "".join("  ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in rows)


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, without a line end after its last row."""
    first, *others = (f"| {' | '.join(row)} |" for row in (heads, *rows))
    return "\n".join([first, f"|{'---|' * len(heads)}", *others])
