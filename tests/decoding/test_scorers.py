from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.decoding import scorers as module
from shared_moe_conformer.decoding.scorers import (
    PrefixScorer,
    hotwords_scorer,
    ngram_scorer,
    phrase_scorer,
    read_hotwords,
)
from shared_moe_conformer.lattice.ngram import BOS, EOS, EPSILON, NgramAutomaton, NgramModel, train_ngram
from tests.backoff import log_prob, sentence_log_prob
from tests.decoding.conftest import total

from .conftest import modified_beam_search

VOCAB = 4
SEQUENCES = st.lists(st.integers(1, VOCAB - 1), max_size=12)
PHRASES = st.lists(st.lists(st.integers(1, VOCAB - 1), min_size=1, max_size=4), max_size=5)


def counted(phrases: list[list[int]], tokens: list[int]) -> int:
    """The definition: each occurrence of each phrase counts its length."""
    distinct = {tuple(phrase) for phrase in phrases}
    return sum(
        len(phrase)
        for phrase in distinct
        for begin in range(len(tokens))
        if tuple(tokens[begin : begin + len(phrase)]) == phrase
    )


@given(PHRASES, SEQUENCES)
def test_every_occurrence_counts_its_tokens(phrases: list[list[int]], tokens: list[int]) -> None:
    assert total(phrase_scorer(phrases, vocab_size=VOCAB), tokens) == counted(phrases, tokens)


@given(PHRASES, SEQUENCES)
def test_blanks_change_nothing(phrases: list[list[int]], tokens: list[int]) -> None:
    scorer = phrase_scorer(phrases, vocab_size=VOCAB)
    with_blanks = [label for token in tokens for label in (0, token, 0)]
    assert total(scorer, with_blanks) == total(scorer, tokens)


def test_the_bonus_comes_early_and_is_given_back() -> None:
    scorer = phrase_scorer([[1, 2, 3]], vocab_size=VOCAB)
    assert [float(scorer.score[0, 1]), float(scorer.score[scorer.next_state[0, 1], 2])] == [1.0, 1.0]
    after_two = scorer.next_state[scorer.next_state[0, 1], 2]
    assert float(scorer.score[after_two, 2]) == -2.0 and float(scorer.final[after_two]) == -2.0
    assert float(scorer.score[after_two, 1]) == -1.0, "a new beginning"
    assert float(scorer.score[after_two, 3]) == 1.0, "earned, and no longer held: there is nothing to give back"


@pytest.mark.parametrize("seed", range(3))
def test_a_bonus_brings_its_phrase_and_none_changes_nothing(make_model, make_batch, seed) -> None:
    model = make_model(7, seed=seed)
    x, lens = make_batch([15, 8], seed=seed)
    phrase = [[5, 3, 5]]
    hotwords = phrase_scorer(phrase, vocab_size=7)
    plain = modified_beam_search(model, x, lens, beam_size=8)
    assert modified_beam_search(model, x, lens, beam_size=8, scorers=[hotwords.scaled(0.0)]) == plain
    biased = modified_beam_search(model, x, lens, beam_size=8, scorers=[hotwords.scaled(20.0)])
    assert all(counted(phrase, hyp.tokens) for hyp in biased)
    assert not all(counted(phrase, hyp.tokens) for hyp in plain)


