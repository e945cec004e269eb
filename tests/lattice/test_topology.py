from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from shared_moe_conformer.lattice.graphs import Graph
from shared_moe_conformer.lattice.topology import chosen_topology, ctc_topology, over_tokens


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
def test_over_tokens_is_the_topology_composed(make_graph, seed: int) -> None:
    tokens = make_graph(num_states=3, vocab_size=2, num_arcs=8, seed=seed)
    tokens = dataclasses.replace(tokens, ilabel=tokens.ilabel + 1)
    for modified in (False, True):
        topology, composed = ctc_topology(3, modified=modified), over_tokens(tokens, modified=modified)
        for labels in itertools.product(range(3), repeat=4):
            expected = set().union(*(readings(tokens, read) for read in readings(topology, labels)))
            assert readings(composed, labels) == expected


def test_over_tokens_keeps_weights(make_graph) -> None:
    tokens = make_graph(num_states=3, vocab_size=3, num_arcs=8, seed=0)
    tokens = dataclasses.replace(tokens, ilabel=tokens.ilabel + 1, olabel=np.arange(1, 9, dtype=np.int32))
    for modified in (False, True):
        composed = over_tokens(tokens, modified=modified)
        giving = composed.olabel > 0
        assert np.array_equal(composed.weight[giving], tokens.weight[composed.olabel[giving] - 1])
        assert np.array_equal(composed.ilabel[giving], tokens.ilabel[composed.olabel[giving] - 1])
        assert not composed.weight[~giving].any()
        assert set(composed.final_weight.tolist()) <= set(tokens.final_weight.tolist())


def test_large_vocabularies_get_the_modified_topology() -> None:
    assert [chosen_topology("auto", size) for size in (499, 500)] == ["standard", "modified"]
    assert chosen_topology("standard", 5000) == "standard"
