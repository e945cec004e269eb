from __future__ import annotations

import importlib.util
import logging
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.lattice.composition import composed, rescored
from shared_moe_conformer.lattice.decoding_graph import ctc_topology
from shared_moe_conformer.lattice.engine import (
    MAX_LATTICE_ARCS,
    EngineName,
    find_lattice,
    find_lattices,
    lattice_engine,
)
from shared_moe_conformer.lattice.graphs import Graph, graph_of_arcs
from shared_moe_conformer.lattice.lattice import EMPTY, MIN_ACTIVE, NO_PATH, Beams, warn_once
from shared_moe_conformer.lattice.paths import best_arcs, n_best

from .conftest import (
    all_paths,
    best_paths,
    fst_of,
    path_of_arcs,
    paths_of,
    peaked_log_probs,
    random_graph,
    random_lattice,
    random_log_probs,
)

MANY = {"max_arcs": 10**7}
ENGINES: tuple[EngineName, ...] = ("k2", "embedded")
EXACT = Beams(search_beam=100.0, output_beam=10.0, max_active=1000)
USUAL = Beams(search_beam=15.0, output_beam=8.0, max_active=7000)


@pytest.mark.parametrize("seed", range(6))
def test_best_path_of_tiny_graphs(engine, make_graph, seed) -> None:
    graph = make_graph(num_states=3, vocab_size=4, num_arcs=9, seed=seed)
    log_probs = random_log_probs(2, 4, 4, seed=seed)
    lens = torch.tensor([4, 3])
    for row, num_frames, path in zip(log_probs, lens, best_paths(engine, log_probs, lens, graph, EXACT)):
        exact = all_paths(graph, row[:num_frames])
        if exact:
            best = max(exact, key=lambda arcs: exact[arcs])
            assert path.score == pytest.approx(exact[best], abs=1e-4)
            assert path[:3] == path_of_arcs(graph, best, 0.0)[:3]


@pytest.mark.parametrize("seed", range(6))
def test_lattices_of_tiny_graphs_hold_the_paths_within_the_beam(engine, make_graph, seed) -> None:
    graph = make_graph(num_states=3, vocab_size=4, num_arcs=9, seed=seed)
    log_probs = random_log_probs(3, 4, 4, seed=seed)
    lens = torch.tensor([4, 3, 0])
    beams = EXACT._replace(output_beam=3.0)
    for row, num_frames, lattice in zip(log_probs, lens, engine.lattices(log_probs, lens, graph, beams, **MANY)):
        exact = all_paths(graph, row[:num_frames]) if num_frames else {}
        expected = [path_of_arcs(graph, arcs, score) for arcs, score in exact.items()]
        found = paths_of(lattice)
        scores = [round(path.score, 3) for path in found]
        within = [path for path in expected if path.score > max(exact.values()) - 3.0 + 1e-3]
        assert scores[: len(within)] == sorted((round(path.score, 3) for path in within), reverse=True)
        assert {(tuple(p[0]), tuple(p[1])) for p in found} >= {(tuple(p[0]), tuple(p[1])) for p in within}
        for path in found:
            am = sum(float(frame[label]) for frame, label in zip(row, path.frame_labels))
            assert path.am_score == pytest.approx(am, abs=1e-5)


def test_a_lattice_with_too_many_arcs_is_none_and_the_others_are_there(engine) -> None:
    log_probs, lens = random_log_probs(3, 20, 10, seed=0), torch.tensor([20, 2, 0])
    found = engine.lattices(log_probs, lens, ctc_topology(10, modified=False), EXACT, max_arcs=300)
    assert found[0] is None
    assert found[1] is not None and found[1].num_frames == 2
    assert found[2] is EMPTY


