"""Flat posteriors, as an untrained model gives them, on every engine that is installed."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from shared_moe_conformer.lattice.composition import composed
from shared_moe_conformer.lattice.decoding_graph import ctc_topology
from shared_moe_conformer.lattice.paths import best_arcs
from shared_moe_conformer.lattice.search import MAX_LATTICE_ARCS, Beams, find_lattices, rescored, warn_once

from .conftest import peaked_log_probs, random_lattice, random_log_probs

BEAMS = Beams(search_beam=15.0, output_beam=8.0, max_active=7000)


@pytest.fixture(autouse=True)
def silent_so_far() -> None:
    warn_once.cache_clear()


def test_what_is_too_large_is_searched_again_and_said_once(engine, caplog: pytest.LogCaptureFixture) -> None:
    log_probs = torch.cat([0.01 * random_log_probs(2, 20, 30, seed=0), peaked_log_probs(1, 20, 30, seed=1)])
    log_probs, lens = log_probs.log_softmax(-1), torch.tensor([20, 12, 20])
    graph = ctc_topology(30, modified=False)
    with caplog.at_level(logging.WARNING):
        found = find_lattices(engine, log_probs, lens, graph, BEAMS, max_searched=8000)
    assert [lattice.num_frames for lattice in found] == [20, 12, 20]
    assert [record.message for record in caplog.records] == [
        "the lattice of an utterance was too large: searched again with narrower beams"
    ]
    best = log_probs.max(dim=2).values
    for lattice, row, num_frames in zip(found, best, lens.tolist()):
        assert lattice.path(best_arcs(lattice)).score == pytest.approx(float(row[:num_frames].sum()), abs=1e-3)
    (alone,) = find_lattices(engine, log_probs[2:], lens[2:], graph, BEAMS)
    assert found[2].num_arcs == alone.num_arcs, "an utterance does not suffer from another's retry"


def test_lattices_are_bounded_and_keep_the_best_path(engine, caplog: pytest.LogCaptureFixture) -> None:
    log_probs, lens = random_log_probs(2, 15, 12, seed=2), torch.tensor([15, 0])
    graph = ctc_topology(12, modified=False)
    (whole, _) = find_lattices(engine, log_probs, lens, graph, BEAMS)
    assert not caplog.records
    (bounded, nothing) = find_lattices(engine, log_probs, lens, graph, BEAMS, max_arcs=100)
    assert 0 < bounded.num_arcs <= 100 < whole.num_arcs and nothing.num_arcs == 0
    assert bounded.path(best_arcs(bounded)) == whole.path(best_arcs(whole))
    assert "its least likely arcs were left out" in caplog.text


def test_flat_posteriors_over_many_units_end_in_bounded_lattices(engine) -> None:
    """40,000 arcs a frame, all within the beam."""
    flat = (0.01 * random_log_probs(2, 20, 200, seed=3)).log_softmax(-1)
    graph = ctc_topology(200, modified=False)
    found = find_lattices(engine, flat, torch.tensor([20, 1]), graph, BEAMS, max_searched=400_000)
    assert [lattice.num_frames for lattice in found] == [20, 1]
    assert all(0 < lattice.num_arcs <= MAX_LATTICE_ARCS for lattice in found)


def test_where_nothing_helps_it_is_an_error(engine) -> None:
    log_probs = random_log_probs(1, 9, 4, seed=0)
    with pytest.raises(ValueError, match="an utterance of 9 frames is too long for a lattice"):
        find_lattices(engine, log_probs, torch.tensor([9]), ctc_topology(4, modified=False), BEAMS, max_searched=3)


def test_an_utterance_that_ends_where_the_graph_may_not_is_taken_as_it_is(
    engine, caplog: pytest.LogCaptureFixture
) -> None:
    """The graph may end after blank alone, and all labels but 3 are impossible on the last frame of the first one."""
    topology = ctc_topology(6, modified=False)
    graph = replace(topology, final_state=topology.final_state[:1], final_weight=topology.final_weight[:1])
    log_probs, lens = random_log_probs(3, 12, 6, seed=4), torch.tensor([12, 0, 9])
    log_probs[0, 11] = torch.where(torch.arange(6) == 3, 0.0, -torch.inf)
    (cut, silent, whole) = find_lattices(engine, log_probs, lens, graph, BEAMS)
    assert cut.path(best_arcs(cut)).frame_labels == [*log_probs[0, :11].argmax(dim=1).tolist(), 3]
    assert whole.path(best_arcs(whole)).frame_labels[-1] == 0 and silent.num_arcs == 0
    assert [record.message for record in caplog.records] == [
        "an utterance ends where the graph may not, such as inside a word: it is taken as it is"
    ]


def test_a_graph_without_a_way_of_an_utterances_length_gives_an_empty_lattice(engine, make_graph) -> None:
    """One arc, and two frames."""
    graph = make_graph(num_states=2, vocab_size=1, num_arcs=1, seed=0)
    graph = replace(graph, src=np.array([0], dtype=np.int32), dst=np.array([1], dtype=np.int32))
    found = find_lattices(engine, torch.zeros(2, 2, 1), torch.tensor([1, 2]), graph, BEAMS)
    assert [lattice.num_arcs for lattice in found] == [1, 0]


class Counting:
    """An automaton whose state is the number of labels, up to 9; each label costs as much as it says."""

    def step(self, state: int, label: int) -> list[tuple[int, float]]:
        return [(min(9, state + 1), -float(label))]

    def end(self, state: int) -> float:
        return 0.0


def test_a_lattice_is_rescored_in_bounded_memory(make_graph, caplog: pytest.LogCaptureFixture) -> None:
    lattice = random_lattice(make_graph, seed=1, num_frames=8)
    best = lattice.path(best_arcs(lattice))
    whole = rescored(lattice, Counting())
    assert whole.path(best_arcs(whole)).score >= best.am_score - sum(best.output_labels) and not caplog.records
    expected = composed(lattice.scaled(0.0), Counting())
    assert whole.num_arcs == expected.num_arcs > 100
    bounded = rescored(lattice, Counting(), max_arcs=60)
    assert 8 <= bounded.num_arcs <= 60 and "too large for the n-gram" in caplog.text
    alone = rescored(lattice, Counting(), max_arcs=1)
    path = alone.path(best_arcs(alone))
    assert (path.frame_labels, path.output_labels) == (best.frame_labels, best.output_labels), "the best path stays"
    assert path.score == pytest.approx(best.am_score - sum(best.output_labels))
