"""LG's scores are compared with the n-gram's own."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

pytest.importorskip("kaldifst")

from shared_moe_conformer.lattice.decoding_graph import NGRAM_FILE, Lexicon, lexicon_and_ngram
from shared_moe_conformer.lattice.graphs import Graph
from shared_moe_conformer.lattice.ngram import NgramModel
from tests.backoff import sentence_log_prob

from .conftest import make_lang_dir


@pytest.fixture
def lang_dir(tmp_path: Path) -> Path:
    return make_lang_dir(tmp_path, num_words=12, vocab_size=8, order=3, seed=0)


def best_scores(graph: Graph, labels: list[int]) -> dict[tuple[int, ...], float]:
    """The best score of each output that the graph gives for these input labels."""
    arcs = list(zip(*(c.tolist() for c in (graph.src, graph.dst, graph.ilabel, graph.olabel, graph.weight))))
    at: dict[tuple[int, tuple[int, ...]], float] = {(0, ()): 0.0}
    for label in labels:
        following: dict[tuple[int, tuple[int, ...]], float] = {}
        for src, dst, ilabel, olabel, weight in arcs:
            for (state, out), score in at.items():
                if src == state and ilabel == label:
                    key = (dst, out + (olabel,) * (olabel > 0))
                    following[key] = max(following.get(key, -1e9), score + weight)
        at = following
    final = dict(zip(graph.final_state.tolist(), graph.final_weight.tolist()))
    result: dict[tuple[int, ...], float] = {}
    for (state, out), score in at.items():
        if state in final:
            result[out] = max(result.get(out, -1e9), score + final[state])
    return result


def test_scores_are_the_ngrams(lang_dir: Path) -> None:
    """The best way through back-off arcs is the exact score, or better where backing off is cheaper than staying."""
    lexicon, model = Lexicon.load(lang_dir), NgramModel.load(lang_dir / NGRAM_FILE)
    graph = lexicon_and_ngram(lang_dir)
    rng, exact = random.Random(1), 0
    for _ in range(40):
        words = rng.choices(model.words, k=rng.randint(1, 4))
        tokens = [token for word in words for token in lexicon.spellings[word]]
        score = best_scores(graph, tokens)[tuple(lexicon.words.index(word) for word in words)]
        assert score > sentence_log_prob(model, words) - 1e-3
        exact += score == pytest.approx(sentence_log_prob(model, words), abs=1e-3)
    assert exact >= 30


def test_every_reading_is_a_spelling(lang_dir: Path) -> None:
    lexicon = Lexicon.load(lang_dir)
    graph = lexicon_and_ngram(lang_dir)
    for tokens in itertools.product(range(3, 8), repeat=3):
        for words in best_scores(graph, list(tokens)):
            assert [t for w in words for t in lexicon.spellings[lexicon.words[w]]] == list(tokens)
