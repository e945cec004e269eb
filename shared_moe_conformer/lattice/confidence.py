"""How sure a lattice is of the words and the tokens of a path.

A label lasts until the next one is given. On each of its frames, the posteriors of all paths that are at the same label
there are added up; its confidence is the largest of these sums.

Source: Wessel et al. 2001, Confidence measures for large vocabulary continuous speech recognition, eq. 10 (C_max).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared_moe_conformer.lattice.forward_backward import arc_log_posteriors, group_starts
from shared_moe_conformer.lattice.lattice import Lattice


def output_confidences(lattice: Lattice, labels: Sequence[int], frames: Sequence[int]) -> list[float]:
    """The confidence, 0 to 1, of each of a path's output labels, which are given at these frames."""
    if not labels:
        return []
    different, which = np.unique(labels, return_inverse=True)
    share = _shares_by_last_label(lattice, different)
    return _largest(share[which, :], frames)


def token_confidences(lattice: Lattice, tokens: Sequence[int], frames: Sequence[int]) -> list[float]:
    """The confidence, 0 to 1, of each of a path's tokens, which begin at these frames."""
    if not tokens:
        return []
    different, which = np.unique(tokens, return_inverse=True)
    posterior = np.exp(arc_log_posteriors(lattice))
    share = [np.bincount(lattice.frame, weights=posterior * (lattice.ilabel == token)) for token in different]
    return _largest(np.stack(share)[which, :], frames)


def _largest(share: np.ndarray, frames: Sequence[int]) -> list[float]:
    """The largest value of each row (K, T) from its own frame on and before the next row's."""
    ends = [*frames[1:], share.shape[1]]
    return [float(row[begin:end].max().clip(0, 1)) for row, begin, end in zip(share, frames, ends)]


def _shares_by_last_label(lattice: Lattice, labels: np.ndarray) -> np.ndarray:
    """The share of all paths whose last label is each of these, frame by frame, (K, T)."""
    order = np.lexsort([lattice.dst, lattice.frame])
    src, dst, given = lattice.src[order], lattice.dst[order], lattice.olabel[order]
    posterior = np.exp(arc_log_posteriors(lattice))[order]
    in_state = np.zeros((len(labels), lattice.num_states))  # of the paths through a state, those after each label
    result = np.zeros((len(labels), lattice.num_frames))
    bounds = lattice.first_arcs
    for frame, (begin, end) in enumerate(zip(bounds, bounds[1:])):
        arcs = slice(begin, end)
        after = np.where(given[arcs] == 0, in_state[:, src[arcs]], given[arcs] == labels[:, None])
        share = posterior[arcs] * after
        starts = group_starts(dst[arcs])
        whole = np.add.reduceat(posterior[arcs], starts)
        in_state[:, dst[arcs][starts]] = np.add.reduceat(share, starts, axis=1) / np.where(whole > 0, whole, 1.0)
        result[:, frame] = share.sum(axis=1)
    return result
