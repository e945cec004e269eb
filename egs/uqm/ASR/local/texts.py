"""From the game's subtitles to words, and which subtitles do not tell what is said."""

from __future__ import annotations

import re

RULES = {
    "a number that can be read in several ways": r"\d",
    "a note in brackets, which may be spoken or not": r"[()\[\]{}]",
    "a symbol that can be read in several ways": r"[+%/=&@#$\\|~^_]",
}


def reason_to_drop(text: str) -> str | None:
    """Why nobody can tell from a subtitle what is said; None where one can."""
    if not normalise(text):
        return "no words"
    return next((reason for reason, pattern in RULES.items() if re.search(pattern, text)), None)


def normalise(text: str) -> str:
    """Upper-case words, as in LibriSpeech: punctuation gone, apostrophes inside words kept."""
    text = re.sub(r"[^A-Z' ]", " ", text.replace("`", "'").upper())
    words = (word.strip("'") for word in text.split())
    return " ".join(word for word in words if word)
