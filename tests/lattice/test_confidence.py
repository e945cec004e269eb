from __future__ import annotations

import numpy as np
import pytest

from shared_moe_conformer.lattice.beams import Beams
from shared_moe_conformer.lattice.confidence import output_confidences, token_confidences
from shared_moe_conformer.lattice.embedded_engine import find_lattice
from shared_moe_conformer.lattice.forward_backward import best_arcs
from shared_moe_conformer.lattice.lattice import EMPTY, Lattice
from shared_moe_conformer.lattice.topology import ctc_topology

from .conftest import paths_of, random_lattice


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
