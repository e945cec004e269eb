"""How sure a lattice is of the words of a path."""

from __future__ import annotations

import numpy as np

from shared_moe_conformer.lattice.composition import LastLabel, composed
from shared_moe_conformer.lattice.forward_backward import arc_log_posteriors
from shared_moe_conformer.lattice.lattice import Lattice
from shared_moe_conformer.lattice.path import LatticePath


def label_confidences(lattice: Lattice, path: LatticePath) -> list[float]:
    """The confidence of each of a path's output labels, 0 to 1.

    A label lasts until the next one is given. On each of its frames, the posteriors of all paths that are at the same
    label there are added up; the label's confidence is the largest of these sums.

    Source: Wessel et al. 2001, Confidence measures for large vocabulary continuous speech recognition, eq. 10 (C_max).
    """
    if not path.output_labels:
        return []
    whole, last_label = composed(lattice, LastLabel())
    posterior, label = np.exp(arc_log_posteriors(whole)), last_label[whole.dst]
    ends = [*path.output_frames[1:], len(path.frame_labels)]
    spans = zip(path.output_labels, path.output_frames, ends)
    return [_largest_sum(posterior, whole.frame, label == given, begin, end) for given, begin, end in spans]


def frame_confidences(lattice: Lattice, path: LatticePath) -> list[float]:
    """The posterior of the frame label of each of a path's frames, 0 to 1."""
    if not path.frame_labels:
        return []
    posterior = np.exp(arc_log_posteriors(lattice))
    same = lattice.ilabel == np.array(path.frame_labels)[lattice.frame]
    return np.bincount(lattice.frame, weights=posterior * same, minlength=len(path.frame_labels)).clip(0, 1).tolist()


def _largest_sum(posterior: np.ndarray, frame: np.ndarray, same: np.ndarray, begin: int, end: int) -> float:
    inside = same & (frame >= begin) & (frame < end)
    return float(np.bincount(frame[inside] - begin, weights=posterior[inside]).max(initial=0.0).clip(0, 1))
