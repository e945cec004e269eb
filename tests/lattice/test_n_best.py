from __future__ import annotations

import numpy as np
import pytest

from shared_moe_conformer.lattice.composition import composed
from shared_moe_conformer.lattice.engine import find_lattice
from shared_moe_conformer.lattice.lattice import EMPTY, Lattice
from shared_moe_conformer.lattice.n_best import n_best
from shared_moe_conformer.lattice.posteriors import best_arcs
from shared_moe_conformer.lattice.search import Beams
from shared_moe_conformer.lattice.topology import ctc_topology

from .conftest import paths_of, peaked_log_probs, random_lattice


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num_paths", [1, 3, 1000])
def test_sequences_are_the_best_ones_and_all_different(make_graph, seed, num_paths) -> None:
    lattice = random_lattice(make_graph, seed=seed)
    best: dict[tuple[int, ...], float] = {}
    for path in paths_of(lattice):
        best.setdefault(tuple(path.output_labels), path.score)
    found = n_best(lattice, num_paths)
    assert [path.score for path in found] == pytest.approx(list(best.values())[:num_paths])
    assert len({tuple(path.output_labels) for path in found}) == len(found) == min(num_paths, len(best))
    assert [path.score for path in found] == pytest.approx([best[tuple(path.output_labels)] for path in found])


def test_a_beam_leaves_out_the_worse_ones(make_graph) -> None:
    lattice = random_lattice(make_graph, seed=0)
    whole = n_best(lattice, 1000)
    near = [path for path in whole if path.score >= whole[0].score - 3.0]
    assert n_best(lattice, 1000, beam=3.0) == near
    assert 1 < len(near) < len(whole)


class Spelled:
    """The automaton of one sequence."""

    def __init__(self, labels: list[int]) -> None:
        self.labels = labels

    def step(self, state: int, label: int) -> list[tuple[int, float]]:
        return [(state + 1, 0.0)] if self.labels[state : state + 1] == [label] else []

    def end(self, state: int) -> float:
        return 0.0 if state == len(self.labels) else -np.inf


def speech_like(seed: int) -> Lattice:
    log_probs = (0.4 * peaked_log_probs(1, 25, 12, seed=seed)).log_softmax(-1)[0].numpy()
    lattice = find_lattice(log_probs, ctc_topology(12, modified=False), Beams(20.0, 8.0, 1000), max_arcs=10**6)
    assert lattice is not None
    return lattice


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_each_sequence_alone(seed) -> None:
    lattice = speech_like(seed)
    found = n_best(lattice, 30)
    assert len(found) == 30
    for path in found:
        alone = composed(lattice, Spelled(path.output_labels))
        assert alone.path(best_arcs(alone)).score == pytest.approx(path.score)
        assert path.am_score + path.lm_score == pytest.approx(path.score)


@pytest.mark.parametrize("seed", range(3))
def test_the_first_different_ones_of_very_many_paths_are_the_same(seed) -> None:
    """OpenFst's shortest paths, equal sequences included; its determinisation does not end on such a lattice."""
    kaldifst = pytest.importorskip("kaldifst")
    lattice = speech_like(seed)
    fst = kaldifst.StdVectorFst()
    for _ in range(lattice.num_states):
        fst.add_state()
    fst.start = 0
    for state, weight in zip(lattice.final_state.tolist(), lattice.final_lm.tolist()):
        fst.set_final(state, -weight)
    for src, dst, label, score in zip(*(c.tolist() for c in (lattice.src, lattice.dst, lattice.olabel, lattice.score))):
        fst.add_arc(src, kaldifst.StdArc(label, label, -score, dst))
    best: dict[tuple[int, ...], float] = {}
    for labels, score in _paths(kaldifst, kaldifst.shortest_path(fst, n=500)):
        best[labels] = max(score, best.get(labels, score))
    expected = sorted(best.values(), reverse=True)
    assert len(expected) >= 5
    assert [path.score for path in n_best(lattice, len(expected))] == pytest.approx(expected, abs=1e-3)


def _paths(kaldifst, best) -> list[tuple[tuple[int, ...], float]]:
    """Labels and score of each of the linear paths of an FST."""
    result = []
    for arc in kaldifst.ArcIterator(best, best.start):
        labels, score = [], 0.0
        while True:
            labels, score, state = [*labels, arc.ilabel], score - arc.weight.value, arc.nextstate
            following = list(kaldifst.ArcIterator(best, state))
            if not following:
                break
            (arc,) = following
        result.append((tuple(label for label in labels if label), score - best.final(state).value))
    return result


def test_of_nothing_there_is_nothing() -> None:
    assert n_best(EMPTY, 5) == []
