from __future__ import annotations

import random
from pathlib import Path

import pytest

from shared_moe_conformer.lattice.kneser_ney import train_ngram
from shared_moe_conformer.lattice.lexicon import BACKOFF, EPSILON
from shared_moe_conformer.lattice.ngram import BOS, EOS, NgramAutomaton, NgramModel
from tests.backoff import sentence_log_prob

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
    with pytest.raises(ValueError, match="is no ARPA file"):
        NgramModel.load(path)
    path.write_text("\\data\\\nngram 1=2\n\n\\1-grams:\n-99\t<s>\n-1\t</s>\n\n\\end\\\n")
    with pytest.raises(ValueError, match="has no word"):
        NgramModel.load(path)


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
