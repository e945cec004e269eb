from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

pytest.importorskip("kaldifst")

from shared_moe_conformer.decoding.ctc import ctc_greedy_search
from shared_moe_conformer.decoding.lattice import one_best
from shared_moe_conformer.lattice.decoding_graph import build_word_graph, load_word_graph
from shared_moe_conformer.lattice.engine import lattice_engine
from shared_moe_conformer.lattice.lexicon import Lexicon
from tests.lattice.conftest import make_lang_dir

WIDE = {"search_beam": 100.0, "max_active": 5000}


@pytest.fixture(params=["k2", "embedded"])
def engine(request: pytest.FixtureRequest) -> str:
    try:
        return lattice_engine(request.param).name
    except ValueError:
        pytest.skip("not installed")


@pytest.fixture
def lang_dir(tmp_path: Path) -> Path:
    make_lang_dir(tmp_path, num_words=12, vocab_size=8, order=2, seed=0)
    for topology in ("standard", "modified"):
        build_word_graph(tmp_path, topology)
    return tmp_path


@pytest.mark.parametrize("topology", ["standard", "modified"])
def test_over_words_the_tokens_spell_the_words(engine, topology, lang_dir, make_model, make_batch) -> None:
    model, word_graph, spellings = make_model(8), load_word_graph(lang_dir, topology), Lexicon.load(lang_dir).spellings
    hyps = one_best(model, *make_batch([30, 0, 12]), graph="HLG", lattice_engine=engine, word_graph=word_graph, **WIDE)
    assert hyps[0].words and hyps[1].words == []
    for hyp in hyps:
        tokens = [token for word in hyp.words for token in spellings[word]]
        if topology == "standard":
            assert hyp.tokens == tokens
        assert _without_repeats(hyp.tokens) == _without_repeats(tokens), "modified: a run of a token may be several"


def _without_repeats(tokens: list[int]) -> list[int]:
    return [token for token, _ in itertools.groupby(tokens)]


def test_the_graphs_scale_counts(engine, lang_dir, make_model, make_batch) -> None:
    """A path's score falls by what the graph takes from it; the best path can only gain by a smaller scale."""
    model, batch, word_graph = make_model(8), make_batch([20]), load_word_graph(lang_dir, "standard")
    scores = [
        one_best(model, *batch, graph="HLG", hlg_scale=scale, lattice_engine=engine, word_graph=word_graph, **WIDE)[
            0
        ].score
        for scale in (0.01, 0.5, 1.0)
    ]
    greedy = ctc_greedy_search(model, *batch)[0].score
    assert greedy > scores[0] > scores[1] > scores[2]


def test_a_wider_search_is_never_worse(engine, lang_dir, make_model, make_batch) -> None:
    model, batch, word_graph = make_model(8), make_batch([25, 20]), load_word_graph(lang_dir, "standard")
    scores = [
        [
            hyp.score
            for hyp in one_best(
                model, *batch, graph="HLG", lattice_engine=engine, word_graph=word_graph, search_beam=beam, max_active=n
            )
        ]
        for beam, n in ((2.0, 20), (10.0, 500), (100.0, 5000))
    ]
    for narrow, wide in zip(scores, scores[1:]):
        assert all(w >= n - 1e-3 for n, w in zip(narrow, wide))


def test_without_a_graph_or_with_another_vocabularys_it_is_refused(lang_dir, make_model, make_batch) -> None:
    with pytest.raises(ValueError, match="no HLG to search"):
        one_best(make_model(8), *make_batch([3]))
    with pytest.raises(ValueError, match="a model with 5"):
        one_best(make_model(5), *make_batch([3]), graph="HLG", word_graph=load_word_graph(lang_dir, "standard"))


def test_over_the_topology_there_are_no_words(make_model, make_batch, engine) -> None:
    (hyp,) = one_best(make_model(8), *make_batch([9]), graph="H", lattice_engine=engine)
    assert hyp.words is None and torch.isfinite(torch.tensor(hyp.score))
