"""Geresh and gershayim, the marks inside Hebrew words, where they are typed as quotes."""

from __future__ import annotations

import re

LETTERS = "\u05b0-\u05bd\u05bf\u05c1\u05c2\u05d0-\u05ea"
"""Hebrew letters and points, as a class of a regular expression."""
GERESH, GERSHAYIM = "\u05f3", "\u05f4"
_PREFIXES = "\u05d5\u05d1\u05d4\u05db\u05dc\u05de\u05e9"
"""Letters of and, in, the, as, to, from, that; they are written as one word with the next, up to four of them."""
_DOUBLED = re.compile(rf"(?<=[{LETTERS}])''(?=[{LETTERS}])")
_BEHIND_PREFIX = re.compile(rf"(?<![\w{LETTERS}\"'\u201c-\u201e])[{_PREFIXES}]{{1,4}}\Z")


def _quotes(characters: str) -> re.Pattern[str]:
    """Quotes of a kind: those inside a Hebrew word, those that end a quotation, and those that begin one."""
    word = rf"[\w{LETTERS}]"
    return re.compile(
        rf"(?P<inside>(?<=[{LETTERS}])[{characters}](?=[{LETTERS}]))"
        rf"|(?P<closing>(?<=[^\s(\[{{])[{characters}](?!{word}))"
        rf"|(?P<opening>(?<!{word})[{characters}](?=\S))"
    )


_SINGLE, _DOUBLE = _quotes("'"), _quotes('"\u201c-\u201e')


def with_marks(text: str) -> str:
    """The text with a geresh or gershayim in place of each quote that is part of a Hebrew word.

    A quote between two letters is one, unless it opens a quotation behind a prefix, as in and"David": a quote that ends
    a quotation without a beginning shows that. Then the prefix and the quoted word become one word. An apostrophe that
    ends a word, but no quotation, is the geresh of an abbreviation.
    """
    text = _marked(_DOUBLED.sub('"', text), _DOUBLE, GERSHAYIM)
    return _marked(text, _SINGLE, GERESH)


def _marked(text: str, quotes: re.Pattern[str], mark: str) -> str:
    characters = list(text)
    is_open, behind_prefix = False, None
    for quote in quotes.finditer(text):
        place = quote.start()
        if quote.lastgroup == "inside":
            characters[place] = mark
            if not is_open and _BEHIND_PREFIX.search(text[:place]):
                behind_prefix = place
            continue
        if quote.lastgroup == "closing" and not is_open:
            # Single quotes hold a word: what ends a later one is rather an abbreviation's geresh.
            if behind_prefix is not None and (mark == GERSHAYIM or not re.search(r"\s", text[behind_prefix:place])):
                characters[behind_prefix] = ""
            elif mark == GERESH and re.match(f"[{LETTERS}]", text[place - 1]):
                characters[place] = mark
        is_open, behind_prefix = quote.lastgroup == "opening", None
    return "".join(characters)
