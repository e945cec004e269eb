from __future__ import annotations

import dataclasses
import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("kaldifst")

from shared_moe_conformer.decoding import lattice as searches
from shared_moe_conformer.decoding.hypothesis import Hypothesis, search_utterances
from shared_moe_conformer.decoding.options import DecodingConfig, Resources
from shared_moe_conformer.lattice.decoding_graph import NGRAM_FILE, Lexicon, build_word_graph, load_word_graph
from shared_moe_conformer.lattice.engine import lattice_engine
from shared_moe_conformer.lattice.graphs import WordGraph
from shared_moe_conformer.lattice.ngram import NgramAutomaton, NgramModel, train_ngram
from shared_moe_conformer.lattice.paths import n_best
from shared_moe_conformer.model.asr_model import AsrModel
from tests.lattice.conftest import make_lang_dir

from .conftest import ctc_greedy_search

WIDE = {"search_beam": 100.0, "max_active": 5000}


def asked(word_graph: WordGraph | None = None, **options: Any) -> tuple[DecodingConfig, Resources]:
    """Options and resources of a search over words, or over the topology alone."""
    return DecodingConfig(graph="HLG" if word_graph else "H", **options), Resources(word_graph=word_graph)


def finder(model, *, word_graph: WordGraph | None = None, **options: Any) -> searches.FindLattices:
    return searches.lattice_finder(model, DecodingConfig(**options), word_graph)


def one_best(model, x, lens, **options: Any) -> list[Hypothesis]:
    return search_utterances(searches.one_best(model, *asked(**options)), x, lens)


def oracle(model, x, lens, *, transcripts: list[str], to_text, **options: Any) -> list[Hypothesis]:
    config, parts = asked(**options)
    parts = dataclasses.replace(parts, transcripts=transcripts, to_text=to_text)
    return search_utterances(searches.nbest_oracle(model, config, parts), x, lens)


def rescoring(method, model, lm: NgramAutomaton, lm_scale: float, **options: Any):
    config, parts = asked(**options, lm_scales=(lm_scale,))
    return method(model, config, dataclasses.replace(parts, rescoring_lm=lm))


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
    hyps = one_best(model, *make_batch([30, 0, 12]), lattice_engine=engine, word_graph=word_graph, **WIDE)
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
        one_best(model, *batch, hlg_scale=scale, lattice_engine=engine, word_graph=word_graph, **WIDE)[0].score
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
                model, *batch, lattice_engine=engine, word_graph=word_graph, search_beam=beam, max_active=n
            )
        ]
        for beam, n in ((2.0, 20), (10.0, 500), (100.0, 5000))
    ]
    for narrow, wide in zip(scores, scores[1:]):
        assert all(w >= n - 1e-3 for n, w in zip(narrow, wide))


def test_a_graph_of_another_vocabulary_is_refused(lang_dir, make_model, make_batch) -> None:
    with pytest.raises(ValueError, match="this one has 5"):
        one_best(make_model(5), *make_batch([3]), word_graph=load_word_graph(lang_dir, "standard"))


def test_over_the_topology_there_are_no_words(make_model, make_batch, engine) -> None:
    (hyp,) = one_best(make_model(8), *make_batch([9]), word_graph=None, lattice_engine=engine)
    assert hyp.words is None and torch.isfinite(torch.tensor(hyp.score))


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
    best = one_best(model, *batch, **search)
    first = search_utterances(searches.nbest(model, *asked(**search, num_paths=7)), *batch)
    assert [hyp.words for hyp in first] == [hyp.words for hyp in best]
    assert [hyp.score for hyp in first] == pytest.approx([hyp.score for hyp in best])
    assert first[0].words and first[1].words == [] and first[1].tokens == []


def test_the_oracle_finds_any_of_the_n_best(search, make_model, make_batch) -> None:
    """Each sequence of the list, said: the oracle has no error; something else said: it has the fewest."""
    model, batch = make_model(8), make_batch([20])
    (lattice,), words = finder(model, **search)(*batch)
    texts = [" ".join(words[label] for label in path.output_labels) for path in n_best(lattice, 5, beam=6.0)]
    assert len(set(texts)) == 5
    for text in texts:
        options = {"transcripts": [text], "to_text": str, "num_paths": 5, **search}
        (hyp,) = oracle(model, *batch, **options)
        assert " ".join(hyp.words) == text
    (silent,) = oracle(model, *batch, **{**options, "transcripts": [""]})
    assert len(silent.words) == min(len(text.split()) for text in texts)


def test_over_tokens_the_oracle_compares_texts(make_model, make_batch) -> None:
    model, batch = make_model(8), make_batch([12])
    said = "3 4 3"
    (hyp,) = oracle(
        model, *batch, transcripts=[said], to_text=lambda tokens: " ".join(map(str, tokens)), num_paths=50,
        word_graph=None, lattice_engine="embedded",
    )  # fmt: skip
    (best,) = one_best(model, *batch, word_graph=None, lattice_engine="embedded")
    assert hyp.words is None
    common = [len(set(map(str, h.tokens)) & set(said.split())) for h in (hyp, best)]
    assert common[0] >= common[1]


def test_rescoring_by_the_graphs_own_ngram_changes_nothing(search, word_graph, same_ngram, make_model, make_batch):
    """HLG's back-offs are epsilons; so the same convention gives back HLG's scores."""
    model, batch = make_model(8), make_batch([25, 0, 12])
    own = NgramAutomaton(same_ngram, word_graph.words, backoff="epsilon")
    best = one_best(model, *batch, **search)
    for method in (searches.nbest_rescoring, searches.whole_lattice_rescoring):
        hyps = search_utterances(rescoring(method, model, own, 1.0, **search), *batch)
        assert [hyp.words for hyp in hyps] == [hyp.words for hyp in best]
        assert [hyp.score for hyp in hyps] == pytest.approx([hyp.score for hyp in best], abs=1e-2)


