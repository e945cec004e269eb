"""How sure a lattice is of the words and the tokens of a path.

A label lasts until the next one is given. On each of its frames, the posteriors of all arcs that are at the same label
there are added up; its confidence is the largest of these sums.

Source: Wessel et al. 2001, Confidence measures for large vocabulary continuous speech recognition, eq. 10 (C_max).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared_moe_conformer.lattice.composition import LastLabel, composed
from shared_moe_conformer.lattice.forward_backward import arc_log_posteriors
from shared_moe_conformer.lattice.lattice import Lattice


def output_confidences(lattice: Lattice, labels: Sequence[int], frames: Sequence[int]) -> list[float]:
    """The confidence, 0 to 1, of each of a path's output labels, which are given at these frames."""
    if not labels:
        return []
    whole, last_label = composed(lattice, LastLabel())
    return _confidences(whole, last_label[whole.dst], labels, frames)


def token_confidences(lattice: Lattice, tokens: Sequence[int], frames: Sequence[int]) -> list[float]:
    """The confidence, 0 to 1, of each of a path's tokens, which begin at these frames."""
    return _confidences(lattice, lattice.ilabel, tokens, frames) if tokens else []


def _confidences(
    lattice: Lattice, label_of_arc: np.ndarray, labels: Sequence[int], frames: Sequence[int]
) -> list[float]:
    path_label = np.repeat([0, *labels], np.diff([0, *frames, lattice.num_frames]))  # at each frame
    posterior = np.exp(arc_log_posteriors(lattice)) * (label_of_arc == path_label[lattice.frame])
    of_frames = np.bincount(lattice.frame, weights=posterior)
    return np.maximum.reduceat(of_frames, frames).clip(0, 1).tolist()
