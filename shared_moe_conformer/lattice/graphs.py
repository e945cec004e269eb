"""Decoding graphs as plain arrays that every engine loads, and the CTC topology."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class Graph:
    """A weighted transducer from frame labels to output labels; state 0 is its start.

    Every arc consumes one frame: its input label is a unit of the CTC head, 0 being blank (not epsilon). Its output
    label is a unit or a word, 0 being "nothing". Graphs are compared by identity, so that engines can remember them.
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

    @property
    def num_states(self) -> int:
        """States, counted from 0 to the highest one that is named."""
        return 1 + max(int(states.max(initial=0)) for states in (self.src, self.dst, self.final_state))

    def save(self, path: Path) -> None:
        """Write the arrays as one .npz file."""
        with path.open("wb") as file:
            np.savez_compressed(file, **{f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Graph:
        """The graph that `save` wrote.

        Raises:
          FileNotFoundError: no such file.
          ValueError: not a file that `save` wrote.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no graph in {path}: run ./prepare.sh first")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(**{f.name: arrays[f.name] for f in fields(cls)})
        except (KeyError, OSError, ValueError) as error:
            raise ValueError(f"{path} is not a graph ({error}): delete it and run ./prepare.sh again") from error


def ctc_topology(vocab_size: int, *, modified: bool) -> Graph:
    """All label sequences of `vocab_size` units (blank, 0, included), each giving its tokens.

    The standard topology demands a blank between equal tokens and has vocab_size squared arcs. The modified one does
    not and has 4 per unit: there a run of a token may be one token or several, and all readings weigh the same.

    Source: k2.ctc_topo, whose state numbers these are.
    """
    return _modified_topology(vocab_size) if modified else _standard_topology(vocab_size)


def _standard_topology(vocab_size: int) -> Graph:
    """State v: the last frame was v. An arc gives its label unless that is blank or only goes on."""
    units = np.arange(vocab_size)
    src, dst = np.repeat(units, vocab_size), np.tile(units, vocab_size)
    return _unweighted(src, dst, ilabel=dst, olabel=np.where(src == dst, 0, dst), final_state=units)


def _modified_topology(vocab_size: int) -> Graph:
    """State 0: no run is open. State v > 0: a run of at least two frames v is open."""
    units, tokens = np.arange(vocab_size), np.arange(1, vocab_size)
    nothing = np.zeros_like(tokens)
    return _unweighted(
        src=np.concatenate([np.zeros_like(units), nothing, np.repeat(tokens, 2)]),
        dst=np.concatenate([np.zeros_like(units), tokens, np.stack([tokens, nothing], axis=1).ravel()]),
        ilabel=np.concatenate([units, tokens, np.repeat(tokens, 2)]),
        olabel=np.concatenate([units, tokens, np.repeat(nothing, 2)]),
        final_state=np.zeros(1),
    )


def _unweighted(
    src: np.ndarray, dst: np.ndarray, *, ilabel: np.ndarray, olabel: np.ndarray, final_state: np.ndarray
) -> Graph:
    return Graph(
        src.astype(np.int32),
        dst.astype(np.int32),
        ilabel.astype(np.int32),
        olabel.astype(np.int32),
        weight=np.zeros(len(src), dtype=np.float32),
        final_state=final_state.astype(np.int32),
        final_weight=np.zeros(len(final_state), dtype=np.float32),
    )
