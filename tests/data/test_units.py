from __future__ import annotations

import random

from shared_moe_conformer.data.units import choose_vocab_size

WORDS = [first + second + third for first in "BDGKLMNPRSTV" for second in "AEIOU" for third in "LMNRST"]


def texts(num_words: int) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=10)) for _ in range(num_words // 10)]


def test_more_words_get_more_units() -> None:
    assert choose_vocab_size(texts(2000)) == 64
    assert choose_vocab_size(texts(12_000)) == 128


def test_few_words_get_what_they_can_fill() -> None:
    assert choose_vocab_size(["YES NO", "NO YES YES"]) == 16
    assert choose_vocab_size(["A"]) is None, "one character needs no joining"


def test_chinese_and_scripts_of_many_characters_are_written_in_characters() -> None:
    assert choose_vocab_size(["甚至出现交易几乎停滞的情况", "OK 一二线城市"]) is None
    assert choose_vocab_size(["".join(chr(0xAC00 + i) for i in range(400))]) is None


def test_every_character_has_room() -> None:
    size = choose_vocab_size(texts(2000), covered="".join(chr(0x400 + i) for i in range(80)))
    assert size == 256, "half as many again as there are characters, and no more"
