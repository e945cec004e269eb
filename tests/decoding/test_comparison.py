from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from shared_moe_conformer.decoding import comparison
from shared_moe_conformer.decoding.comparison import (
    agreement_note,
    calibration_text,
    comparison_text,
    decode_batches,
    distortion_table,
    judged_words,
    table_text,
)
from shared_moe_conformer.decoding.hypothesis import Hypothesis
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.scoring import Scores

from .test_scoring import scores

SCORES = [
    scores(),
    scores("nbest_oracle")._replace(is_oracle=True),
    scores("modified_beam_search"),
]


def test_columns_are_aligned_and_oracles_marked() -> None:
    header, *rows = table_text(SCORES).splitlines()
    assert [row.split("  ")[0] for row in rows] == ["greedy_search", "nbest_oracle (oracle)", "modified_beam_search"]
    assert len({row.index("]") for row in rows}) == 1, "columns are aligned"
    assert header.endswith("RTF")


def test_notes_say_what_there_is_to_know() -> None:
    text = comparison_text(SCORES, title="test, epoch-1", left_out={"1best": "no engine"})
    title, *_, last = text.splitlines()
    assert title == "test, epoch-1" and last == "left out: 1best: no engine"
    assert "a bound and no result" in text and "" not in text.splitlines()
    assert "the engines agree\n" in comparison_text(SCORES, title="test", left_out={}, agreement="the engines agree")
    plain = comparison_text([scores()], title="test", left_out={})
    assert "oracle" not in plain


ONE = DecodingConfig(decoding_method="1best", lattice_engine="k2")
OTHER = DecodingConfig(decoding_method="1best", lattice_engine="embedded")
TOKENS = DecodingConfig(decoding_method="nbest", graph="H", lattice_engine="k2")
OTHER_TOKENS = DecodingConfig(decoding_method="nbest", graph="H", lattice_engine="embedded")


def hyp(score: float, *words: str, tokens: tuple[int, ...] = (1,)) -> Hypothesis:
    return Hypothesis(list(tokens), [0], score, list(words) if words else None)


def test_words_and_tokens_are_compared_and_scores_where_they_are_the_same() -> None:
    nothing = hyp(-math.inf, tokens=())
    found = {
        ONE: [hyp(-3.0, "A"), hyp(-5.0, "B"), hyp(-2.0, "C", tokens=(7,))],
        OTHER: [hyp(-3.25, "A"), hyp(-9.0, "X"), hyp(-2.0, "C", tokens=(8,))],
        TOKENS: [hyp(-1.0), hyp(-1.0, tokens=(2,)), nothing],
        OTHER_TOKENS: [hyp(-1.0), hyp(-1.0, tokens=(3,)), nothing],
        DecodingConfig(): [hyp(-1.0)] * 3,
    }
    assert agreement_note(found) == (
        "k2 and embedded, 2 searches: the same text in 2 of 3 by 1best over HLG, in 2 of 3 by nbest over H; "
        "and there scores that differ by 0.2 at most"
    )
    assert agreement_note(found | {OTHER: found[ONE]}) == (
        "k2 and embedded, 2 searches: the same text in all 3 utterances, but in 2 of 3 by nbest over H; "
        "and there the same score"
    )
    assert agreement_note({ONE: found[ONE], OTHER: found[ONE]}) == (
        "k2 and embedded, 1 search: the same text in all 3 utterances; and there the same score"
    )


def test_one_engine_has_nobody_to_agree_with() -> None:
    assert agreement_note({ONE: [hyp(-1.0)], DecodingConfig(): [hyp(-1.0)]}) is None


def test_words_are_judged_by_the_alignment_with_what_was_said() -> None:
    found = judged_words(["A", "B", "C"], [("A", 0.9), ("X", 0.2), ("C", None), ("D", 0.4)])
    assert found == [(0.9, True), (0.2, False), (0.4, False)]
    assert judged_words(["A"], []) == judged_words([], []) == []
    assert judged_words([], [("A", 0.5)]) == [(0.5, False)]


def test_a_confidence_belongs_to_one_bin() -> None:
    judged = [(0.0, False), (0.49, True), (0.5, True), (0.79, True), (0.95, True), (1.0, True), (1.0, False)]
    title, header, row = calibration_text({"1best": judged, "says nothing": []}, title="test, epoch-1").splitlines()
    assert title == "test, epoch-1: words that are right, by their confidence"
    assert header.split("  ")[0] == "method" and header.endswith("0.95 or more")
    assert [cell.strip() for cell in row.split("  ") if cell.strip()] == [
        "1best", "50 % of 2", "100 % of 2", "-", "67 % of 3",
    ]  # fmt: skip


def at(test_set: str, method: str, errors: int) -> Scores:
    score = scores(method)._replace(test_set=test_set)
    return score._replace(wer=score.wer._replace(insertions=0, deletions=errors, substitutions=1, ref_len=100))


def test_each_distortion_stands_beside_clean() -> None:
    header, line, *rows = distortion_table(
        [at("test", "greedy_search", 9)], [[at("test-white=10", "greedy_search", 14)]]
    ).splitlines()
    assert header.startswith("| test | WER") and header.count("|") == line.count("|")
    assert rows[0].startswith("| clean | 10.00 [") and rows[0].endswith("| 0 | 9 | 1 | 1.00 |")
    assert rows[1].startswith("| white=10 | 15.00 [") and rows[1].endswith("| 0 | 14 | 1 | 1.50 |")


def test_each_method_is_compared_with_itself() -> None:
    clean, noisy = (
        [at(name, m, n * k) for m, n in (("a", 1), ("b", 3))] for name, k in (("dev", 1), ("dev-gain=3", 3))
    )
    rows = distortion_table(clean, [noisy]).splitlines()[2:]
    assert [row.split(" |")[0] for row in rows] == ["| clean, a", "| clean, b", "| gain=3, a", "| gain=3, b"]
    assert [row.split("| ")[-1] for row in rows] == ["1.00 |", "1.00 |", "2.00 |", "2.50 |"]


def test_nothing_is_a_multiple_of_no_errors() -> None:
    perfect = at("test", "a", 0)
    perfect = perfect._replace(wer=perfect.wer._replace(substitutions=0))
    assert distortion_table([perfect], [[at("test-gain=3", "a", 1)]]).endswith("| - |\n")


class Batch(NamedTuple):
    x: Tensor
    x_lens: Tensor
    cut_ids: list[str]
    texts: list[str]


def test_each_method_is_charged_with_the_encoder_and_its_own_search(make_model, monkeypatch) -> None:
    model = make_model(7)
    lens = torch.tensor([50, 30])
    batch = Batch(torch.randn(2, 50, 80), lens, ["a", "b"], ["A", "B"])
    clock = itertools.count()
    monkeypatch.setattr(comparison, "_now", lambda device: float(next(clock)))  # each step takes a second
    methods = [DecodingConfig(decoding_method=name) for name in ("greedy_search", "ctc_greedy_search")]
    results = decode_batches(model, [batch, batch], methods, to_text=str)
    assert [result.real_time_factor for result in results] == [pytest.approx(2 * 2 / (2 * 0.8))] * 2
    assert [[decoded.cut_id for decoded in result.decoded] for result in results] == [["a", "b"] * 2] * 2
