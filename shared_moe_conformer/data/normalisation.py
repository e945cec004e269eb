"""Transcripts as training needs them: normalisation that knows languages and scripts."""

from __future__ import annotations

import re
import unicodedata

from shared_moe_conformer.text import is_spaceless, join_words, words_of

DOTLESS_I = ("tr", "tur", "az", "aze", "azj", "crh", "gag")
"""Languages whose i and \u0131 are two letters, as are their capitals \u0130 and I.

Source: Unicode, SpecialCasing.txt, conditions tr and az; Crimean Tatar and Gagauz have the same alphabet.
"""

_HEBREW = "\u05b0-\u05bd\u05bf\u05c1\u05c2\u05d0-\u05ea"
"""Hebrew letters and points, as a class of a regular expression."""
_GERESH, _GERSHAYIM = "\u05f3", "\u05f4"
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u00b4\u0060\uff07", "'"))
_SPELLINGS = str.maketrans({
    "\u0140": "l\u00b7",  # Catalan, with the dot in one character
    "\u013f": "L\u00b7",
    **dict.fromkeys("\u2022\u2027\u2219\u22c5", "\u00b7"),
    "\u1e9e": "\u00df",  # of which upper case makes SS
    "\u0640": "",  # lengthens Arabic words for the eye
    "\u055b": "",  # Armenian marks of stress, exclamation and question stand inside words
    "\u055c": "",
    "\u055e": "",
    "\u200b": " ",  # invisible, and yet the end of a word in Khmer and Thai
})  # fmt: skip
_LETTER = r"[^\W\d_]"
_NEIGHBOURS = {
    _GERESH: (rf"[{_HEBREW}]", ".?"),
    _GERSHAYIM: (rf"[{_HEBREW}]", rf"[{_HEBREW}]"),
    "\u00b7": (rf"{_LETTER}|[\u0300-\u036f]", _LETTER),
}
"""Marks that are part of words, and what must stand before and behind them."""
_JOINING = "\u0620-\u064a\u066e-\u06d3\u06fa-\u06ff\u0750-\u077f\u08a0-\u08c9\u0710-\u072f"
ZWNJ, ZWJ = "\u200c", "\u200d"
_SINGLE_CASE = str.maketrans(
    {capital: capital - 0x1C90 + 0x10D0 for capital in (*range(0x1C90, 0x1CBB), *range(0x1CBD, 0x1CC0))}
)
"""Georgian capitals, which only headlines have, to the letters of all other texts."""

_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f]")


def normalise(text: str, case: str, *, language: str = "und") -> str:
    """A transcript as training needs it, in Unicode's form NFC.

    Args:
      text: any text.
      case: `upper` or `lower`: words in that case, without punctuation except what is part of words (apostrophes, the
        Hebrew geresh and gershayim, the Catalan middle dot, joiners that change letters); numbers and the signs
        % & + @ # stay. `none`: only spaces and control characters change.
      language: BCP-47 code; some languages have a case of their own.
    """
    text = unicodedata.normalize("NFC", _CONTROL.sub(" ", text))
    if case == "none":
        return " ".join(text.split())
    text = _without_formats(_spelled(text))
    kept = "".join(character if _is_kept(text, position) else " " for position, character in enumerate(text))
    words = (word.strip("'") for part in kept.split() for word in words_of(part.strip("'")))
    return unicodedata.normalize("NFC", _in_case(join_words(filter(None, words)), case, language))


def _spelled(text: str) -> str:
    """The text with one spelling of each apostrophe, dot and Hebrew mark."""
    return _with_geresh(unicodedata.normalize("NFC", text.translate(_SPELLINGS).translate(_APOSTROPHES)))


def _without_formats(text: str) -> str:
    """The text without soft hyphens, directions and other invisible characters, except joiners that change letters.

    The marks beside a joiner that goes may change places, and another joiner then stands beside another mark.
    """
    text = "".join(c for c in text if c in ZWNJ + ZWJ or not _is_invisible(c))
    before = ""
    while text != before:
        before = text
        text = re.sub(f"{ZWNJ}+", ZWNJ, unicodedata.normalize("NFC", text))
        text = "".join(c for i, c in enumerate(text) if c not in ZWNJ + ZWJ or _is_needed_joiner(text, i))
    return text


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f" or character >= "\U000e0100"


