from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from shared_moe_conformer.decoding.hypothesis import Hypothesis
from shared_moe_conformer.speech.formats import as_json
from shared_moe_conformer.speech.transcript import EMPTY, Transcript, transcript_of

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
