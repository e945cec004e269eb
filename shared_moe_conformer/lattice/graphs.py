"""Decoding graphs as plain arrays, which every engine can load, and their files."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import safe_open

from shared_moe_conformer.atomic import write_whole

MAX_EXPANSION = 200
"""Largest ratio of what an .npz file unpacks to and its size; graphs with weights have about 5."""
SMALL = 1 << 24
"""Bytes that any .npz file may unpack to."""
MAX_REASON = 200
"""Most characters taken from a library's message, which may quote the file."""


@dataclass(frozen=True, eq=False)
class Graph:
    """A weighted transducer from frame labels to output labels; state 0 is its start.

    Every arc consumes one frame: its input label is a unit of the CTC head, and 0 is blank (not epsilon). Its output
    label is a unit or a word, and 0 is none. Graphs are compared by identity, so engines can cache them. In L and LG,
    the parts of a decoding graph, every arc consumes one token instead.
    """

    src: np.ndarray
    """State that each arc leaves, int32, ascending."""
    dst: np.ndarray
    """State that each arc enters, int32."""
    ilabel: np.ndarray
    """Frame label of each arc, int32."""
    olabel: np.ndarray
    """Output label of each arc, int32."""
    weight: np.ndarray
    """Log-probability of each arc, float32."""
    final_state: np.ndarray
    """The final states, int32."""
    final_weight: np.ndarray
    """Log-probability of ending in each of them, float32."""

    @functools.cached_property
    def num_states(self) -> int:
        """Number of states, from 0 to the highest that an arc or a final state names."""
        return 1 + max(int(states.max(initial=0)) for states in (self.src, self.dst, self.final_state))

    @functools.cached_property
    def first_arcs(self) -> np.ndarray:
        """The first arc that leaves each state, and the number of arcs."""
        return np.searchsorted(self.src, np.arange(self.num_states + 1))

    @functools.cached_property
    def ending(self) -> np.ndarray:
        """Log-probability of ending in each state; -inf where nothing may end."""
        result = np.full(self.num_states, -np.inf)
        result[self.final_state] = self.final_weight
        return result

    @functools.cached_property
    def ending_anywhere(self) -> Graph:
        """The same graph with every state final, at log-probability 0."""
        states = np.arange(self.num_states, dtype=np.int32)
        return replace(self, final_state=states, final_weight=np.zeros(len(states), dtype=np.float32))

    @functools.lru_cache(maxsize=8)  # noqa: B019 - the same graph each time, so engines can cache it
    def scaled(self, scale: float) -> Graph:
        """The graph with its log-probabilities multiplied by a scale; itself where that is 1."""
        if scale == 1.0:
            return self
        return replace(self, weight=np.float32(scale) * self.weight, final_weight=np.float32(scale) * self.final_weight)

    def require_sound(self) -> None:
        """Refuse arrays that are not a graph; the message names the fault."""
        for f in fields(self):
            array, dtype = getattr(self, f.name), np.float32 if "weight" in f.name else np.int32
            if array.dtype != dtype or array.ndim != 1:
                raise ValueError(f"{f.name} holds {array.dtype} of {array.ndim} dimensions")
        of_arcs = [self.src, self.dst, self.ilabel, self.olabel, self.weight]
        integers = [self.src, self.dst, self.ilabel, self.olabel, self.final_state]
        problems = {
            "arrays differ in length": len({len(array) for array in of_arcs}) > 1
            or len(self.final_state) != len(self.final_weight),
            "it has no arcs or no final state": not len(self.src) or not len(self.final_state),
            "a state or a label is negative": any(int(array.min(initial=0)) < 0 for array in integers),
            "it has more states than arcs lead to": self.num_states > 1 + len(self.src) + len(self.final_state),
            "its arcs are not in the order of states": bool((np.diff(self.src) < 0).any()),
            "a state is final twice": len(np.unique(self.final_state)) < len(self.final_state),
            "a weight is not a number": not (np.isfinite(self.weight).all() and np.isfinite(self.final_weight).all()),
        }
        for problem, found in problems.items():
            if found:
                raise ValueError(problem)

    def save(self, path: Path, *, inputs: str = "") -> None:
        """Write the arrays as a safetensors file, with a hash of what the graph was made from."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        write_whole(path, safetensors.numpy.save(arrays, {"inputs": inputs}))

    @staticmethod
    def inputs_of(path: Path) -> str:
        """The hash that a file was saved with; empty if it is not a graph."""
        try:
            return _read_inputs(path)
        except Exception:  # whatever readers of damaged files raise
            return ""

    @classmethod
    def load(cls, path: Path) -> Graph:
        """The graph of a file: one that `save` wrote, or an .npz file of version 0.1.

        Raises:
          FileNotFoundError: no such file.
          ValueError: the file is damaged, or holds no graph.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no graph in {path}: run ./prepare.sh first")
        try:
            graph = cls(**_read_arrays(path))
            graph.require_sound()
        except Exception as error:  # the same
            reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
            raise ValueError(f"{path} is not a graph ({reason}): delete it and run ./prepare.sh again") from error
        return graph


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    names = [f.name for f in fields(Graph)]
    if path.suffix != ".npz":
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in names}
    with np.load(path, allow_pickle=False) as archive:
        num_bytes, stored = sum(member.file_size for member in archive.zip.infolist()), path.stat().st_size
        if num_bytes > max(SMALL, MAX_EXPANSION * stored):  # a zip bomb
            raise ValueError(f"its {stored} bytes would unpack to {num_bytes}")
        return {name: archive[name] for name in names}


def _read_inputs(path: Path) -> str:
    if path.suffix != ".npz":
        with safe_open(path, framework="np") as file:
            return str(file.metadata()["inputs"])
    with np.load(path, allow_pickle=False) as archive:
        return str(archive["inputs"])


class WordGraph(NamedTuple):
    """A decoding graph over words, and the word of each of its output labels."""

    graph: Graph
    words: list[str]


def graph_of_arcs(
    arcs: np.ndarray, weight: np.ndarray, *, final_state: Sequence[int], final_weight: Sequence[float]
) -> Graph:
    """The graph of these arcs, sorted by the states that they leave.

    Args:
      arcs: src, dst, ilabel and olabel of each arc, (number of arcs, 4).
    """
    order = np.argsort(arcs[:, 0], kind="stable")
    src, dst, ilabel, olabel = np.ascontiguousarray(arcs[order].T, dtype=np.int32)
    return Graph(
        src,
        dst,
        ilabel,
        olabel,
        weight=weight[order].astype(np.float32),
        final_state=np.array(final_state, dtype=np.int32),
        final_weight=np.array(final_weight, dtype=np.float32),
    )
