"""Sums over all paths, compared with the paths themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.lattice.forward_backward import (
    arc_log_posteriors,
    backward,
    best_arcs,
    best_of,
    forward,
    log_sum_of,
    pruned,
    within_beam,
)
from shared_moe_conformer.lattice.lattice import EMPTY

from .conftest import paths_of, random_lattice

SEEDS = range(5)


@pytest.mark.parametrize("seed", SEEDS)
def test_totals_are_those_of_all_paths(make_graph, seed) -> None:
    lattice = random_lattice(make_graph, seed=seed)
    scores = np.array([path.score for path in paths_of(lattice)])
    ends = dict(zip(lattice.final_state.tolist(), lattice.final_lm.tolist()))
    for total, expected in ((best_of, scores.max()), (log_sum_of, np.logaddexp.reduce(scores))):
        before = forward(lattice, total)
        at_the_end = np.array([before[state] + weight for state, weight in ends.items()])
        assert backward(lattice, total)[0] == pytest.approx(expected)
        assert total(at_the_end, np.array([0]))[0] == pytest.approx(expected)


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


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.one_of(st.floats(-700, 700), st.just(-np.inf)), min_size=1, max_size=4), min_size=1))
def test_log_sums(groups: list[list[float]]) -> None:
    values, starts = np.concatenate(groups), np.cumsum([0, *map(len, groups)])[:-1]
    expected = [np.logaddexp.reduce(group) for group in groups]
    assert log_sum_of(values, starts) == pytest.approx(np.array(expected))
