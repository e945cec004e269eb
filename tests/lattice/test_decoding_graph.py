"""Topologies, and files of graphs over words: built once, refused when stale."""

from __future__ import annotations

import dataclasses
import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("kaldifst")

from shared_moe_conformer.lattice.decoding_graph import (
    NGRAM_FILE,
    Lexicon,
    build_word_graph,
    chosen_topology,
    ctc_topology,
    graph_path,
    lexicon_and_ngram,
    load_word_graph,
)
from shared_moe_conformer.lattice.graphs import Graph
from shared_moe_conformer.lattice.lattice import Beams
from shared_moe_conformer.lattice.lg import compose_topology
from shared_moe_conformer.lattice.ngram import NgramModel, train_ngram

from .conftest import best_paths, make_lang_dir
from .test_lg import best_scores


@pytest.fixture
def lang_dir(tmp_path: Path) -> Path:
    return make_lang_dir(tmp_path, num_words=12, vocab_size=8, order=3, seed=0)


def test_the_graph_is_built_once_and_refused_when_stale(lang_dir: Path) -> None:
    with pytest.raises(FileNotFoundError, match="HLG_standard.safetensors"):
        load_word_graph(lang_dir, "standard")
    assert build_word_graph(lang_dir, "standard")
    assert not build_word_graph(lang_dir, "standard")
    before = load_word_graph(lang_dir, "standard").graph
    model = NgramModel.load(lang_dir / NGRAM_FILE)
    train_ngram([[word] for word in model.words], 1).save(lang_dir / NGRAM_FILE)
    with pytest.raises(ValueError, match="built from other files"):
        load_word_graph(lang_dir, "standard")
    assert build_word_graph(lang_dir, "standard")
    assert len(load_word_graph(lang_dir, "standard").graph.src) < len(before.src)


def test_graphs_of_another_tokens_txt_are_refused(lang_dir: Path) -> None:
    """As many units, of which two have changed places: nothing but the inputs' hash can tell."""
    assert build_word_graph(lang_dir, "modified") and build_word_graph(lang_dir, "LG")
    units = (lang_dir / "tokens.txt").read_text()
    (lang_dir / "tokens.txt").write_text(units.replace("t3 3", "t4 3").replace("t4 4", "t3 4"))
    for load in (lambda: load_word_graph(lang_dir, "modified"), lambda: load_word_graph(lang_dir, "LG")):
        with pytest.raises(ValueError, match="was built from other files than .* holds now: run local/build_graph.py"):
            load()
    assert build_word_graph(lang_dir, "modified")
    load_word_graph(lang_dir, "modified")


def test_lg_is_built_beside_it(lang_dir: Path) -> None:
    with pytest.raises(FileNotFoundError, match="LG.safetensors: run local/build_graph.py"):
        load_word_graph(lang_dir, "LG")
    assert build_word_graph(lang_dir, "LG") and not build_word_graph(lang_dir, "LG")
    loaded, words = load_word_graph(lang_dir, "LG")
    lexicon = Lexicon.load(lang_dir)
    composed = lexicon_and_ngram(lang_dir)
    assert words == lexicon.words and (loaded.weight == composed.weight).all() and loaded.ilabel.min() > 0


def test_a_damaged_graph_is_built_again(lang_dir: Path) -> None:
    graph_path(lang_dir, "standard").write_bytes(b"{}")
    with pytest.raises(ValueError, match="is not a graph"):
        load_word_graph(lang_dir, "standard")
    assert build_word_graph(lang_dir, "standard")


def test_a_word_that_the_lexicon_lacks_is_named(lang_dir: Path) -> None:
    train_ngram([["STRANGER"]], 2).save(lang_dir / NGRAM_FILE)
    with pytest.raises(ValueError, match="'STRANGER'"):
        build_word_graph(lang_dir, "standard")
    (lang_dir / NGRAM_FILE).unlink()
    with pytest.raises(FileNotFoundError, match="G.arpa is missing"):
        build_word_graph(lang_dir, "standard")


