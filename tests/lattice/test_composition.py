from __future__ import annotations

import numpy as np
import pytest

from shared_moe_conformer.lattice.composition import composed
from shared_moe_conformer.lattice.lattice import EMPTY

from .conftest import paths_of, random_lattice


class Counting:
    """Each label that equals the last one costs 1, any other leads two ways; no path may end after label 1."""

    def step(self, state: int, label: int) -> list[tuple[int, float]]:
        return [(label, -1.0)] if label == state else [(label, 0.0), (label + 10, -0.5)]

    def end(self, state: int) -> float:
        return -np.inf if state % 10 == 1 else 0.25


def ways(labels: list[int]) -> list[float]:
    """What the automaton gives a sequence, on each of its ways."""
    at = [(0, 0.0)]
    for label in labels:
        at = [(after, score + more) for state, score in at for after, more in Counting().step(state, label)]
    return [score + 0.25 for state, score in at if state % 10 != 1]


@pytest.mark.parametrize("seed", range(5))
def test_paths_are_those_of_both_at_the_sum_of_their_scores(make_graph, seed) -> None:
    lattice = random_lattice(make_graph, seed=seed)
    expected = sorted((p.score + way for p in paths_of(lattice) for way in ways(p.output_labels)), reverse=True)
    whole = composed(lattice, Counting())
    assert [path.score for path in paths_of(whole)] == pytest.approx(expected)
    assert sum(path.am_score for path in paths_of(whole)) == pytest.approx(
        sum(p.am_score for p in paths_of(lattice) for _ in ways(p.output_labels))
    )


class Refusing:
    """An automaton that no label can pass."""

    def step(self, state: int, label: int) -> list[tuple[int, float]]:
        return []

    def end(self, state: int) -> float:
        return 0.0


def test_what_nothing_can_pass_is_empty(make_graph) -> None:
    lattice = random_lattice(make_graph, seed=0)
    silent = [path for path in paths_of(lattice) if not path.output_labels]
    assert len(paths_of(composed(lattice, Refusing()))) == len(silent)
    assert composed(EMPTY, Refusing()) is EMPTY