def test_phrases_are_spelled_and_damaged_lists_are_named(lang_dir: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(lang_dir)

    def scorer(*phrases: str):
        return hotwords_scorer(phrases, tokenizer)

    spelled = tokenizer.encode(["THANK YOU"])[0]
    assert total(scorer("THANK YOU", "ONE"), [5, *spelled]) == len(spelled)
    with pytest.raises(ValueError, match="'zürich' has 'c', 'h', 'i', 'r', 'z', 'ü', which no unit"):
        scorer("ONE", "zürich")
    with pytest.raises(ValueError, match="'r', 'u', 'z', 'ü', which no unit"):
        scorer("zuru\u0308")  # decomposed, as some file systems and editors write it
    with pytest.raises(ValueError, match="'' has no tokens"):
        scorer("")
    path = tmp_path / "hotwords.txt"
    with pytest.raises(FileNotFoundError, match="one phrase a line"):
        read_hotwords(path)
    path.write_text("\n# names\n  PRESS   STAR \nONE\n")
    assert read_hotwords(path) == ["PRESS STAR", "ONE"]
    path.write_bytes(b"\xef\xbb\xbfPRESS STAR\r\nONE\r\n")  # as Windows' editors save it
    assert read_hotwords(path) == ["PRESS STAR", "ONE"]
    path.write_text("#\n")
    with pytest.raises(ValueError, match="holds no phrase"):
        read_hotwords(path)
    path.write_bytes(b"ONE\n\xff\xfe\x00")
    with pytest.raises(ValueError, match="line 2 is not UTF-8 text: save"):
        read_hotwords(path)


def test_tables_have_a_row_for_each_beginning() -> None:
    scorer = phrase_scorer([[1, 2], [1, 2], [1, 3]], vocab_size=VOCAB)
    assert scorer.score.shape == scorer.next_state.shape == (4, VOCAB)
    assert int(scorer.next_state.max()) < 4 and torch.isfinite(scorer.score).all()


def test_tables_that_would_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TABLE", 4 * VOCAB - 1)
    with pytest.raises(ValueError, match=f"hotwords with 4 tokens of {VOCAB} units are too large: give fewer"):
        phrase_scorer([[1, 2], [1, 3]], vocab_size=VOCAB)


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
        assert total(scorer, tokens) == pytest.approx(expected, abs=1e-4)
        whole = sentence_log_prob(ngram, said[1:])
        assert scorer.sentence_scores([tokens, []])[0] == pytest.approx(whole, abs=1e-4)
        assert total(scorer, [0, *tokens, 0]) == total(scorer, tokens)


def test_a_history_of_which_only_a_longer_one_is_known() -> None:
    """A pruned n-gram may lack the history without its first token."""
    log_probs = {("A",): -1.0, ("B",): -2.0, ("A", "B"): -0.5, ("A", "B", "A"): -0.25}
    ngram = NgramModel(3, log_probs, {("A", "B"): -0.125, ("A",): -0.75})
    scorer = ngram_scorer(ngram, ["<blk>", "A", "B"])
    assert total(scorer, [1, 2, 2]) == pytest.approx(-1.0 - 0.5 - 0.125 - 2.0)
    assert total(scorer, [1, 2, 1, 2]) == pytest.approx(-1.0 - 0.5 - 0.25 - 0.5)


def test_a_history_that_no_token_follows_still_has_its_back_off_weight() -> None:
    log_probs = {("A",): -1.0, ("B",): -2.0, (EOS,): -1.5, ("A", "B"): -0.5}
    ngram = NgramModel(3, log_probs, {("A",): -0.75, ("B",): -0.25, ("A", "B"): -0.125})
    scorer = ngram_scorer(ngram, ["<blk>", "A", "B"])
    for tokens in ([1, 2], [1, 2, 2], [2, 2, 1]):
        whole = NgramAutomaton(ngram, [EPSILON, "A", "B"]).score(tokens)
        assert scorer.sentence_scores([tokens])[0] == pytest.approx(whole)


def test_a_token_that_the_ngram_lacks_is_named() -> None:
    with pytest.raises(ValueError, match=r"lacks 1 token, \['E'\] first"):
        ngram_scorer(model(2), [*TOKENS, "E"])


def test_tables_that_would_be_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TABLE", 20)
    with pytest.raises(ValueError, match="train a lower order"):
        ngram_scorer(model(3), TOKENS)


@pytest.fixture
def counter() -> PrefixScorer:
    """Two states; token 2 moves to the other, at 1 nat from state 0; ending in state 1 costs 5."""
    next_state = torch.tensor([[0, 0, 1], [1, 1, 0]])
    return PrefixScorer(
        next_state, torch.tensor([[0.0, 0.5, 1.0], [0.0, -0.5, 0.0]]), torch.tensor([0.0, -5.0]), torch.zeros(2)
    )


def test_total_follows_the_states(counter: PrefixScorer) -> None:
    assert total(counter, []) == 0.0
    assert total(counter, [1, 2, 1]) == pytest.approx(0.5 + 1.0 - 0.5 - 5.0)
    assert total(counter, [2, 2, 1]) == pytest.approx(1.0 + 0.0 + 0.5)


def test_scale_multiplies_every_score(counter: PrefixScorer) -> None:
    tokens = [2, 1, 1]
    assert total(counter.scaled(0.25), tokens) == pytest.approx(0.25 * total(counter, tokens))
    assert total(counter, tokens) != 0
    assert total(counter.to(torch.device("cpu")), tokens) == total(counter, tokens)
