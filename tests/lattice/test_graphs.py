from __future__ import annotations

import dataclasses
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from shared_moe_conformer.lattice.graphs import Graph
from shared_moe_conformer.lattice.topology import ctc_topology


def test_scaled(make_graph) -> None:
    graph = make_graph(num_states=3, vocab_size=2, num_arcs=8, seed=0)
    half = graph.scaled(0.5)
    assert graph.scaled(1.0) is graph and graph.scaled(0.5) is half
    assert np.allclose(half.weight, graph.weight / 2) and np.allclose(half.final_weight, graph.final_weight / 2)
    assert half.dst is graph.dst


def test_the_hash_of_the_inputs_is_saved(tmp_path: Path) -> None:
    ctc_topology(3, modified=True).save(tmp_path / "graph.npz", inputs="abc")
    assert Graph.inputs_of(tmp_path / "graph.npz") == "abc"
    assert Graph.inputs_of(tmp_path / "nothing.npz") == ""


def test_save_and_load(tmp_path: Path) -> None:
    graph = ctc_topology(5, modified=True)
    graph.save(tmp_path / "graph.npz")
    loaded = Graph.load(tmp_path / "graph.npz")
    for f in fields(Graph):
        before, after = getattr(graph, f.name), getattr(loaded, f.name)
        assert before.dtype == after.dtype and np.array_equal(before, after)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="prepare.sh"):
        Graph.load(tmp_path / "graph.npz")
    (tmp_path / "graph.npz").write_bytes(b"no graph")
    with pytest.raises(ValueError, match="is not a graph"):
        Graph.load(tmp_path / "graph.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": np.zeros(3, "f4")}, "differ in length"),
        ({"final_weight": np.zeros(0, "f4")}, "differ in length"),
        ({"final_state": np.zeros(0, "i4"), "final_weight": np.zeros(0, "f4")}, "no arcs or no final state"),
        ({"dst": np.array([0, 0, -1, 0], "i4")}, "negative"),
        ({"ilabel": np.array([0, 0, -1, 0], "i4")}, "negative"),
        ({"dst": np.array([0, 0, 2**31 - 1, 0], "i4")}, "more states than arcs lead to"),
        ({"final_state": np.array([10**9], "i4")}, "more states than arcs lead to"),
        ({"src": np.array([0, 1, 0, 1], "i4")}, "not in the order of states"),
        ({"final_state": np.array([1, 1], "i4"), "final_weight": np.zeros(2, "f4")}, "final twice"),
        ({"weight": np.array([0, np.nan, 0, 0], "f4")}, "no number"),
        ({"final_weight": np.array([np.inf], "f4")}, "no number"),
        ({"src": np.zeros(4, "i8")}, "holds int64"),
        ({"src": np.zeros((4, 1), "i4")}, "of 2 dimensions"),
    ],
)
def test_arrays_that_are_no_graph_are_refused(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    one = np.array([1], "i4")
    graph = Graph(*(np.array([0, 0, 1, 1], "i4") for _ in range(4)), np.zeros(4, "f4"), one, np.zeros(1, "f4"))
    graph.save(tmp_path / "graph.npz")
    Graph.load(tmp_path / "graph.npz")
    dataclasses.replace(graph, **changes).save(tmp_path / "graph.npz")
    with pytest.raises(ValueError, match=f"graph.npz is not a graph .*{message}"):
        Graph.load(tmp_path / "graph.npz")
