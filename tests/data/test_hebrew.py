from __future__ import annotations

import pytest

from shared_moe_conformer.data.normalisation import normalise


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