@pytest.mark.parametrize(("vocab_size", "peaked"), [(50, True), (500, True), (20, False)])
def test_engines_find_the_same_lattices(vocab_size: int, peaked: bool) -> None:
    """Of speech-like posteriors with the usual beams, and of random ones with wide beams over a small graph."""
    pytest.importorskip("k2")
    graph = ctc_topology(vocab_size, modified=vocab_size >= 500)
    log_probs = (peaked_log_probs if peaked else random_log_probs)(8, 30, vocab_size, seed=7)
    lens = torch.tensor([30, 17, 30, 0, 1, 25, 30, 30])
    beams = USUAL._replace(output_beam=6.0) if peaked else EXACT
    ours, theirs = (lattice_engine(name).lattices(log_probs, lens, graph, beams, **MANY) for name in ENGINES)
    for one, other in zip(ours, theirs, strict=True):
        assert abs(one.num_arcs - other.num_arcs) <= 2 + 0.01 * one.num_arcs, "arcs at the very edge of the beam"
        if one.num_arcs:
            paths = n_best(one, 10), n_best(other, 10)
            assert [p.score for p in paths[0]] == pytest.approx([p.score for p in paths[1]], abs=1e-3)
            assert paths[0][0].output_labels == paths[1][0].output_labels


def test_tiny_graphs_mostly_have_paths(make_graph) -> None:
    """Otherwise the test above would hold nothing."""
    graphs = [make_graph(num_states=3, vocab_size=4, num_arcs=9, seed=seed) for seed in range(6)]
    assert sum(bool(all_paths(graph, random_log_probs(1, 4, 4, seed=0)[0])) for graph in graphs) >= 3


@pytest.mark.parametrize("modified", [False, True])
def test_over_the_topology_each_frame_has_its_likeliest_label(engine, modified) -> None:
    log_probs, lens = random_log_probs(4, 30, 12, seed=1), torch.tensor([30, 5, 0, 17])
    paths = best_paths(engine, log_probs, lens, ctc_topology(12, modified=modified), EXACT)
    best = log_probs.max(dim=2)
    for path, values, labels, num_frames in zip(paths, best.values, best.indices, lens.tolist()):
        assert path.frame_labels == labels[:num_frames].tolist()
        if num_frames == 0:
            assert path == NO_PATH
            continue
        assert path.score == pytest.approx(float(values[:num_frames].sum()), abs=1e-4)
        assert [path.frame_labels[frame] for frame in path.output_frames] == path.output_labels


def test_works_in_inference_mode(engine) -> None:
    """Posteriors come from `torch.inference_mode`; the graph must serve outside of it as well."""
    graph, lens = ctc_topology(6, modified=False), torch.tensor([8])
    with torch.inference_mode():
        log_probs = random_log_probs(1, 8, 6, seed=0)
        (inside,) = best_paths(engine, log_probs, lens, graph, EXACT)
    (outside,) = best_paths(engine, log_probs.clone(), lens, graph, EXACT)
    assert inside == outside


def test_batch_mates_change_nothing(engine) -> None:
    log_probs, lens = peaked_log_probs(4, 40, 20, seed=2), torch.tensor([40, 3, 25, 31])
    graph = ctc_topology(20, modified=False)
    together = best_paths(engine, log_probs, lens, graph, USUAL)
    for row, num_frames, path in zip(log_probs, lens, together):
        (alone,) = best_paths(engine, row[None, :num_frames], num_frames[None], graph, USUAL)
        assert alone[:3] == path[:3]
        assert alone.score == pytest.approx(path.score, abs=1e-4)


def test_few_active_states_keep_the_best_of_them(engine) -> None:
    """Over the topology no path crosses a worse state, so that two states must be enough, also for flat posteriors."""
    log_probs = 0.01 * random_log_probs(2, 20, 50, seed=3)
    (path, _) = best_paths(
        engine, log_probs, torch.tensor([20, 20]), ctc_topology(50, modified=False), EXACT._replace(max_active=2)
    )
    assert path.frame_labels == log_probs[0].argmax(dim=1).tolist()


