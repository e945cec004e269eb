from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.lattice.archive import SMALL, Kind, read_arrays
from shared_moe_conformer.lattice.graphs import ARRAYS, Graph
from shared_moe_conformer.lattice.topology import ctc_topology

INTEGERS = {"a": Kind("<i4", 1)}


def write_member(path: Path, content: bytes, name: str = "a.npy") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return path


def npy(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def header(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


def test_what_numpy_wrote_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"a": rng.integers(9, size=50).astype("<i4"), "b": rng.normal(size=(3, 4)).astype("<f4"), "c": "text"}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **{name: np.asarray(array) for name, array in arrays.items()})
        found = read_arrays(tmp_path / "x.npz", {"a": Kind("<i4", 1), "b": Kind("<f4", 2), "c": Kind("<U", 0)})
        assert found.keys() == arrays.keys()
        assert all(np.array_equal(found[name], array) for name, array in arrays.items())
        assert all(array.flags.writeable for array in found.values())


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    trap = np.array([Trap(tmp_path / "sprung")], dtype=object)
    np.savez(tmp_path / "x.npz", a=trap)
    contents = [pickle.dumps(Trap(tmp_path / "sprung")), npy(trap, allow_pickle=True)]
    for content in (*contents, header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", contents[0])):
        for file in (tmp_path / "x.npz", write_member(tmp_path / "y.npz", content)):
            with pytest.raises(ValueError, match="holds|no array"):
                read_arrays(file, INTEGERS)
    (tmp_path / "z.npz").write_bytes(contents[0])
    with pytest.raises(ValueError, match="not a zip"):
        read_arrays(tmp_path / "z.npz", INTEGERS)
    assert not (tmp_path / "sprung").exists()


SHAPES = "{{'descr': '<i4', 'fortran_order': False, 'shape': {}}}"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00\x10\x00",
        header("", b"0000"),
        header("{" * 3000),
        header("__import__('os').mkdir('/sprung')"),
        header("[1]"),
        header("{'descr': '<i4'}"),
        header(SHAPES.format("(1000000000000,)"), b"0000"),
        header(SHAPES.format("(-1,)"), b"0000"),
        header(SHAPES.format("(1.0,)"), b"0000"),
        header(SHAPES.format("(True,)"), b"0000"),
        header(SHAPES.format("1"), b"0000"),
        header(SHAPES.format("(2,)"), b"0000"),
        header(SHAPES.format("(1, 1)"), b"0000"),
        header(SHAPES.format("(1,)").replace("<i4", "<f4"), b"0000"),
        header(SHAPES.format("(1,)").replace("<i4", ">i4"), b"0000"),
        header(SHAPES.format("(1,)").replace("False", "True"), b"0000"),
        header(SHAPES.format("(" + "9" * 3000 + ",)"), b"0000"),
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{}",
    ],
)
def test_headers_that_lie_take_no_memory(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        read_arrays(write_member(tmp_path / "x.npz", content), INTEGERS)


def test_missing_arrays_and_other_compressions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.npy"):
        read_arrays(write_member(tmp_path / "x.npz", npy(np.zeros(1, "<i4")), name="../a.npy"), INTEGERS)
    with zipfile.ZipFile(tmp_path / "y.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", npy(np.zeros(1, "<i4")))
    with pytest.raises(ValueError, match="compressed in another way"):
        read_arrays(tmp_path / "y.npz", INTEGERS)


def test_bombs_are_refused_before_they_burst(tmp_path: Path) -> None:
    """64 MB of zeros in 64 kB, as they are and announced as 1 kB."""
    bomb = write_member(tmp_path / "x.npz", npy(np.zeros(SMALL, "<i4")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="would grow to"):
        read_arrays(bomb, INTEGERS)
    content = bomb.read_bytes()
    true_size = struct.pack("<I", 4 * SMALL + 128)
    assert content.count(true_size) == 2
    (tmp_path / "y.npz").write_bytes(content.replace(true_size, struct.pack("<I", 1024)))
    with pytest.raises(ValueError, match="CRC|holds"):
        read_arrays(tmp_path / "y.npz", INTEGERS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000, "kB"


CHANGES = st.lists(
    st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=6) | st.integers(1, 255)), min_size=1, max_size=3
)


@pytest.fixture(scope="module", params=[np.savez, np.savez_compressed], ids=["stored", "compressed"])
def graph_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "graph.npz"
    graph = ctc_topology(5, modified=True)
    request.param(path, **{name: getattr(graph, name) for name in ARRAYS})
    return path


@pytest.mark.slow
@settings(max_examples=500, deadline=None, derandomize=True)
@given(changes=CHANGES, cut=st.none() | st.integers(0, 2**16))
def test_any_change_is_read_or_refused_in_one_line(graph_file: Path, changes: list[Any], cut: int | None) -> None:
    content = bytearray(graph_file.read_bytes())
    path = graph_file.with_name("fuzzed.npz")
    for where, what in changes:
        at = where % len(content)
        new = what if isinstance(what, bytes) else bytes([content[at] ^ what])
        content[at : at + len(new)] = new
    path.write_bytes(content[: None if cut is None else cut % len(content)])
    try:
        Graph.load(path).require_sound()
    except ValueError as error:
        assert 0 < len(str(error)) < 1000 and "\n" not in str(error)
