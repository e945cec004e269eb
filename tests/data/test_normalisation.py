from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared_moe_conformer.data.normalisation import has_dotless_i, normalise


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


LETTERS = st.text(
    st.sampled_from(
        "aiI\u0130\u0131\u0307l\u00b7'\u05d0\u05d5\u05f3\u05f4\" "
        "\u00ad\u200b\u200c\u200d\u0645\u06cc\u0915\u094d\u0e01\u0e34"
    )
)


@example("\u0300\u200c\u094d\u200cA", "upper", "und")
@given(
    st.text(max_size=30) | LETTERS, st.sampled_from(["upper", "lower", "none"]), st.sampled_from(["und", "tr", "lt"])
)
def test_a_normalised_text_stays_as_it_is(text: str, case: str, language: str) -> None:
    once = normalise(text, case, language=language)
    assert normalise(once, case, language=language) == once == " ".join(once.split())
    assert unicodedata.is_normalized("NFC", once)


@pytest.mark.parametrize("language", ["tr", "az-Latn-AZ", "TUR", "crh"])
def test_dotted_and_dotless_i_are_two_letters_in_turkish(language: str) -> None:
    assert (
        normalise("I\u015fIK \u0130zmir'de, D\u0130K", "lower", language=language) == "\u0131\u015f\u0131k izmir'de dik"
    )
    assert normalise("\u0131l\u0131k iyi", "upper", language=language) == "ILIK \u0130Y\u0130"
    assert normalise("I\u0307zmir i\u0307yi", "lower", language=language) == "izmir iyi", (
        "as a wrong lower() leaves them"
    )


def test_i_elsewhere() -> None:
    assert normalise("\u0130zmir IS", "lower", language="en") == "izmir is"
    assert normalise("i\u0307\u0301", "lower", language="lt") == "i\u0307\u0301"
    assert has_dotless_i("I\u0307") and has_dotless_i("k\u0131z") and not has_dotless_i("Ii")


def test_georgian_has_one_case() -> None:
    assert normalise("\u10d0\u10d1", "upper") == normalise("\u1c90\u1c91", "lower") == "\u10d0\u10d1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("co\u00adop\u00aderate", "cooperate"),
        ("\ufeffone\u200e two\u2060three", "one twothree"),
        ("auf\u200clage", "auflage"),
        ("\u0646\u0645\u06cc\u200c\u0634\u0648\u062f", "\u0646\u0645\u06cc\u200c\u0634\u0648\u062f"),
        ("\u0646\u0645\u06cc\u200c \u0634\u0648\u062f", "\u0646\u0645\u06cc \u0634\u0648\u062f"),
        ("\u0dc1\u0dca\u200d\u0dbb\u0dd3", "\u0dc1\u0dca\u200d\u0dbb\u0dd3"),
        ("\u09b0\u200d\u09cd\u09af", "\u09b0\u200d\u09cd\u09af"),
        ("\u0915\u094d\u200c\u0937", "\u0915\u094d\u200c\u0937"),
        ("\u0635\u0640\u0640\u062d", "\u0635\u062d"),
        ("\u2764\ufe0f ok", "ok"),
        ("\u1780\u200b\u1781", "\u1780\u1781"),
    ],
)
def test_invisible_characters_do_not_part_words(text: str, expected: str) -> None:
    assert normalise(text, "lower") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u05e6\u05d4\u05f4\u05dc", "\u05e6\u05d4\u05f4\u05dc"),
        ('\u05e6\u05d4"\u05dc', "\u05e6\u05d4\u05f4\u05dc"),
        ('"\u05e9\u05dc\u05d5\u05dd"', "\u05e9\u05dc\u05d5\u05dd"),
        ("\u05e6'\u05d9\u05e4\u05e1", "\u05e6\u05f3\u05d9\u05e4\u05e1"),
        ("\u05e8\u05f3 \u05f3", "\u05e8\u05f3"),
        ("Col\u00b7lecci\u00f3 \u00b7 fi", "col\u00b7lecci\u00f3 fi"),
        ("x\u0301\u00b7x", "x\u0301\u00b7x"),
        ("\u1780\u17d2\u200d\u1781", "\u1780\u17d2\u1781"),
        ("co\u0140ecci\u00f3", "col\u00b7ecci\u00f3"),
        ("\u8fbe\u00b7\u82ac\u5947", "\u8fbe\u82ac\u5947"),
        ("d\u00b4acord", "d'acord"),
        ("\u056b\u0576\u0579\u0578\u055e\u0582", "\u056b\u0576\u0579\u0578\u0582"),
    ],
)
def test_marks_between_letters_are_part_of_words(text: str, expected: str) -> None:
    assert normalise(text, "lower") == expected


def test_control_characters_end_words() -> None:
    assert normalise("ONE\0TWO \x07\x85three", "none") == "ONE TWO three"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('ו"דוד"', "ודוד"),
        ('אמר ש"הכל בסדר" והלך', "אמר שהכל בסדר והלך"),
        ('וכשה"ארץ" נסגר', "וכשהארץ נסגר"),
        ("ב\u201dשלום\u201d", "בשלום"),
        ("ה\u201eארץ\u201d", "הארץ"),
        ('ו"צה"ל"', "וצה״ל"),
        ('"צה"ל" ניצח', "צה״ל ניצח"),
        ('"דו"ח מס\' 5" של מנכ"ל', "דו״ח מס׳ 5 של מנכ״ל"),
        ('50 מ"מ ב"ארץ"', "50 מ״מ בארץ"),
        ('ב"כ הנאשם אמר: "לא"', "ב״כ הנאשם אמר לא"),
        ('("ש"ס")', "ש״ס"),
        ("צה''ל", "צה״ל"),
        ("''שלום''", "שלום"),
        ("ו'דוד'", "ודוד"),
        ("'שלום' ו'דוד'", "שלום ודוד"),
        ("ג'ורג' בר' הרצל", "ג׳ורג׳ בר׳ הרצל"),
        ("צ'רצ'יל, ר' יוסי", "צ׳רצ׳יל ר׳ יוסי"),
        ("'ר יוסי'", "ר יוסי"),
        ('the "red" d\'or', "the red d'or"),
    ],
)
def test_quotes_that_are_part_of_words_and_those_that_quote(text: str, expected: str) -> None:
    assert normalise(text, "lower") == expected
