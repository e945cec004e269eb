from __future__ import annotations

import numpy as np
import pytest

from shared_moe_conformer.lattice.lattice import EMPTY, NO_PATH, lattice_of_arcs, spans, trimmed

from .conftest import paths_of, random_lattice, random_log_probs


def test_states_may_be_numbered_anyhow_and_lead_nowhere(make_graph) -> None:
    """A search over a graph with one arc per state and label, whose arcs are then shuffled, with dead ends added."""
    graph = make_graph(num_states=3, vocab_size=4, num_arcs=12, seed=2)
    log_probs = random_log_probs(1, 3, 4, seed=2)[0].numpy()
    arcs = [
        (3 * t + int(graph.src[a]), 3 * (t + 1) + int(graph.dst[a]), a) for t in range(3) for a in range(12)
    ]  # every state of every frame, whether or not the start reaches it
    src, dst, arc = (np.array(column) for column in zip(*arcs))
    expected = lattice_of_arcs(src, dst, arc, log_probs=log_probs, graph=graph)
    rng = np.random.default_rng(0)
    numbers, order = np.append(0, 1 + rng.permutation(11)), rng.permutation(len(src))
    shuffled = lattice_of_arcs(numbers[src[order]], numbers[dst[order]], arc[order], log_probs=log_probs, graph=graph)
    assert paths_of(expected)
    assert _readable(paths_of(shuffled)) == _readable(paths_of(expected))
    for lattice in (expected, shuffled):
        assert (np.diff(lattice.src) >= 0).all() and (np.diff(lattice.frame) >= 0).all()
        assert set(lattice.src.tolist()) | set(lattice.dst.tolist()) == set(range(lattice.num_states))


def _readable(paths: list) -> list:
    return sorted((path.frame_labels, path.output_labels, round(path.score, 4)) for path in paths)


def test_scaling_changes_the_graphs_part_alone(make_graph) -> None:
    lattice = random_lattice(make_graph, seed=1)
    path, scaled = paths_of(lattice)[0], lattice.scaled(0.5)
    same = next(p for p in paths_of(scaled) if p.am_score == path.am_score and p.output_labels == path.output_labels)
    assert same.score - same.am_score == pytest.approx(0.5 * (path.score - path.am_score))
    assert lattice.score == pytest.approx(lattice.am + lattice.lm)


def test_trimming_leaves_whole_paths_alone(make_graph) -> None:
    lattice = random_lattice(make_graph, seed=3)
    gone = lattice.num_arcs // 2
    keep = np.arange(lattice.num_arcs) != gone
    rest = trimmed(lattice, keep)
    left = [p for p in _arc_paths(lattice) if gone not in p]
    assert len(paths_of(rest)) == len(left) < len(paths_of(lattice))
    assert trimmed(lattice, np.zeros_like(keep)) is EMPTY


def _arc_paths(lattice) -> list[list[int]]:
    ways: list[list[int]] = [[]]
    for _ in range(lattice.num_frames):
        ways = [
            [*way, arc]
            for way in ways
            for arc in np.flatnonzero(lattice.src == (lattice.dst[way[-1]] if way else 0)).tolist()
        ]
    return ways


def test_nothing_found_is_an_empty_lattice(make_graph) -> None:
    graph, nothing = make_graph(num_states=3, vocab_size=4, num_arcs=9, seed=0), np.zeros(0, dtype=np.int64)
    lattice = lattice_of_arcs(nothing, nothing, nothing, log_probs=np.zeros((0, 4), np.float32), graph=graph)
    assert (lattice.num_arcs, lattice.num_frames) == (0, 0)
    assert lattice.path(nothing) == NO_PATH


def test_spans() -> None:
    assert spans(np.array([3, 0, 7]), np.array([5, 0, 8])).tolist() == [3, 4, 7]
