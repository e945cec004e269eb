"""From what the game shows to words, and which lines do not tell what is said."""

from __future__ import annotations

import re
import unicodedata

LANGUAGES = {"nl": "Dutch", "cs": "Czech"}

DIGITS = {
    "nl": ["nul", "een", "twee", "drie", "vier", "vijf", "zes", "zeven", "acht", "negen"],
    "cs": ["nula", "jedna", "dva", "tři", "čtyři", "pět", "šest", "sedm", "osm", "devět"],
}

QUOTES_AND_DASHES = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u00b4": "'", "\u2013": "-", "\u2014": "-", "\u2026": " "}
)


def reason_to_drop(text: str, normalised: str) -> str | None:
    """Why nobody can tell from a text what is said; None where one can.

    Args:
      text: as the game shows it.
      normalised: what `normalise` makes of it.
    """
    rules = {
        "a place for a word that the game fills in": r"%\d",
        "a number that can be read in several ways": r"\d\d|\d\w",
        "a symbol that can be read in several ways": r"[\\/<>+&@#=*_^|$%]",
        "an address that can be read in several ways": r"\bhttp|\bwww\.|\w\.(org|com|net)\b",
    }
    if not normalised:
        return "no words"
    if not all("LATIN" in unicodedata.name(letter) for letter in normalised if letter.isalpha()):
        return "another alphabet"
    return next((reason for reason, pattern in rules.items() if re.search(pattern, text)), None)


def normalise(text: str, language: str) -> str:
    """Lower-case words: single digits spelled, punctuation gone, apostrophes inside words kept."""
    text = unicodedata.normalize("NFC", text).translate(QUOTES_AND_DASHES).lower()
    text = re.sub(r"[0-9]", lambda digit: f" {DIGITS[language][int(digit[0])]} ", text)
    text = re.sub(r"[^\w' ]|_", " ", text)
    words = (word.strip("'") for word in text.split())
    return " ".join(word for word in words if word)
