from __future__ import annotations

import json
import math
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from shared_moe_conformer.decoding.hypothesis import Hypothesis
from shared_moe_conformer.speech.transcript import (
    CUE_WIDTH,
    EMPTY,
    FORMATS,
    LINE_WIDTH,
    LONGEST_CUE,
    Result,
    Transcript,
    Word,
    as_ctm,
    as_json,
    as_srt,
    as_text,
    as_times,
    as_vtt,
    display_width,
    transcript_of,
    write_results,
)

PIECES = ["<blk>", "<sos/eos>", "<unk>", "▁HE", "L", "LO", "▁WORLD", "▁", "▁I"]


def decode(ids: list[int]) -> str:
    return "".join(PIECES[i] for i in ids).replace("▁", " ")


def pieced(*found: tuple[float, Hypothesis]) -> Transcript:
    return transcript_of(found, pieces=PIECES, decode=decode)


def transcript(ids: list[int]) -> Transcript:
    return pieced((0.0, Hypothesis(ids, [3 * n for n in range(len(ids))], 0.0)))


def test_words_start_at_their_first_token_and_end_after_their_last() -> None:
    result = transcript([3, 4, 5, 6])
    assert result.text == "HELLO WORLD"
    assert result.times == [0.035, 0.155, 0.275, 0.395]
    assert result.words == [("HELLO", 0.015, 0.295, None), ("WORLD", 0.375, 0.415, None)]


def test_each_chinese_character_is_a_word() -> None:
    pieces = ["▁0", "用", "模", "型", "G", "PT"]
    hyp = Hypothesis([1, 4, 5, 2, 3], [*range(5)], 0.0)
    result = transcript_of([(0.0, hyp)], pieces=pieces, decode=lambda ids: "".join(pieces[i] for i in ids))
    assert result.text == "用GPT模型"
    assert [word.text for word in result.words] == ["用", "GPT", "模", "型"]


def test_words_of_a_graph_make_the_text_that_tokens_make() -> None:
    mixed = Hypothesis([], [], 0.0, words=["用", "GPT", "模", "型"], word_frames=[0, 1, 2, 3])
    assert pieced((0.0, mixed)).text == "用GPT模型"
    english = Hypothesis([], [], 0.0, words=["HELLO", "WORLD"], word_frames=[0, 9])
    assert pieced((0.0, english)).text == "HELLO WORLD"


@given(st.lists(st.integers(3, len(PIECES) - 1)))
def test_words_are_the_text_and_lie_in_order(ids: list[int]) -> None:
    result = transcript(ids)
    assert [word.text for word in result.words] == result.text.split()
    assert result.tokens == [PIECES[i] for i in ids]
    assert all(word.start < word.end for word in result.words)
    assert all(first.end <= second.start for first, second in zip(result.words, result.words[1:]))


def test_nothing_said_is_empty() -> None:
    assert pieced() == EMPTY


def test_a_word_is_as_sure_as_its_least_sure_token() -> None:
    result = pieced(
        (0.0, Hypothesis([3, 5], [0, 2], 0.0, confidences=[0.987, 0.5])),
        (4.0, Hypothesis([6], [1], 0.0, confidences=[0.25])),
    )
    assert result.confidences == [0.99, 0.5, 0.25]
    assert result.words == [("HELO", 0.015, 0.135, 0.5), ("WORLD", 4.055, 4.095, 0.25)]
    assert json.loads(as_json("a.wav", result))["words"][1]["confidence"] == 0.25
    unsure = pieced((0.0, Hypothesis([3, 5], [0, 2], 0.0)))
    assert unsure.confidences is None and unsure.words[0].confidence is None
    assert "confidence" not in as_json("a.wav", unsure)


def test_words_of_a_graph_keep_its_confidences() -> None:
    hyp = Hypothesis([3, 6], [0, 4], 0.0, ["HE", "WORLD"], [0.9, 0.8], [0, 4], [0.75, 0.5])
    assert [word.confidence for word in pieced((0.0, hyp)).words] == [0.75, 0.5]
    assert [word.confidence for word in pieced((0.0, hyp._replace(word_confidences=None))).words] == [0.9, 0.8]
    other = hyp._replace(words=["ONE"], word_frames=[4], word_confidences=[0.125])
    assert pieced((1.0, other)).words == [("ONE", 1.175, 1.215, 0.12)]


def said(*words: tuple[str, float, float]) -> Transcript:
    return Transcript(" ".join(text for text, _, _ in words), [], [], [Word(*word) for word in words])


GREETING = said(("HELLO", 0.5, 0.9), ("THERE", 1.0, 1.2), ("<R&D>", 3661.5, 3662.04))


def test_subrip() -> None:
    assert as_srt("a.wav", GREETING) == (
        "1\n00:00:00,500 --> 00:00:01,500\nHELLO THERE\n\n2\n01:01:01,500 --> 01:01:02,500\n<R&D>"
    )


def test_chinese_has_no_spaces() -> None:
    assert as_srt("a.wav", said(("甚", 0.5, 0.7), ("至", 0.8, 1.0))).endswith("\n甚至")


