"""Decoding graphs as plain arrays that every engine loads."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shared_moe_conformer.atomic import atomic_file
from shared_moe_conformer.lattice.archive import Kind, read_arrays


@dataclass(frozen=True, eq=False)
class Graph:
    """A weighted transducer from frame labels to output labels; state 0 is its start.

    Every arc consumes one frame: its input label is a unit of the CTC head, 0 being blank (not epsilon). Its output
    label is a unit or a word, 0 being "nothing". Graphs are compared by identity, so that engines can remember them.
    In L and LG, the parts of a decoding graph, every arc consumes one token instead.
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
        """States, counted from 0 to the highest one that is named."""
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
        """The graph that may end in each state, which costs nothing."""
        states = np.arange(self.num_states, dtype=np.int32)
        return replace(self, final_state=states, final_weight=np.zeros(len(states), dtype=np.float32))

    @functools.lru_cache(maxsize=8)  # noqa: B019 - the same graph each time, so that engines remember it
    def scaled(self, scale: float) -> Graph:
        """The graph whose log-probabilities count this many times; itself where that is once."""
        if scale == 1.0:
            return self
        return replace(self, weight=np.float32(scale) * self.weight, final_weight=np.float32(scale) * self.final_weight)

    def require_sound(self) -> None:
        """Refuse arrays that are no graph, whoever made them.

        Raises:
          ValueError: what is wrong.
        """
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
            "a weight is no number": not (np.isfinite(self.weight).all() and np.isfinite(self.final_weight).all()),
        }
        for problem, found in problems.items():
            if found:
                raise ValueError(problem)

    def save(self, path: Path, *, inputs: str = "") -> None:
        """Write the arrays as one .npz file, with a hash of what the graph was made from."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        with atomic_file(path) as file:
            np.savez_compressed(file, **arrays, inputs=np.array(inputs))

    @staticmethod
    def inputs_of(path: Path) -> str:
        """The hash that a file was saved with; none if it is not a graph."""
        try:
            return str(read_arrays(path, {"inputs": Kind("<U", 0)})["inputs"])
        except ValueError:
            return ""

    @classmethod
    def load(cls, path: Path) -> Graph:
        """The graph that `save` wrote.

        Raises:
          FileNotFoundError: no such file.
          ValueError: not a file that `save` wrote, or what it holds is no graph.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no graph in {path}: run ./prepare.sh first")
        try:
            graph = cls(**read_arrays(path, ARRAYS))
            graph.require_sound()
            return graph
        except ValueError as error:
            raise ValueError(f"{path} is not a graph ({error}): delete it and run ./prepare.sh again") from error


ARRAYS = {f.name: Kind("<f4" if "weight" in f.name else "<i4", 1) for f in fields(Graph)}
"""What each array of a graph's file must be."""


class WordGraph(NamedTuple):
    """A decoding graph over words, and the word of each of its output labels."""

    graph: Graph
    words: list[str]


def graph_of_arcs(
    arcs: np.ndarray, weight: np.ndarray, *, final_state: Sequence[int], final_weight: Sequence[float]
) -> Graph:
    """The graph of these arcs, in the order of the states that they leave.

    Args:
      arcs: src, dst, ilabel and olabel of each arc, (number of arcs, 4).
      weight: log-probability of each arc.
      final_state: the final states.
      final_weight: log-probability of ending in each of them.
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
