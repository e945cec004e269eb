"""A way through a graph, as every engine returns it."""

from __future__ import annotations

from typing import NamedTuple


class LatticePath(NamedTuple):
    """One way through a graph."""

    frame_labels: list[int]
    """Frame label of every frame."""
    output_labels: list[int]
    """Output labels, without the 0 of arcs that give none."""
    output_frames: list[int]
    """Frame at which each output label was given."""
    score: float
    """Log-probability of frames and graph together; -inf where no path was found."""
    am_score: float = float("-inf")
    """The part of the frames, where the lattice is at hand."""
    lm_score: float = 0.0
    """The part of the graph, where the lattice is at hand."""


NO_PATH = LatticePath([], [], [], float("-inf"))


class AlignedPath(NamedTuple):
    """A way through a transducer's lattice."""

    path: LatticePath
    """Its frame labels are tokens and blanks."""
    log_probs: list[float]
    """The model's log-probability of each frame's label."""
