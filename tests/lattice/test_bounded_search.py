"""Flat posteriors, as an untrained model gives them, on every engine that is installed."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from shared_moe_conformer.lattice.bounded_search import MAX_LATTICE_ARCS, find_lattices, warn_once
from shared_moe_conformer.lattice.forward_backward import best_arcs
from shared_moe_conformer.lattice.graphs import ctc_topology

from .conftest import peaked_log_probs, random_log_probs

OPTIONS: dict[str, Any] = {"search_beam": 15.0, "output_beam": 8.0, "max_active": 7000}


@pytest.fixture(autouse=True)
def silent_so_far() -> None:
    warn_once.cache_clear()


def test_what_is_too_large_is_searched_again_and_said_once(engine, caplog: pytest.LogCaptureFixture) -> None:
    log_probs = torch.cat([0.01 * random_log_probs(2, 20, 30, seed=0), peaked_log_probs(1, 20, 30, seed=1)])
    log_probs, lens = log_probs.log_softmax(-1), torch.tensor([20, 12, 20])
    graph = ctc_topology(30, modified=False)
    with caplog.at_level(logging.WARNING):
        found = find_lattices(engine, log_probs, lens, graph, **OPTIONS, max_searched=2000)
    assert [lattice.num_frames for lattice in found] == [20, 12, 20]
    assert [record.message for record in caplog.records] == [
        "the lattice of an utterance was too large: searched again with narrower beams"
    ]
    best = log_probs.max(dim=2).values
    for lattice, row, num_frames in zip(found, best, lens.tolist()):
        assert lattice.path(best_arcs(lattice)).score == pytest.approx(float(row[:num_frames].sum()), abs=1e-3)
    (alone,) = find_lattices(engine, log_probs[2:], lens[2:], graph, **OPTIONS)
    assert found[2].num_arcs == alone.num_arcs, "an utterance does not suffer from another's retry"


def test_lattices_are_bounded_and_keep_the_best_path(engine, caplog: pytest.LogCaptureFixture) -> None:
    log_probs, lens = random_log_probs(2, 15, 12, seed=2), torch.tensor([15, 0])
    graph = ctc_topology(12, modified=False)
    (whole, _) = find_lattices(engine, log_probs, lens, graph, **OPTIONS)
    assert not caplog.records
    (bounded, nothing) = find_lattices(engine, log_probs, lens, graph, **OPTIONS, max_arcs=100)
    assert 0 < bounded.num_arcs <= 100 < whole.num_arcs and nothing.num_arcs == 0
    assert bounded.path(best_arcs(bounded)) == whole.path(best_arcs(whole))
    assert "its worst paths were left out" in caplog.text


def test_flat_posteriors_over_many_units_end_in_bounded_lattices(engine) -> None:
    """40,000 arcs a frame, all within the beam."""
    flat = (0.01 * random_log_probs(2, 20, 200, seed=3)).log_softmax(-1)
    graph = ctc_topology(200, modified=False)
    found = find_lattices(engine, flat, torch.tensor([20, 1]), graph, **OPTIONS, max_searched=400_000)
    assert [lattice.num_frames for lattice in found] == [20, 1]
    assert all(0 < lattice.num_arcs <= MAX_LATTICE_ARCS for lattice in found)


def test_where_nothing_helps_it_is_an_error(engine) -> None:
    log_probs = random_log_probs(1, 9, 4, seed=0)
    with pytest.raises(ValueError, match="an utterance of 9 frames is too long for a lattice"):
        find_lattices(engine, log_probs, torch.tensor([9]), ctc_topology(4, modified=False), **OPTIONS, max_searched=3)