def test_every_scale_has_the_best_of_all_sequences_at_that_scale(search, other, make_model, make_batch) -> None:
    model, batch = make_model(8), make_batch([14])
    (lattice,), words = finder(model, **search)(*batch)
    by_list = [rescoring(searches.nbest_rescoring, model, other, scale, **search, num_paths=10_000) for scale in SCALES]
    by_lattice = [rescoring(searches.whole_lattice_rescoring, model, other, scale, **search) for scale in SCALES]
    states = [of_scales[0].advance(None, *batch) for of_scales in (by_list, by_lattice)]
    listed, whole = ([s.finish(state) for s in of_scales] for of_scales, state in zip((by_list, by_lattice), states))
    paths = n_best(lattice.scaled(0.0), 10_000)
    assert len(paths) > 20
    for scale, (in_list,), (in_lattice,) in zip(SCALES, listed, whole):
        scored = [(p.am_score + scale * other.score(p.output_labels), p.output_labels) for p in paths]
        assert in_lattice.score == pytest.approx(max(scored)[0], abs=1e-6)
        assert in_lattice.score >= in_list.score - 1e-6
    assert len({tuple(hyps[0].words) for hyps in whole}) > 1, "the scale must matter"


def by_alignments(model: AsrModel, frames: torch.Tensor, tokens: list[int]) -> float:
    """The log-probability of tokens, one alignment after the other: which frame emits each."""
    total = []
    for emitting in itertools.combinations_with_replacement(range(len(frames)), len(tokens)):
        score, context, said = torch.zeros(()), model.decoder.start_context, 0
        for number, frame in enumerate(model.joiner.encoder_projection(frames)):
            for step in [*(tokens[i] for i, where in enumerate(emitting) if where == number), 0]:
                decoder_frame = model.joiner.decoder_projection(model.decoder.step(torch.tensor([context])))[0]
                score = score + model.joiner(frame, decoder_frame).log_softmax(-1)[step]
                context = [*context[1:], step] if step else context
                said += bool(step)
        assert said == len(tokens)
        total.append(score)
    return float(torch.stack(total).logsumexp(0))


@pytest.mark.parametrize("at_once", [1, 1 << 20])
def test_the_transducers_scores_count_every_alignment(
    at_once: int, make_model, make_batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether contexts and sequences are computed one by one or all together."""
    monkeypatch.setattr(searches, "CONTEXTS", at_once)
    monkeypatch.setattr(searches, "CELLS", at_once)
    model, (frames, _), sequences = make_model(8), make_batch([4]), [[], [3], [3, 3, 5], [3, 5]]
    found = searches.transducer_log_probs(model, frames[0], sequences)
    assert found == pytest.approx([by_alignments(model, frames[0], tokens) for tokens in sequences], abs=1e-4)
    assert searches.transducer_log_probs(model, frames[0, :0], [[], [3]]) == [0.0, -float("inf")]


@pytest.mark.parametrize("graph", ["H", "HLG"])
def test_the_transducer_chooses_among_the_n_best(graph: str, search, make_model, make_batch) -> None:
    model, (frames, lens) = make_model(8), make_batch([20, 0, 12])
    options = {**search, "num_paths": 9, "hlg_scale": 0.5} | ({"word_graph": None} if graph == "H" else {})
    (lattices, _), lists = finder(model, **{k: v for k, v in options.items() if k != "num_paths"})(frames, lens), []
    for lattice in lattices:
        lists.append(n_best(lattice, 9, beam=6.0))
    chosen = set()
    for scale in SCALES:
        config, parts = asked(**options, lm_scales=(scale,))
        hyps = search_utterances(searches.nbest_transducer_rescoring(model, config, parts), frames, lens)
        assert hyps[1].tokens == [], "it has no frame"
        for hyp, paths, x, length in list(zip(hyps, lists, frames, lens))[::2]:
            by_transducer = searches.transducer_log_probs(model, x[:length], [searches.tokens_of(p)[0] for p in paths])
            scores = [path.score + scale * score for path, score in zip(paths, by_transducer)]
            assert hyp.score == pytest.approx(max(scores), abs=1e-3)
            assert hyp.tokens == searches.tokens_of(paths[scores.index(max(scores))])[0]
        chosen.add(tuple(hyps[0].tokens))
    assert len(chosen) > 1, "the scale must matter"


def test_confidences_are_there_for_every_word_and_token(search, other, make_model, make_batch) -> None:
    model, batch = make_model(8), make_batch([25, 0])
    rescored, silent = search_utterances(
        rescoring(searches.whole_lattice_rescoring, model, other, 0.7, **search), *batch
    )
    for hyp in (rescored, *one_best(model, *batch, **search)[:1]):
        assert len(hyp.words) == len(hyp.word_frames) == len(hyp.word_confidences) > 0
        assert len(hyp.tokens) == len(hyp.confidences) == len(hyp.frames)
        assert all(0 < sure <= 1 for sure in (*hyp.word_confidences, *hyp.confidences))
        assert hyp.word_frames == sorted(hyp.word_frames)
    assert silent.words == silent.word_confidences == silent.confidences == []


def test_a_lattice_is_searched_in_whole_utterances(make_model, make_batch) -> None:
    search, batch = searches.one_best(make_model(8), *asked()), make_batch([9])
    with pytest.raises(ValueError, match="whole utterances: advance first"):
        search.finish(search.start(1))
    with pytest.raises(ValueError, match="whole utterances: advance once, or take another search"):
        search.advance(search.advance(search.start(1), *batch), *batch)
