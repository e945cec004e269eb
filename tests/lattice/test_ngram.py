from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest

from shared_moe_conformer.lattice.ngram import (
    BOS,
    EOS,
    FALLBACK_DISCOUNTS,
    NgramModel,
    adjusted_counts,
    discounts,
    train_ngram,
)
from tests.backoff import log_prob, sentence_log_prob

MODEL = NgramModel(
    order=2,
    log_probs={("A",): -1.0, ("B",): -2.0, ("</s>",): -1.5, ("<s>", "A"): -0.25, ("A", "B"): -0.5},
    backoffs={("<s>",): -0.75, ("A",): -3.0},
)


def test_save_and_load(tmp_path: Path) -> None:
    MODEL.save(tmp_path / "G.arpa")
    loaded = NgramModel.load(tmp_path / "G.arpa")
    assert loaded.order == 2 and loaded.words == ["A", "B"]
    assert loaded.log_probs == pytest.approx(MODEL.log_probs, abs=1e-6)
    assert loaded.backoffs == pytest.approx(MODEL.backoffs, abs=1e-6)


def test_missing_damaged_and_empty_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "G.arpa"
    with pytest.raises(FileNotFoundError, match="prepare.sh"):
        NgramModel.load(path)
    path.write_text("no model\n")
    with pytest.raises(ValueError, match="is not an ARPA file"):
        NgramModel.load(path)
    path.write_text("\\data\\\nngram 1=2\n\n\\1-grams:\n-99\t<s>\n-1\t</s>\n\n\\end\\\n")
    with pytest.raises(ValueError, match="has no word"):
        NgramModel.load(path)


def sentences(number: int, *, seed: int) -> list[list[str]]:
    rng = random.Random(seed)
    return [rng.choices("ABCDEFGH", weights=range(1, 9), k=rng.randint(1, 6)) for _ in range(number)]


@pytest.mark.parametrize(("order", "number"), [(1, 5), (2, 40), (3, 3), (3, 200), (4, 60)])
def test_probabilities_after_any_history_sum_to_one(order: int, number: int) -> None:
    model = train_ngram(sentences(number, seed=order), order)
    predicted = [*model.words, "</s>"]
    for history in [(), ("<s>",), *itertools.product(model.words, repeat=2), ("<s>", "A", "B", "C")]:
        assert sum(math.exp(log_prob(model, word, history)) for word in predicted) == pytest.approx(1.0)


def test_counts_of_a_worked_example() -> None:
    unigrams, bigrams = adjusted_counts([["A", "B"], ["B", "A", "B"]], 2)
    assert unigrams == {("A",): 2, ("B",): 2, ("</s>",): 1}, "different words before, the start among them"
    assert bigrams == {("<s>", "A"): 1, ("<s>", "B"): 1, ("A", "B"): 2, ("B", "A"): 1, ("B", "</s>"): 2}


def test_a_bigram_by_hand() -> None:
    """Fallback discounts; p(B | A) = (2 - 1) / 2 + 1 / 2 * p(B), p(B) = (2 - 1) / 5 + (1 + 1 + 0.5) / 5 / 3."""
    model = train_ngram([["A", "B"], ["B", "A", "B"]], 2)
    unigram = 1 / 5 + 2.5 / 5 / 3
    assert math.exp(log_prob(model, "B", [])) == pytest.approx(unigram)
    assert math.exp(log_prob(model, "B", ["A"])) == pytest.approx(1 / 2 + unigram / 2)


def test_discounts_of_chen_and_goodman() -> None:
    counts = [1] * 10 + [2] * 5 + [3] * 3 + [4] * 2 + [9]
    y = 10 / 20
    assert discounts(counts) == pytest.approx((1 - 2 * y * 5 / 10, 2 - 3 * y * 3 / 5, 3 - 4 * y * 2 / 3))
    assert discounts([1, 1, 2, 9]) == FALLBACK_DISCOUNTS
    assert discounts([1, 2, *[3] * 10, 4]) == FALLBACK_DISCOUNTS, "2 - 3 * 1 / 3 * 10 / 1 is no discount"


def test_longer_histories_fit_better() -> None:
    texts = [["A", "B", "C"], ["D", "B", "E"]] * 10
    scores = [sentence_log_prob(train_ngram(texts, order), ["A", "B", "C"]) for order in (1, 2, 3)]
    assert scores == sorted(scores)


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(ValueError, match="no words to train"):
        train_ngram([[], []], 2)
    with pytest.raises(ValueError, match="order of the n-gram is 0"):
        train_ngram([["A"]], 0)


def test_a_given_vocabulary_leaves_no_word_without_probability() -> None:
    model = train_ngram([["A", "B", "A"], ["B"]], 2, vocabulary=["A", "C", "D"])
    assert model.words == ["A", "B", "C", "D"]
    for history in ((), ("A",), ("C",), (BOS,)):
        total = sum(math.exp(log_prob(model, word, history)) for word in [*model.words, EOS])
        assert total == pytest.approx(1.0)
    assert log_prob(model, "C", ["A"]) == log_prob(model, "D", ["A"]) < log_prob(model, "B", ["A"])
