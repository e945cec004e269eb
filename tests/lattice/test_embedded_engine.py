"""The embedded engine's search, compared with kaldi-decoder's; what it shares with k2's is in test_engine.py."""

from __future__ import annotations

import numpy as np
import pytest

from shared_moe_conformer.lattice.beams import MIN_ACTIVE, Beams
from shared_moe_conformer.lattice.embedded_engine import find_lattice
from shared_moe_conformer.lattice.forward_backward import best_arcs
from shared_moe_conformer.lattice.graphs import Graph, graph_of_arcs
from shared_moe_conformer.lattice.lattice import EMPTY
from shared_moe_conformer.lattice.topology import ctc_topology

from .conftest import peaked_log_probs, random_log_probs

WIDE = Beams(search_beam=100.0, output_beam=8.0, max_active=1000)
MANY = {"max_arcs": 10**6}


@pytest.mark.parametrize("seed", range(4))
def test_kaldis_lattice_has_the_same_best_path(seed) -> None:
    kaldi_decoder, kaldifst = pytest.importorskip("kaldi_decoder"), pytest.importorskip("kaldifst")
    graph, log_probs = ctc_topology(20, modified=False), random_log_probs(1, 15, 20, seed=seed)[0].numpy()
    fst = _fst(kaldifst, graph)
    decoder = kaldi_decoder.LatticeSimpleDecoder(
        fst, kaldi_decoder.LatticeSimpleDecoderConfig(beam=100.0, lattice_beam=8.0)
    )
    decoder.decode(kaldi_decoder.DecodableCtc(log_probs))
    found, best = decoder.get_best_path()
    _, labels, _, cost = kaldifst.get_linear_symbol_sequence(best)
    ours = find_lattice(log_probs, graph, WIDE, **MANY)
    assert found and ours is not None
    path = ours.path(best_arcs(ours))
    assert path.score == pytest.approx(-(cost.value1 + cost.value2), abs=1e-3)
    assert path.frame_labels == [label - 1 for label in labels]


def _fst(kaldifst, graph: Graph):
    fst = kaldifst.StdVectorFst()
    for _ in range(graph.num_states):
        fst.add_state()
    fst.start = 0
    for state, weight in zip(graph.final_state.tolist(), graph.final_weight.tolist()):
        fst.set_final(state, -weight)
    for src, dst, label, weight in zip(*(c.tolist() for c in (graph.src, graph.dst, graph.ilabel, graph.weight))):
        fst.add_arc(src, kaldifst.StdArc(label + 1, label + 1, -weight, dst))
    return fst


def test_active_states_and_arcs_are_limited() -> None:
    graph, flat = ctc_topology(30, modified=False), 0.01 * random_log_probs(1, 12, 30, seed=1)[0].numpy()
    narrow = find_lattice(flat, graph, WIDE._replace(max_active=5), **MANY)
    assert narrow is not None and narrow.num_frames == 12
    assert np.bincount(narrow.frame, weights=np.ones(narrow.num_arcs)).max() <= 25
    whole = find_lattice(flat, graph, WIDE, **MANY)
    assert whole is not None and whole.num_arcs > 1000
    assert find_lattice(flat, graph, WIDE, max_arcs=1000) is None


def test_some_states_stay_however_narrow_the_beam_is() -> None:
    graph, log_probs = ctc_topology(50, modified=False), random_log_probs(1, 8, 50, seed=1)[0].numpy()
    narrow = find_lattice(log_probs, graph, Beams(1e-3, 100.0, max_active=1000), **MANY)
    assert narrow is not None
    assert np.bincount(narrow.frame).max() == MIN_ACTIVE


def test_a_state_in_which_the_graph_may_end_survives_the_last_frames() -> None:
    labels = np.arange(1, MIN_ACTIVE + 2)
    arcs = np.stack([np.zeros_like(labels), labels, labels, labels], axis=1)
    graph = graph_of_arcs(arcs, np.zeros(len(labels)), final_state=[1], final_weight=[0.0])
    log_probs = np.zeros((1, len(labels) + 1), np.float32)
    log_probs[0, 1] = -25.0
    found = [find_lattice(log_probs, graph, Beams(beam, 8.0, max_active=1000), **MANY) for beam in (20.0, 10.0)]
    assert [lattice.num_arcs for lattice in found] == [1, 0], "20 nats reach 49 on the last frame, 10 reach 24"


def test_no_frame_no_final_state_and_no_way_on_give_no_path() -> None:
    graph = ctc_topology(5, modified=False)
    assert find_lattice(np.zeros((0, 5), np.float32), graph, WIDE, **MANY) is EMPTY
    one_arc = Graph(
        *(np.array([value], dtype=np.int32) for value in (0, 1, 2, 3)),
        weight=np.zeros(1, np.float32),
        final_state=np.array([1], dtype=np.int32),
        final_weight=np.zeros(1, np.float32),
    )
    found = [find_lattice(np.zeros((n, 5), np.float32), one_arc, WIDE, **MANY) for n in (1, 2)]
    assert [lattice.num_arcs for lattice in found] == [1, 0]


def test_infinitely_unlikely_labels_are_never_taken() -> None:
    log_probs = peaked_log_probs(1, 10, 6, seed=3)[0].numpy()
    log_probs[:, 2] = -np.inf
    lattice = find_lattice(log_probs, ctc_topology(6, modified=False), WIDE, **MANY)
    assert lattice is not None and lattice.num_arcs and not (lattice.ilabel == 2).any()