@pytest.mark.parametrize("topology", ["standard", "modified"])
def test_engines_find_the_words_of_sure_posteriors(engine, lang_dir: Path, topology) -> None:
    """Each token for one or two frames, then a blank: the words are the n-gram's reading, at its score."""
    build_word_graph(lang_dir, topology)
    graph, words = load_word_graph(lang_dir, topology)
    lexicon, model = Lexicon.load(lang_dir), NgramModel.load(lang_dir / NGRAM_FILE)
    said = random.Random(2).choices(model.words, k=4)
    tokens = [token for word in said for token in lexicon.spellings[word]]
    labels = torch.tensor([label for i, token in enumerate(tokens) for label in [token] * (1 + i % 2) + [0]])
    log_probs = torch.full((1, len(labels), 8), -50.0)
    log_probs[0, torch.arange(len(labels)), labels] = 0.0
    (path,) = best_paths(engine, log_probs, torch.tensor([len(labels)]), graph, Beams(100.0, 10.0, 5000))
    readings = best_scores(lexicon_and_ngram(lang_dir), tokens)
    assert path.score == pytest.approx(max(readings.values()), abs=1e-3)
    assert readings[tuple(path.output_labels)] == pytest.approx(max(readings.values()), abs=1e-3)
    spelled = [token for label in path.output_labels for token in lexicon.spellings[words[label]]]
    assert spelled == tokens


def readings(graph: Graph, labels: tuple[int, ...]) -> set[tuple[int, ...]]:
    """All outputs of the graph's accepted paths with these frame labels."""
    at = {(0, ())}
    for label in labels:
        arcs = [
            arc
            for arc in zip(graph.src.tolist(), graph.dst.tolist(), graph.ilabel.tolist(), graph.olabel.tolist())
            if arc[2] == label
        ]
        at = {(dst, out + (o,) * (o > 0)) for state, out in at for src, dst, _, o in arcs if src == state}
    return {out for state, out in at if state in graph.final_state}


def runs_as_one_or_many(labels: tuple[int, ...]) -> set[tuple[int, ...]]:
    """The modified topology's readings: a run of a token is one token or any number up to its length."""
    runs = [(label, len(list(run))) for label, run in itertools.groupby(labels)]
    choices = [[(label,) * n for n in range(1, length + 1)] if label else [()] for label, length in runs]
    return {sum(choice, ()) for choice in itertools.product(*choices)}


@pytest.mark.parametrize("labels", list(itertools.product(range(3), repeat=4)))
def test_topologies_read_every_label_sequence(labels: tuple[int, ...]) -> None:
    tokens = tuple(label for label, _ in itertools.groupby(labels) if label)
    assert readings(ctc_topology(3, modified=False), labels) == {tokens}
    modified = readings(ctc_topology(3, modified=True), labels)
    assert modified == runs_as_one_or_many(labels)
    assert tokens in modified


@pytest.mark.parametrize("modified", [False, True])
def test_topologies_are_those_of_k2(modified: bool) -> None:
    k2 = pytest.importorskip("k2")
    theirs = k2.ctc_topo(6, modified=modified)
    arcs = [(*arc[:3], aux) for arc, aux in zip(theirs.arcs.values().tolist(), theirs.aux_labels.tolist())]
    ours = ctc_topology(7, modified=modified)
    columns = (ours.src, ours.dst, ours.ilabel, ours.olabel)
    assert sorted(zip(*(c.tolist() for c in columns))) == sorted(arc for arc in arcs if arc[2] >= 0)
    assert sorted(ours.final_state.tolist()) == sorted(arc[0] for arc in arcs if arc[2] < 0)


@pytest.mark.parametrize("seed", range(3))
def test_a_graph_over_tokens_reads_what_the_topology_gives(make_graph, seed: int) -> None:
    tokens = make_graph(num_states=3, vocab_size=2, num_arcs=8, seed=seed)
    tokens = dataclasses.replace(tokens, ilabel=tokens.ilabel + 1)
    for modified in (False, True):
        topology = ctc_topology(3, modified=modified)
        composed = compose_topology(topology, tokens)
        for labels in itertools.product(range(3), repeat=4):
            expected = set().union(*(readings(tokens, read) for read in readings(topology, labels)))
            assert readings(composed, labels) == expected


def test_composition_keeps_weights(make_graph) -> None:
    tokens = make_graph(num_states=3, vocab_size=3, num_arcs=8, seed=0)
    tokens = dataclasses.replace(tokens, ilabel=tokens.ilabel + 1, olabel=np.arange(1, 9, dtype=np.int32))
    for modified in (False, True):
        composed = compose_topology(ctc_topology(4, modified=modified), tokens)
        giving = composed.olabel > 0
        assert np.array_equal(composed.weight[giving], tokens.weight[composed.olabel[giving] - 1])
        assert np.array_equal(composed.ilabel[giving], tokens.ilabel[composed.olabel[giving] - 1])
        assert not composed.weight[~giving].any()
        assert set(composed.final_weight.tolist()) <= set(tokens.final_weight.tolist())


def test_large_vocabularies_get_the_modified_topology() -> None:
    assert [chosen_topology("auto", size) for size in (499, 500)] == ["standard", "modified"]
    assert chosen_topology("standard", 5000) == "standard"
