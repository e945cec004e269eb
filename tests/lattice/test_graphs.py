from __future__ import annotations

import dataclasses
import os
import pickle
import resource
import struct
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.lattice.decoding_graph import ctc_topology
from shared_moe_conformer.lattice.graphs import SMALL, Graph


def test_scaled(make_graph) -> None:
    graph = make_graph(num_states=3, vocab_size=2, num_arcs=8, seed=0)
    half = graph.scaled(0.5)
    assert graph.scaled(1.0) is graph and graph.scaled(0.5) is half
    assert np.allclose(half.weight, graph.weight / 2) and np.allclose(half.final_weight, graph.final_weight / 2)
    assert half.dst is graph.dst


def test_the_hash_of_the_inputs_is_saved(tmp_path: Path) -> None:
    ctc_topology(3, modified=True).save(tmp_path / "graph.safetensors", inputs="abc")
    assert Graph.inputs_of(tmp_path / "graph.safetensors") == "abc"
    assert Graph.inputs_of(tmp_path / "nothing.safetensors") == ""


def test_save_and_load(tmp_path: Path) -> None:
    graph = ctc_topology(5, modified=True)
    graph.save(tmp_path / "graph.safetensors")
    loaded = Graph.load(tmp_path / "graph.safetensors")
    for f in fields(Graph):
        before, after = getattr(graph, f.name), getattr(loaded, f.name)
        assert before.dtype == after.dtype and np.array_equal(before, after)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="prepare.sh"):
        Graph.load(tmp_path / "graph.safetensors")
    (tmp_path / "graph.safetensors").write_bytes(b"no graph")
    with pytest.raises(ValueError, match="is not a graph"):
        Graph.load(tmp_path / "graph.safetensors")


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
        ({"weight": np.array([0, np.nan, 0, 0], "f4")}, "not a number"),
        ({"final_weight": np.array([np.inf], "f4")}, "not a number"),
        ({"src": np.zeros(4, "i8")}, "holds int64"),
        ({"src": np.zeros((4, 1), "i4")}, "of 2 dimensions"),
    ],
)
def test_arrays_that_are_no_graph_are_refused(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    one = np.array([1], "i4")
    graph = Graph(*(np.array([0, 0, 1, 1], "i4") for _ in range(4)), np.zeros(4, "f4"), one, np.zeros(1, "f4"))
    graph.save(tmp_path / "graph.safetensors")
    Graph.load(tmp_path / "graph.safetensors")
    dataclasses.replace(graph, **changes).save(tmp_path / "graph.safetensors")
    with pytest.raises(ValueError, match=f"graph.safetensors is not a graph .*{message}"):
        Graph.load(tmp_path / "graph.safetensors")


def save_as_version_0_1(graph: Graph, path: Path, *, inputs: str = "") -> None:
    np.savez_compressed(path, **{f.name: getattr(graph, f.name) for f in fields(Graph)}, inputs=np.array(inputs))


def test_graphs_of_version_0_1_are_read(tmp_path: Path) -> None:
    graph = ctc_topology(5, modified=True)
    save_as_version_0_1(graph, tmp_path / "graph.npz", inputs="abc")
    loaded = Graph.load(tmp_path / "graph.npz")
    assert all(np.array_equal(getattr(graph, f.name), getattr(loaded, f.name)) for f in fields(Graph))
    assert Graph.inputs_of(tmp_path / "graph.npz") == "abc"


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    trap = np.array([Trap(tmp_path / "sprung")], dtype=object)
    np.savez(tmp_path / "graph.npz", **dict.fromkeys((*(f.name for f in fields(Graph)), "inputs"), trap))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(trap))
    (tmp_path / "pickle.safetensors").write_bytes(pickle.dumps(trap))
    for name in ("graph.npz", "pickle.npz", "pickle.safetensors"):
        with pytest.raises(ValueError, match="is not a graph"):
            Graph.load(tmp_path / name)
        assert Graph.inputs_of(tmp_path / name) == ""
    assert not (tmp_path / "sprung").exists()


def test_bombs_are_refused_before_they_burst(tmp_path: Path) -> None:
    """64 MB of zeros in 64 kB, as they are and announced as 1 kB; and a safetensors file that announces 4 TB."""
    graph = ctc_topology(5, modified=True)
    save_as_version_0_1(dataclasses.replace(graph, src=np.zeros(SMALL, "i4")), tmp_path / "graph.npz")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="would unpack to"):
        Graph.load(tmp_path / "graph.npz")
    content, true_size = (tmp_path / "graph.npz").read_bytes(), struct.pack("<I", 4 * SMALL + 128)
    assert content.count(true_size) >= 1
    (tmp_path / "lies.npz").write_bytes(content.replace(true_size, struct.pack("<I", 1024)))
    header = b'{"src":{"dtype":"I32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    (tmp_path / "lies.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"0000")
    for name in ("lies.npz", "lies.safetensors"):
        with pytest.raises(ValueError, match="is not a graph"):
            Graph.load(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000, "kB"


CHANGES = st.lists(
    st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=6) | st.integers(1, 255)), min_size=1, max_size=3
)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@settings(max_examples=500, deadline=None, derandomize=True)
@given(changes=CHANGES, cut=st.none() | st.integers(0, 2**16))
def test_any_change_is_read_or_refused_in_one_line(suffix: str, changes: list[Any], cut: int | None) -> None:
    graph = ctc_topology(5, modified=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"graph.{suffix}"
        graph.save(path) if suffix == "safetensors" else save_as_version_0_1(graph, path)
        content = bytearray(path.read_bytes())
        for where, what in changes:
            at = where % len(content)
            new = what if isinstance(what, bytes) else bytes([content[at] ^ what])
            content[at : at + len(new)] = new
        path.write_bytes(content[: None if cut is None else cut % len(content)])
        Graph.inputs_of(path)
        try:
            Graph.load(path).require_sound()
        except ValueError as error:
            assert 0 < len(str(error)) < 1000 and "\n" not in str(error)
