from __future__ import annotations

import random
from typing import Any

import pytest

pytest.importorskip("kaldifst")

from shared_moe_conformer.decoding.lattice import one_best, search_lattices
from shared_moe_conformer.decoding.rescoring import nbest, nbest_oracle, nbest_rescoring, whole_lattice_rescoring
from shared_moe_conformer.lattice.decoding_graph import NGRAM_FILE, build_word_graph, load_word_graph
from shared_moe_conformer.lattice.engine import lattice_engine
from shared_moe_conformer.lattice.graphs import WordGraph
from shared_moe_conformer.lattice.kneser_ney import train_ngram
from shared_moe_conformer.lattice.n_best import n_best
from shared_moe_conformer.lattice.ngram import NgramAutomaton, NgramModel
from tests.lattice.conftest import make_lang_dir

SCALES = (0.0, 0.5, 2.0)


@pytest.fixture(scope="module")
def word_graph(tmp_path_factory: pytest.TempPathFactory) -> WordGraph:
    folder = tmp_path_factory.mktemp("lang")
    make_lang_dir(folder, num_words=12, vocab_size=8, order=2, seed=0)
    build_word_graph(folder, "standard")
    return load_word_graph(folder, "standard")


@pytest.fixture(scope="module")
def same_ngram(tmp_path_factory: pytest.TempPathFactory) -> NgramModel:
    return NgramModel.load(
        make_lang_dir(tmp_path_factory.mktemp("same"), num_words=12, vocab_size=8, order=2, seed=0) / NGRAM_FILE
    )


@pytest.fixture
def other(word_graph: WordGraph) -> NgramAutomaton:
    rng, words = random.Random(5), [f"W{i:02}" for i in range(12)]
    return NgramAutomaton(train_ngram([[*rng.choices(words, k=4), *words] for _ in range(30)], 3), word_graph.words)


@pytest.fixture(params=["k2", "embedded"])
def search(request: pytest.FixtureRequest, word_graph: WordGraph) -> dict[str, Any]:
    try:
        engine = lattice_engine(request.param).name
    except ValueError:
        pytest.skip("not installed")
    return {
        "lattice_engine": engine,
        "word_graph": word_graph,
        "search_beam": 30.0,
        "output_beam": 6.0,
        "max_active": 5000,
    }


def test_the_first_of_the_n_best_is_the_best(search, make_model, make_batch) -> None:
    model, batch = make_model(8), make_batch([25, 0, 12])
    best = one_best(model, *batch, graph="HLG", **search)
    first = nbest(model, *batch, num_paths=7, graph="HLG", **search)
    assert [hyp.words for hyp in first] == [hyp.words for hyp in best]
    assert [hyp.score for hyp in first] == pytest.approx([hyp.score for hyp in best])
    assert first[0].words and first[1].words == [] and first[1].tokens == []


def test_the_oracle_finds_any_of_the_n_best(search, make_model, make_batch) -> None:
    """Each sequence of the list, said: the oracle has no error; something else said: it has the fewest."""
    model, batch = make_model(8), make_batch([20])
    (lattice,), words = search_lattices(model, *batch, graph="HLG", **search)
    texts = [" ".join(words[label] for label in path.output_labels) for path in n_best(lattice, 5, beam=6.0)]
    assert len(set(texts)) == 5
    for text in texts:
        options = {"transcripts": [text], "to_text": str, "num_paths": 5, "graph": "HLG", **search}
        (hyp,) = nbest_oracle(model, *batch, **options)
        assert " ".join(hyp.words) == text
    (silent,) = nbest_oracle(model, *batch, **{**options, "transcripts": [""]})
    assert len(silent.words) == min(len(text.split()) for text in texts)


def test_over_tokens_the_oracle_compares_texts(make_model, make_batch) -> None:
    model, batch = make_model(8), make_batch([12])
    said = "3 4 3"
    (hyp,) = nbest_oracle(
        model, *batch, transcripts=[said], to_text=lambda tokens: " ".join(map(str, tokens)), num_paths=50,
        graph="H", lattice_engine="embedded",
    )  # fmt: skip
    (best,) = one_best(model, *batch, graph="H", lattice_engine="embedded")
    assert hyp.words is None
    common = [len(set(map(str, h.tokens)) & set(said.split())) for h in (hyp, best)]
    assert common[0] >= common[1]


def test_rescoring_by_the_graphs_own_ngram_changes_nothing(search, word_graph, same_ngram, make_model, make_batch):
    """HLG's back-offs are epsilons; so the same convention gives back HLG's scores."""
    model, batch = make_model(8), make_batch([25, 0, 12])
    own = NgramAutomaton(same_ngram, word_graph.words, backoff="epsilon")
    best = one_best(model, *batch, graph="HLG", **search)
    for method in (nbest_rescoring, whole_lattice_rescoring):
        (hyps,) = method(model, *batch, lm_scales=[1.0], rescoring_lm=own, **search)
        assert [hyp.words for hyp in hyps] == [hyp.words for hyp in best]
        assert [hyp.score for hyp in hyps] == pytest.approx([hyp.score for hyp in best], abs=1e-2)


def test_every_scale_has_the_best_of_all_sequences_at_that_scale(search, other, make_model, make_batch) -> None:
    model, batch = make_model(8), make_batch([14])
    (lattice,), words = search_lattices(model, *batch, graph="HLG", **search)
    listed = nbest_rescoring(model, *batch, lm_scales=SCALES, rescoring_lm=other, num_paths=10_000, **search)
    whole = whole_lattice_rescoring(model, *batch, lm_scales=SCALES, rescoring_lm=other, **search)
    paths = n_best(lattice.scaled(0.0), 10_000)
    assert len(paths) > 20
    for scale, (in_list,), (in_lattice,) in zip(SCALES, listed, whole):
        scored = [(p.am_score + scale * other.score(p.output_labels), p.output_labels) for p in paths]
        assert in_lattice.score == pytest.approx(max(scored)[0], abs=1e-6)
        assert in_lattice.score >= in_list.score - 1e-6
    assert len({tuple(hyps[0].words) for hyps in whole}) > 1, "the scale must matter"


def test_confidences_are_there_for_every_word_and_token(search, other, make_model, make_batch) -> None:
    model, batch = make_model(8), make_batch([25, 0])
    ((rescored, silent),) = whole_lattice_rescoring(model, *batch, lm_scales=[0.7], rescoring_lm=other, **search)
    for hyp in (rescored, *one_best(model, *batch, graph="HLG", **search)[:1]):
        assert len(hyp.words) == len(hyp.word_frames) == len(hyp.word_confidences) > 0
        assert len(hyp.tokens) == len(hyp.confidences) == len(hyp.frames)
        assert all(0 < sure <= 1 for sure in (*hyp.word_confidences, *hyp.confidences))
        assert hyp.word_frames == sorted(hyp.word_frames)
    assert silent.words == silent.word_confidences == silent.confidences == []
