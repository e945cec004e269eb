from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from shared_moe_conformer.lattice.composition import composed
from shared_moe_conformer.lattice.lattice import EMPTY
from shared_moe_conformer.lattice.ngram import BACKOFF, BOS, EOS, EPSILON, NgramAutomaton, NgramModel, train_ngram
from tests.backoff import sentence_log_prob

from .conftest import paths_of, random_lattice


class Counting:
    """Each label that equals the last one costs 1, any other leads two ways; no path may end after label 1."""

    def step(self, state: int, label: int) -> list[tuple[int, float]]:
        return [(label, -1.0)] if label == state else [(label, 0.0), (label + 10, -0.5)]

    def end(self, state: int) -> float:
        return -np.inf if state % 10 == 1 else 0.25


def ways(labels: list[int]) -> list[float]:
    """What the automaton gives a sequence, on each of its ways."""
    at = [(0, 0.0)]
    for label in labels:
        at = [(after, score + more) for state, score in at for after, more in Counting().step(state, label)]
    return [score + 0.25 for state, score in at if state % 10 != 1]


@pytest.mark.parametrize("seed", range(5))
def test_paths_are_those_of_both_at_the_sum_of_their_scores(make_graph, seed) -> None:
    lattice = random_lattice(make_graph, seed=seed)
    expected = sorted((p.score + way for p in paths_of(lattice) for way in ways(p.output_labels)), reverse=True)
    whole = composed(lattice, Counting())
    assert [path.score for path in paths_of(whole)] == pytest.approx(expected)
    assert sum(path.am_score for path in paths_of(whole)) == pytest.approx(
        sum(p.am_score for p in paths_of(lattice) for _ in ways(p.output_labels))
    )


class Refusing:
    """An automaton that no label can pass."""

    def step(self, state: int, label: int) -> list[tuple[int, float]]:
        return []

    def end(self, state: int) -> float:
        return 0.0


def test_what_nothing_can_pass_is_empty(make_graph) -> None:
    lattice = random_lattice(make_graph, seed=0)
    silent = [path for path in paths_of(lattice) if not path.output_labels]
    assert len(paths_of(composed(lattice, Refusing()))) == len(silent)
    assert composed(EMPTY, Refusing()) is EMPTY


WORDS = [EPSILON, *"abcdef", BACKOFF, BOS, EOS]


@pytest.fixture
def model() -> NgramModel:
    rng = random.Random(0)
    return train_ngram([rng.choices("abcdef", weights=(5, 4, 3, 2, 1, 1), k=rng.randint(1, 6)) for _ in range(40)], 4)


def sentences() -> list[list[int]]:
    rng = random.Random(1)
    return [rng.choices(range(1, 7), k=rng.randint(0, 6)) for _ in range(60)]


def test_a_bigram_by_hand() -> None:
    log_probs = {("a",): -1.0, ("b",): -2.0, (EOS,): -1.5, (BOS, "a"): -0.25, ("a", "b"): -0.5}
    automaton = NgramAutomaton(NgramModel(2, log_probs, {(BOS,): -0.75, ("a",): -3.0}), [EPSILON, "a", "b"])
    assert automaton.score([1, 2]) == -0.25 - 0.5 - 1.5
    assert automaton.score([1, 1]) == -0.25 - (3.0 + 1.0) - (3.0 + 1.5)
    assert automaton.score([2, 2]) == -(0.75 + 2.0) - 2.0 - 1.5, "a history that was never seen hands on all it has"


def test_exact_scores_are_the_ngrams(model: NgramModel) -> None:
    automaton = NgramAutomaton(model, WORDS)
    for labels in sentences():
        expected = sentence_log_prob(model, [WORDS[label] for label in labels])
        assert automaton.score(labels) == pytest.approx(expected)
        assert all(len(automaton.step(0, label)) == 1 for label in labels)


def test_epsilon_scores_are_those_of_g(model: NgramModel, tmp_path: Path) -> None:
    """G as kaldilm writes it, its back-off arcs without a label: the best way wins, and is never below exact."""
    kaldifst, kaldilm = pytest.importorskip("kaldifst"), pytest.importorskip("kaldilm")
    model.save(tmp_path / "G.arpa")
    (tmp_path / "words.txt").write_text("".join(f"{word} {number}\n" for number, word in enumerate(WORDS)))
    text = kaldilm.arpa2fst(
        input_arpa=str(tmp_path / "G.arpa"),
        output_fst="",
        bos_symbol=BOS,
        eos_symbol=EOS,
        disambig_symbol=BACKOFF,
        read_symbol_table=str(tmp_path / "words.txt"),
    )
    g = kaldifst.compile(text.replace(f"\t{WORDS.index(BACKOFF)}\t0\t", "\t0\t0\t"), acceptor=False)
    kaldifst.arcsort(g)
    better = 0
    for labels in sentences():
        linear = kaldifst.make_linear_acceptor(labels)
        best = kaldifst.shortest_path(kaldifst.compose(linear, g))
        expected = -kaldifst.get_linear_symbol_sequence(best)[3].value
        score = NgramAutomaton(model, WORDS, backoff="epsilon").score(labels)
        exact = NgramAutomaton(model, WORDS).score(labels)
        assert score == pytest.approx(expected, abs=1e-3)
        assert score >= exact - 1e-9
        better += score > exact + 1e-3
    assert better, "in some sentence backing off must be cheaper than staying"


def test_words_that_the_ngram_lacks_are_refused(model: NgramModel) -> None:
    with pytest.raises(ValueError, match="the n-gram lacks 1 word of the graph, 'STRANGER'"):
        NgramAutomaton(model, [*WORDS, "STRANGER"])
