from __future__ import annotations

import random

import pytest

from shared_moe_conformer.decoding import ngram_scorer as module
from shared_moe_conformer.decoding.ngram_scorer import ngram_scorer
from shared_moe_conformer.lattice.kneser_ney import train_ngram
from shared_moe_conformer.lattice.ngram import BOS, NgramModel
from tests.backoff import log_prob

TOKENS = ["<blk>", "<sos/eos>", "<unk>", "▁A", "B", "▁C", "D"]


def model(order: int, *, seed: int = 0) -> NgramModel:
    rng = random.Random(seed)
    texts = [rng.choices(TOKENS[3:6], k=rng.randint(1, 6)) for _ in range(12)]
    return train_ngram(texts, order, vocabulary=TOKENS[1:])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_scores_are_those_of_the_definition(order: int) -> None:
    ngram = model(order)
    scorer = ngram_scorer(ngram, TOKENS)
    rng = random.Random(1)
    for _ in range(50):
        tokens = rng.choices(range(2, len(TOKENS)), k=rng.randint(1, 8))
        said = [BOS, *(TOKENS[token] for token in tokens)]
        expected = sum(log_prob(ngram, word, said[:index]) for index, word in enumerate(said) if index > 0)
        assert scorer.total(tokens) == pytest.approx(expected, abs=1e-4)
        assert scorer.total([0, *tokens, 0]) == scorer.total(tokens)


def test_a_history_of_which_only_a_longer_one_is_known() -> None:
    """A pruned n-gram may lack the history without its first token."""
    log_probs = {("A",): -1.0, ("B",): -2.0, ("A", "B"): -0.5, ("A", "B", "A"): -0.25}
    ngram = NgramModel(3, log_probs, {("A", "B"): -0.125, ("A",): -0.75})
    scorer = ngram_scorer(ngram, ["<blk>", "A", "B"])
    assert scorer.total([1, 2, 2]) == pytest.approx(-1.0 - 0.5 - 0.125 - 2.0)
    assert scorer.total([1, 2, 1, 2]) == pytest.approx(-1.0 - 0.5 - 0.25 - 0.5)


def test_a_token_that_the_ngram_lacks_is_named() -> None:
    with pytest.raises(ValueError, match=r"lacks 1 token, \['E'\] first"):
        ngram_scorer(model(2), [*TOKENS, "E"])


def test_tables_that_would_be_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TABLE", 20)
    with pytest.raises(ValueError, match="train a lower order"):
        ngram_scorer(model(3), TOKENS)
