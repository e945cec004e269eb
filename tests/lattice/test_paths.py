from __future__ import annotations

import numpy as np
import pytest

from shared_moe_conformer.lattice.composition import composed
from shared_moe_conformer.lattice.decoding_graph import ctc_topology
from shared_moe_conformer.lattice.engine import find_lattice
from shared_moe_conformer.lattice.lattice import EMPTY, Beams, Lattice
from shared_moe_conformer.lattice.paths import (
    arc_log_posteriors,
    backward,
    best_arcs,
    forward,
    n_best,
    output_confidences,
    pruned,
    token_confidences,
    within_beam,
)

from .conftest import fst_of, paths_of, peaked_log_probs, random_lattice

SEEDS = range(5)


@pytest.mark.parametrize("seed", SEEDS)
def test_totals_are_those_of_all_paths(make_graph, seed) -> None:
    lattice = random_lattice(make_graph, seed=seed)
    scores = np.array([path.score for path in paths_of(lattice)])
    ends = dict(zip(lattice.final_state.tolist(), lattice.final_lm.tolist()))
    for total in (np.maximum, np.logaddexp):
        before, expected = forward(lattice, total), total.reduce(scores)
        at_the_end = np.array([before[state] + weight for state, weight in ends.items()])
        assert backward(lattice, total)[0] == pytest.approx(expected)
        assert total.reduce(at_the_end) == pytest.approx(expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_posteriors_are_shares_of_the_paths(make_graph, seed) -> None:
    lattice = random_lattice(make_graph, seed=seed)
    posterior = np.exp(arc_log_posteriors(lattice))
    paths = paths_of(lattice)
    weights = np.exp([path.score - paths[0].score for path in paths])
    for frame in range(lattice.num_frames):
        for label in range(4):
            share = sum(w for path, w in zip(paths, weights) if path.frame_labels[frame] == label) / weights.sum()
            assert posterior[(lattice.frame == frame) & (lattice.ilabel == label)].sum() == pytest.approx(share)
    assert np.bincount(lattice.frame, weights=posterior) == pytest.approx(np.ones(lattice.num_frames))


@pytest.mark.parametrize("seed", SEEDS)
def test_best_arcs_are_the_best_path(make_graph, seed) -> None:
    lattice = random_lattice(make_graph, seed=seed)
    assert lattice.path(best_arcs(lattice)).score == pytest.approx(paths_of(lattice)[0].score)


@pytest.mark.parametrize("seed", SEEDS)
def test_pruning_keeps_what_is_good_and_only_whole_paths(make_graph, seed) -> None:
    lattice = random_lattice(make_graph, seed=seed)
    scores = [path.score for path in paths_of(lattice)]
    narrow = within_beam(lattice, 2.0)
    kept = [path.score for path in paths_of(narrow)]
    good = [score for score in scores if score > scores[0] - 2.0]
    assert kept[: len(good)] == pytest.approx(good)
    assert narrow.num_arcs < lattice.num_arcs


@pytest.mark.parametrize("seed", SEEDS)
def test_pruning_by_posteriors_keeps_the_likeliest_arcs_and_the_best_path(make_graph, seed) -> None:
    lattice = random_lattice(make_graph, seed=seed)
    best = paths_of(lattice)[0]
    for max_arcs in (1, lattice.num_frames + 1, lattice.num_arcs - 1):
        likely = pruned(lattice, max_arcs)
        assert lattice.num_frames <= likely.num_arcs <= max(max_arcs, lattice.num_frames)
        assert paths_of(likely)[0].score == pytest.approx(best.score)
    assert pruned(lattice, lattice.num_arcs) is lattice
    kept, whole = (np.logaddexp.reduce([path.score for path in paths_of(each)]) for each in (likely, lattice))
    assert kept > whole - 0.3, "what goes first is the least likely"


def test_of_nothing_there_is_nothing() -> None:
    assert len(arc_log_posteriors(EMPTY)) == len(best_arcs(EMPTY)) == 0
    assert within_beam(EMPTY, 1.0) is pruned(EMPTY, 5) is EMPTY


def lattice_of(probs: list[list[float]]) -> Lattice:
    log_probs = np.log(np.array(probs, dtype=np.float32))
    graph = ctc_topology(len(probs[0]), modified=False)
    lattice = find_lattice(log_probs, graph, Beams(50.0, 50.0, 100), max_arcs=10**5)
    assert lattice is not None
    return lattice


def test_a_label_is_as_sure_as_all_paths_that_are_at_it_then() -> None:
    """One token, or another, on the first frame; then a blank; then a sure token."""
    lattice = lattice_of([[1e-9, 0.7, 0.3], [1.0 - 2e-9, 1e-9, 1e-9], [1e-9, 1e-9, 1.0 - 2e-9]])
    assert confidences(lattice) == [pytest.approx([0.7, 1.0], abs=1e-5)] * 2


def test_when_a_label_begins_matters_to_tokens_alone() -> None:
    """The token begins on either of two frames: at the end most paths have given it, not all on the same frame."""
    lattice = lattice_of([[0.4, 0.6], [0.45, 0.55]])
    assert confidences(lattice) == [pytest.approx([0.82], abs=1e-5), pytest.approx([0.6], abs=1e-5)]


def confidences(lattice: Lattice) -> list[list[float]]:
    """Of the best path's output labels, and of its tokens, where each token is an output label."""
    path = lattice.path(best_arcs(lattice))
    return [found(lattice, path.output_labels, path.output_frames) for found in (output_confidences, token_confidences)]


@pytest.mark.parametrize("seed", range(5))
def test_confidences_are_shares_of_all_paths(make_graph, seed) -> None:
    lattice = random_lattice(make_graph, seed=seed)
    paths = paths_of(lattice)
    weights = np.exp([path.score - paths[0].score for path in paths])
    ends = [*paths[0].output_frames[1:], lattice.num_frames]
    expected = [
        max(
            sum(w for p, w in zip(paths, weights) if _label_at(p, frame) == label) / weights.sum()
            for frame in range(begin, end)
        )
        for label, begin, end in zip(paths[0].output_labels, paths[0].output_frames, ends)
    ]
    assert output_confidences(lattice, paths[0].output_labels, paths[0].output_frames) == pytest.approx(expected)


def _label_at(path, frame: int) -> int:
    """The label that a path gave last, up to a frame."""
    return max((f, label) for f, label in [(-1, 0), *zip(path.output_frames, path.output_labels)] if f <= frame)[1]


def test_of_no_path_there_is_none() -> None:
    assert output_confidences(EMPTY, [], []) == token_confidences(EMPTY, [], []) == []


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


@pytest.mark.parametrize("seed", range(3))
def test_the_first_different_ones_of_very_many_paths_are_the_same(seed) -> None:
    """OpenFst's shortest paths, equal sequences included; its determinisation does not end on such a lattice."""
    kaldifst = pytest.importorskip("kaldifst")
    lattice = speech_like(seed)
    fst = fst_of(lattice, lattice.final_lm, lattice.olabel, lattice.score)
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


def test_of_nothing_there_are_no_sequences() -> None:
    assert n_best(EMPTY, 5) == []
