from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from shared_moe_conformer.speech.transcript import (
    EMPTY,
    LINE_WIDTH,
    Transcript,
    as_json,
    as_text,
    as_times,
    display_width,
    make_transcript,
)

PIECES = ["<blk>", "<sos/eos>", "<unk>", "▁HE", "L", "LO", "▁WORLD", "▁", "▁I"]


def decode(ids: list[int]) -> str:
    return "".join(PIECES[i] for i in ids).replace("▁", " ")


def transcript(ids: list[int]) -> Transcript:
    return make_transcript(ids, range(0, 3 * len(ids), 3), pieces=PIECES, decode=decode, frame_shift=0.04)


def test_words_start_at_their_first_token_and_end_after_their_last() -> None:
    result = transcript([3, 4, 5, 6])
    assert result.text == "HELLO WORLD"
    assert result.times == [0.0, 0.12, 0.24, 0.36]
    assert result.words == [("HELLO", 0.0, 0.28), ("WORLD", 0.36, 0.4)]


def test_each_chinese_character_is_a_word() -> None:
    pieces = ["▁0", "用", "模", "型", "G", "PT"]
    result = make_transcript(
        [1, 4, 5, 2, 3], range(5), pieces=pieces, decode=lambda ids: "".join(pieces[i] for i in ids), frame_shift=0.04
    )
    assert result.text == "用GPT模型"
    assert [word.text for word in result.words] == ["用", "GPT", "模", "型"]


@given(st.lists(st.integers(3, len(PIECES) - 1)))
def test_words_are_the_text_and_lie_in_order(ids: list[int]) -> None:
    result = transcript(ids)
    assert [word.text for word in result.words] == result.text.split()
    assert result.tokens == [PIECES[i] for i in ids]
    assert all(word.start < word.end for word in result.words)
    assert all(first.end <= second.start for first, second in zip(result.words, result.words[1:]))


def test_nothing_said_is_empty() -> None:
    assert transcript([]) == EMPTY
    assert as_text("a.wav", EMPTY) == ""
    assert as_times("a.wav", EMPTY) == "a.wav: (nothing recognised)"


def test_times_stand_under_their_tokens() -> None:
    name, tokens, times = as_times("a.wav", transcript([3, 4, 6])).splitlines()
    assert name == "a.wav: HEL WORLD"
    assert [tokens.index(t) for t in ("▁HE", "L", "▁WORLD")] == [times.index(t) for t in ("0.00", "0.12", "0.24")]


def test_wide_characters_take_two_columns() -> None:
    wide = Transcript("你好世界", ["▁你好", "世界"], [0.0, 1.0], [])
    _, tokens, times = as_times("a.wav", wide).splitlines()
    assert display_width(tokens[: tokens.index("世")]) == times.index("1.00")


@given(st.lists(st.integers(3, len(PIECES) - 1), max_size=200))
def test_no_token_is_lost_in_wrapping_and_no_line_is_too_long(ids: list[int]) -> None:
    result = transcript(ids)
    _, *lines = as_times("a.wav", result).splitlines()
    assert [token for line in lines[::2] for token in line.split()] == result.tokens
    assert [float(time) for line in lines[1::2] for time in line.split()] == result.times
    assert max((display_width(line) for line in lines), default=0) <= LINE_WIDTH
    assert len(lines) <= 2 * math.ceil(len(ids) / 8)


def test_json_is_one_line_with_everything() -> None:
    line = as_json("a.wav", transcript([3, 6]))
    values = json.loads(line)
    assert "\n" not in line
    assert values["file"] == "a.wav"
    assert values["tokens"] == ["▁HE", "▁WORLD"]
    assert values["words"][1] == {"text": "WORLD", "start": 0.12, "end": 0.16}
