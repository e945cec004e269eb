"""How many units suit a corpus."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from shared_moe_conformer.data.tokenizer import train_tokenizer
from shared_moe_conformer.text import is_ideograph, words_of

SIZES = {0: 64, 10_000: 128, 50_000: 256, 250_000: 500}
"""Byte-pair units from so many words on: asterisk's 2,000 words have 64, LibriSpeech's 100 hours 500."""
SMALLEST = (500, 256, 128, 64, 48, 32, 24, 16)
MOST_CHARACTERS = 300
"""With more, as in Korean, there is nothing to be won by joining them."""


def choose_vocab_size(texts: Sequence[str], *, covered: str = "") -> int | None:
    """Byte-pair units for training texts; None: each character is one, as where words have no spaces between them.

    Args:
      texts: of training.
      covered: further characters that need units.
    """
    letters = [character for text in texts for character in text if not character.isspace()]
    characters = set(letters) | set(covered) - {" "}
    if sum(map(is_ideograph, letters)) > len(letters) / 2 or len(characters) > MOST_CHARACTERS:
        return None
    num_words = sum(len(words_of(text)) for text in texts)
    wanted = max(size for words, size in SIZES.items() if num_words >= words)
    wanted = next(size for size in sorted({*SIZES.values(), 1000}) if size >= max(wanted, 1.5 * len(characters)))
    return next((size for size in (wanted, *SMALLEST) if size <= wanted and _can_train(texts, size, covered)), None)


def _can_train(texts: Sequence[str], vocab_size: int, covered: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            train_tokenizer(texts, Path(folder) / "lang", vocab_size, covered=covered)
        except ValueError:
            return False
    return True