def _is_needed_joiner(text: str, position: int) -> bool:
    """Whether a joiner stands between letters of Arabic scripts, or beside an Indic virama.

    Source: Unicode Standard Annex 31, section 2.3, contexts A1, A2 and B; for a joiner before a virama the Unicode
    Standard, section 12.2, Bengali.
    """
    before, after = text[max(position - 1, 0) : position], text[position + 1 : position + 2]
    virama_before, virama_after = (_is_virama(c) for c in (before, after))
    if text[position] == ZWJ:
        return virama_before or virama_after
    if text[position] != ZWNJ or not after:
        return False
    joined = re.fullmatch(rf"[{_JOINING}\u064b-\u065f\u0670]", before) and re.fullmatch(rf"[{_JOINING}]", after)
    return bool(joined) or (virama_before and unicodedata.category(after)[0] == "L")


def _is_virama(character: str) -> bool:
    """Whether this sign of an Indic script, which has spaces, takes a consonant its vowel."""
    return bool(character) and unicodedata.combining(character) == 9 and not is_spaceless(character)


def _is_kept(text: str, position: int) -> bool:
    character = text[position]
    if character in _NEIGHBOURS:
        around = (text[max(position - 1, 0) : position], text[position + 1 : position + 2])
        fitting = zip(_NEIGHBOURS[character], around, strict=True)
        return all(re.fullmatch(pattern, c, re.DOTALL) and not is_spaceless(c) for pattern, c in fitting)
    return unicodedata.category(character)[0] in "LMN" or character in f"'%&+@#{ZWNJ}{ZWJ}"


def _in_case(text: str, case: str, language: str) -> str:
    primary = re.split("[-_]", language.lower())[0]
    dotless = primary in DOTLESS_I
    if case == "lower":
        text = (text.replace("I", "\u0131") if dotless else text).replace("\u0130", "i").lower()
    if primary not in ("lt", "lit"):  # Lithuanian writes a dot below an accent; elsewhere it comes of a wrong lower()
        text = re.sub("i\u0307+", "i", text)
    if case == "upper":
        return (text.replace("i", "\u0130") if dotless else text).upper().translate(_SINGLE_CASE)
    return text


_PREFIXES = "\u05d5\u05d1\u05d4\u05db\u05dc\u05de\u05e9"
"""Letters of and, in, the, as, to, from, that; they are written as one word with the next, up to four of them."""
_DOUBLED = re.compile(rf"(?<=[{_HEBREW}])''(?=[{_HEBREW}])")
_BEHIND_PREFIX = re.compile(rf"(?<![\w{_HEBREW}\"'\u201c-\u201e])[{_PREFIXES}]{{1,4}}\Z")


def _quotes(characters: str) -> re.Pattern[str]:
    """Quotes of a kind: those inside a Hebrew word, those that end a quotation, and those that begin one."""
    word = rf"[\w{_HEBREW}]"
    return re.compile(
        rf"(?P<inside>(?<=[{_HEBREW}])[{characters}](?=[{_HEBREW}]))"
        rf"|(?P<closing>(?<=[^\s(\[{{])[{characters}](?!{word}))"
        rf"|(?P<opening>(?<!{word})[{characters}](?=\S))"
    )


_SINGLE, _DOUBLE = _quotes("'"), _quotes('"\u201c-\u201e')


def _with_geresh(text: str) -> str:
    """The text with a geresh or gershayim in place of each quote that is part of a Hebrew word.

    A quote between two letters is one, unless it opens a quotation behind a prefix, as in and"David": a quote that ends
    a quotation without a beginning shows that. Then the prefix and the quoted word become one word. An apostrophe that
    ends a word, but no quotation, is the geresh of an abbreviation.
    """
    text = _with_mark(_DOUBLED.sub('"', text), _DOUBLE, _GERSHAYIM)
    return _with_mark(text, _SINGLE, _GERESH)


def _with_mark(text: str, quotes: re.Pattern[str], mark: str) -> str:
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
            if behind_prefix is not None and (mark == _GERSHAYIM or not re.search(r"\s", text[behind_prefix:place])):
                characters[behind_prefix] = ""
            elif mark == _GERESH and re.match(f"[{_HEBREW}]", text[place - 1]):
                characters[place] = mark
        is_open, behind_prefix = quote.lastgroup == "opening", None
    return "".join(characters)


def has_dotless_i(text: str) -> bool:
    """Whether a text has letters that only languages of `DOTLESS_I` have."""
    return any(character in "\u0130\u0131" for character in unicodedata.normalize("NFC", text))
