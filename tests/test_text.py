from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_moe_conformer.text import counted, first_line, is_ideograph, join_words, normalise, words_of


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
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.text(st.sampled_from("AB \t甚至カ'é")))
def test_words_that_are_joined_are_the_same_words(text: str) -> None:
    assert words_of(join_words(words_of(text))) == words_of(text)
    if not any(map(is_ideograph, text)):
        assert words_of(text) == text.split()


def test_ideographs_are_joined_without_spaces() -> None:
    assert join_words(["用", "GPT", "模", "型"]) == "用GPT模型"
    assert join_words(["GPT", "OK"]) == "GPT OK"


@pytest.mark.parametrize(
    ("text", "upper", "as_it_is"),
    [
        ("Don\u2019t  stop \u2013 \u201cnow\u201d!", "DON'T STOP NOW", "Don\u2019t stop \u2013 \u201cnow\u201d!"),
        ("well-known, 'quoted' rock'n'roll", "WELL KNOWN QUOTED ROCK'N'ROLL", "well-known, 'quoted' rock'n'roll"),
        ("cafe\u0301 at 5:30", "CAF\u00c9 AT 5 30", "caf\u00e9 at 5:30"),
        ("甚至，出现。 ok", "甚至出现OK", "甚至，出现。 ok"),
        ("a_b C&A 100%", "A B C&A 100%", "a_b C&A 100%"),
        ("...", "", "..."),
    ],
)
def test_normalisation(text: str, upper: str, as_it_is: str) -> None:
    assert normalise(text, "upper") == upper
    assert normalise(text, "lower") == upper.lower()
    assert normalise(text, "none") == as_it_is


def test_capitals_are_composed_again() -> None:
    assert normalise("\u0390", "upper") == "\u03aa\u0301"


@given(st.text(max_size=30), st.sampled_from(["upper", "lower", "none"]))
def test_a_normalised_text_stays_as_it_is(text: str, case: str) -> None:
    once = normalise(text, case)
    assert normalise(once, case) == once == " ".join(once.split())


@pytest.mark.parametrize(("message", "line"), [("\nno such\nat all", "no such"), ("", "ValueError")])
def test_an_error_in_one_line(message: str, line: str) -> None:
    assert first_line(ValueError(message)) == line


def test_a_number_with_its_noun() -> None:
    assert [counted(n, "epoch") for n in (0, 1, 2, 1000)] == ["0 epochs", "1 epoch", "2 epochs", "1,000 epochs"]
