from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_moe_conformer.text import (
    counted,
    duration,
    first_line,
    is_boundary,
    is_spaceless,
    join_words,
    shown,
    words_of,
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("THE QUICK  FOX", ["THE", "QUICK", "FOX"]),
        ("L'ÉTÉ", ["L'ÉTÉ"]),
        ("", []),
        ("甚至出现", ["甚", "至", "出", "现"]),
        ("甚 至出", ["甚", "至", "出"]),
        ("用GPT模型 OK", ["用", "GPT", "模", "型", "OK"]),
        ("カレーを", ["カ", "レ", "ー", "を"]),
        ("안녕 하세요", ["안녕", "하세요"]),
        ("\U00020000A", ["\U00020000", "A"]),
        ("ﾃﾚﾋﾞ", ["ﾃ", "ﾚ", "ﾋ", "ﾞ"]),
        ("น้ำดื่ม 12", ["น้", "ำ", "ดื่", "ม", "12"]),
        ("ສະບາຍດີ", ["ສ", "ະ", "ບ", "າ", "ຍ", "ດີ"]),
        ("ខ្មែរ", ["ខ្មែ", "រ"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.text(st.sampled_from("AB \t甚至カ'éกน\u0e34\u0e48ក\u17d2\u1039က")))
def test_words_that_are_joined_are_the_same_words(text: str) -> None:
    assert words_of(join_words(words_of(text))) == words_of(text)
    if not any(map(is_spaceless, text)):
        assert words_of(text) == text.split()


def test_ideographs_are_joined_without_spaces() -> None:
    assert join_words(["用", "GPT", "模", "型"]) == "用GPT模型"
    assert join_words(["GPT", "OK"]) == "GPT OK"


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("a", "'a'"),
        ("\u200d", "U+200D ZERO WIDTH JOINER"),
        ("\x07", "U+0007"),
        ("\u0e48", "U+0E48 THAI CHARACTER MAI EK"),
    ],
)
def test_characters_without_a_picture_are_named(character: str, name: str) -> None:
    assert shown(character) == name


@pytest.mark.parametrize(
    ("before", "after", "boundary"),
    [
        ("a", "b", False),
        ("甚", "至", True),
        ("A", "至", True),
        ("ก", "\u0e34", False),
        ("\u0e34", "น", True),
        ("\u17d2", "ក", False),
    ],
)
def test_words_end_between_characters_of_scripts_without_spaces(before: str, after: str, boundary: bool) -> None:
    assert is_boundary(before, after) is boundary


@pytest.mark.parametrize(("message", "line"), [("\nno such\nat all", "no such"), ("", "ValueError")])
def test_an_error_in_one_line(message: str, line: str) -> None:
    assert first_line(ValueError(message)) == line


def test_a_number_with_its_noun() -> None:
    assert [counted(n, "epoch") for n in (0, 1, 2, 1000)] == ["0 epochs", "1 epoch", "2 epochs", "1,000 epochs"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 seconds"), (119, "119 seconds"), (120, "2 minutes"), (7199, "120 minutes"), (9000, "2.5 hours"),
     (172800, "2.0 days")],
)  # fmt: skip
def test_lengths_of_time(seconds: float, said: str) -> None:
    assert duration(seconds) == said