def test_a_graph_that_cannot_be_left_gives_an_honest_result(engine) -> None:
    """Two frames, and a graph with a single arc."""
    graph = Graph(
        src=np.array([0], dtype=np.int32),
        dst=np.array([1], dtype=np.int32),
        ilabel=np.array([2], dtype=np.int32),
        olabel=np.array([3], dtype=np.int32),
        weight=np.zeros(1, dtype=np.float32),
        final_state=np.array([1], dtype=np.int32),
        final_weight=np.zeros(1, dtype=np.float32),
    )
    assert best_paths(engine, random_log_probs(1, 2, 4, seed=0), torch.tensor([2]), graph, EXACT) == [NO_PATH]


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    search_beam=st.floats(0.5, 20.0),
    output_beam=st.floats(0.1, 10.0),
    max_active=st.integers(2, 12),
    widened=st.sampled_from(["search_beam", "output_beam", "max_active"]),
)
@pytest.mark.parametrize("name", ENGINES)
def test_a_wider_search_never_gives_a_worse_path(name, seed, search_beam, output_beam, max_active, widened) -> None:
    """Each is widened alone, from any value to one that leaves nothing out."""
    if name == "k2":
        pytest.importorskip("k2")
    graph = random_graph(num_states=8, vocab_size=4, num_arcs=40, seed=seed)
    log_probs, lens = random_log_probs(2, 6, 4, seed=seed), torch.tensor([6, 4])
    values = {"search_beam": search_beam, "output_beam": output_beam, "max_active": max_active}
    narrow = EXACT._replace(**{widened: values[widened]})
    found = [lattice_engine(name).lattices(log_probs, lens, graph, beams, **MANY) for beams in (narrow, EXACT)]
    for in_narrow, in_wide in zip(*found):
        assert in_wide.path(best_arcs(in_wide)).score >= in_narrow.path(best_arcs(in_narrow)).score - 1e-4


def test_auto_prefers_k2() -> None:
    expected = "k2" if importlib.util.find_spec("k2") else "embedded"
    assert lattice_engine("auto").name == expected


def test_without_k2_the_other_engine_is_there_and_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    lattice_engine.cache_clear()
    monkeypatch.setitem(sys.modules, "shared_moe_conformer.lattice.k2_engine", None)
    assert lattice_engine("auto").name == lattice_engine("embedded").name == "embedded"
    with pytest.raises(ValueError, match="no k2 .*: make install ENGINE=k2, or search with --lattice-engine embedded"):
        lattice_engine("k2")
    lattice_engine.cache_clear()


WIDE = Beams(search_beam=100.0, output_beam=8.0, max_active=1000)
MANY = {"max_arcs": 10**6}


@pytest.mark.parametrize("seed", range(4))
def test_kaldis_lattice_has_the_same_best_path(seed) -> None:
    kaldi_decoder, kaldifst = pytest.importorskip("kaldi_decoder"), pytest.importorskip("kaldifst")
    graph, log_probs = ctc_topology(20, modified=False), random_log_probs(1, 15, 20, seed=seed)[0].numpy()
    fst = fst_of(graph, graph.final_weight, graph.ilabel + 1, graph.weight)
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


def test_active_states_and_arcs_are_limited() -> None:
    graph, flat = ctc_topology(30, modified=False), 0.01 * random_log_probs(1, 12, 30, seed=1)[0].numpy()
    narrow = find_lattice(flat, graph, WIDE._replace(max_active=5), **MANY)
    assert narrow is not None and narrow.num_frames == 12
    assert np.bincount(narrow.frame, weights=np.ones(narrow.num_arcs)).max() <= 25
    whole = find_lattice(flat, graph, WIDE, **MANY)
    assert whole is not None and whole.num_arcs > 1000
    assert find_lattice(flat, graph, WIDE, max_arcs=1000) is None


def test_many_arcs_between_two_states_warn_of_nothing(engine, recwarn: pytest.WarningsRecorder) -> None:
    """Between two states of the modified topology there are as many arcs as units."""
    log_probs = random_log_probs(1, 3, 200, seed=0)
    beams = Beams(search_beam=100.0, output_beam=100.0, max_active=1000)
    (lattice,) = find_lattices(engine, log_probs, torch.tensor([3]), ctc_topology(200, modified=True), beams)
    assert tuple(lattice.ilabel[best_arcs(lattice)]) == tuple(log_probs[0].argmax(dim=1).tolist())
    assert lattice.num_arcs > 3 * 200 and not recwarn.list


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