def test_webvtt() -> None:
    assert as_vtt("a.wav", GREETING) == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:01.500\nHELLO THERE\n\n01:01:01.500 --> 01:01:02.500\n&lt;R&amp;D&gt;"
    )


def test_ctm() -> None:
    assert as_ctm("calls/a b.wav", GREETING).splitlines() == [
        "a_b 1 0.50 0.40 HELLO",
        "a_b 1 1.00 0.20 THERE",
        "a_b 1 3661.50 0.54 <R&D>",
    ]
    sure = GREETING._replace(words=[GREETING.words[0]._replace(confidence=0.5)])
    assert as_ctm("a.wav", sure) == "a 1 0.50 0.40 HELLO 0.50"


def test_silence() -> None:
    assert (as_srt("a.wav", EMPTY), as_vtt("a.wav", EMPTY)) == ("", "WEBVTT")
    assert as_ctm("a.wav", EMPTY).startswith(";;")
    assert (as_text("a.wav", EMPTY), as_times("a.wav", EMPTY)) == ("", "a.wav: (nothing recognised)")


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(40, 3000), st.integers(0, 3000)), max_size=30))
def test_cues_hold_every_word_do_not_overlap_and_can_be_read(rows: list[tuple[int, int, int]]) -> None:
    words, time = [], 0
    for letters, duration, gap in rows:
        words.append(("X" * letters, time / 1000, (time + duration) / 1000))
        time += duration + gap
    cues = re.findall(r"^(\S+) --> (\S+)\n(.*)$", as_srt("a.wav", said(*words)), re.MULTILINE)
    assert " ".join(text for _, _, text in cues).split() == [word for word, _, _ in words]
    times = [seconds(clock) for begin, end, _ in cues for clock in (begin, end)]
    assert times == sorted(times)
    for begin, end, text in cues:
        assert " " not in text or len(text) <= CUE_WIDTH
        assert " " not in text or seconds(end) - seconds(begin) <= LONGEST_CUE + 0.002


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


SAID = Transcript("HELLO", ["\u2581HE", "LLO"], [0.5, 0.75], [Word("HELLO", 0.5, 0.79, 0.25)], [0.25, 0.5])
RESULTS = [Result("cut.2-1", "HELLO", SAID), Result("cut.1-0", "THERE", EMPTY)]


def lines(folder: Path, output_format: str) -> list[str]:
    path = write_results(RESULTS, folder / "greedy_search", name="test-epoch-1", output_format=output_format)
    assert path.name == f"hyps-test-epoch-1.{FORMATS[output_format][0]}"
    return path.read_text(encoding="utf-8").splitlines()


def test_every_format_has_every_utterance_in_order(tmp_path: Path) -> None:
    assert lines(tmp_path, "text") == ["cut.1-0", "cut.2-1 HELLO"]
    assert lines(tmp_path, "ctm") == [";; cut.1-0: nothing recognised", "cut.2-1 1 0.50 0.29 HELLO 0.25"]
    first, second = map(json.loads, lines(tmp_path, "jsonl"))
    assert (first["id"], first["ref"], first["text"], first["words"]) == ("cut.1-0", "THERE", "", [])
    assert second["words"] == [{"text": "HELLO", "start": 0.5, "end": 0.79, "confidence": 0.25}]
    assert second["confidences"] == [0.25, 0.5] and second["ref"] == "HELLO"


def test_times_stand_under_their_tokens() -> None:
    name, tokens, times = as_times("a.wav", transcript([3, 4, 6])).splitlines()
    assert name == "a.wav: HEL WORLD"
    assert [tokens.index(t) for t in ("▁HE", "L", "▁WORLD")] == [
        times.index(t) for t in (f"{time:.2f}" for time in (0.035, 0.155, 0.275))
    ]


def test_wide_characters_take_two_columns() -> None:
    wide = Transcript("你好世界", ["▁你好", "世界"], [0.0, 1.0], [])
    _, tokens, times = as_times("a.wav", wide).splitlines()
    assert display_width(tokens[: tokens.index("世")]) == times.index("1.00")


@given(st.lists(st.integers(3, len(PIECES) - 1), max_size=200))
def test_no_token_is_lost_in_wrapping_and_no_line_is_too_long(ids: list[int]) -> None:
    result = transcript(ids)
    _, *lines = as_times("a.wav", result).splitlines()
    assert [token for line in lines[::2] for token in line.split()] == result.tokens
    assert [time for line in lines[1::2] for time in line.split()] == [f"{time:.2f}" for time in result.times]
    assert max((display_width(line) for line in lines), default=0) <= LINE_WIDTH
    assert len(lines) <= 2 * math.ceil(len(ids) / 8)


def test_json_is_one_line_with_everything() -> None:
    line = as_json("a.wav", transcript([3, 6]))
    values = json.loads(line)
    assert "\n" not in line
    assert values["file"] == "a.wav"
    assert values["tokens"] == ["▁HE", "▁WORLD"]
    assert values["words"][1] == {"text": "WORLD", "start": 0.135, "end": 0.175}
