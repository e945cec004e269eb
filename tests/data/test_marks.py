from __future__ import annotations

import pytest

from shared_moe_conformer.data.marks import half_bracket, listed, marks_in, without_marks


def test_marks_of_what_is_no_word() -> None:
    assert marks_in("\uff3b\u7b11\uff3d one") == ["\uff3b\u7b11\uff3d"]
    text = "<unk> yes [door slams] {breath} %uh !SIL &=laughs 100 % a < b > 5! 50%off"
    assert marks_in(text) == ["<unk>", "[door slams]", "{breath}", "%uh", "!SIL", "&=laughs"]
    assert without_marks(text) == "yes 100 % a < b > 5! 50%off"
    others = "++UM++ one \u3010\u97f3\u3011 \u2047 c++ and g++"
    assert marks_in(others) == ["++UM++", "\u3010\u97f3\u3011", "\u2047"] and without_marks(others) == "one c++ and g++"


@pytest.mark.parametrize(
    ("text", "marks", "rest"),
    [
        ("(laughs) one (door slams)", ["(laughs)", "(door slams)"], "one"),
        ("((unclear)) one (( ))", ["((unclear))", "(( ))"], "one"),
        ("one \uff08\u7b11\uff09", ["\uff08\u7b11\uff09"], "one"),
        ("*cough* one **sighs** f***", ["*cough*", "**sighs**", "f***"], "one"),
        ("*door slams* one * two", ["*door slams*", "*"], "one two"),
        ("#noise one #door slams# #", ["#noise", "#door slams#", "#"], "one"),
        ("one /unintelligible/ two", ["/unintelligible/"], "one two"),
        ("C# and/or F#, 1/2", [], "C# and/or F#, 1/2"),
    ],
)
def test_marks_that_may_be_words(text: str, marks: list[str], rest: str) -> None:
    assert marks_in(text) == marks and without_marks(text) == rest
    assert not marks_in(text, are_words=True) and without_marks(text, are_words=True) == text


def test_brackets_without_their_other_half() -> None:
    assert [half_bracket(text) for text in ("[laughter one", "one} two", "one (laughs", "one [x] (y)", ":) 1) :(")] == [
        "[laughter",
        "}",
        "(laughs",
        "",
        "",
    ]
    assert not half_bracket("one (two", are_words=True) and half_bracket("[one (two", are_words=True) == "[one"


def test_marks_are_listed_by_their_number() -> None:
    assert listed(["<b>", "<a>", "<a>"]) == "<a> 2 times, <b> 1 time"
    assert listed(f"<{n}>" for n in range(7)).endswith("<4> 1 time and 2 others")
