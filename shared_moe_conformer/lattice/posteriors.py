"""Sums and maxima over all paths of a lattice: best path, arc posteriors, pruning, confidences of words and tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from shared_moe_conformer.lattice.lattice import Lattice, trimmed

Sum = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Function from values, and the position at which each group of them begins, to one value a group."""


def best_of(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The maximum of each group: the best path."""
    return np.maximum.reduceat(values, starts)


def log_sum_of(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The logarithm of the sum of each group's exponentials: all paths together."""
    best = np.maximum.reduceat(values, starts)
    finite = np.where(np.isfinite(best), best, 0.0)
    counts = np.diff(np.append(starts, len(values)))
    with np.errstate(divide="ignore"):
        return finite + np.log(np.add.reduceat(np.exp(values - np.repeat(finite, counts)), starts))


def forward(lattice: Lattice, total: Sum) -> np.ndarray:
    """Log-probability of all paths from the start to each state, combined by `total`."""
    result = np.full(lattice.num_states, -np.inf)
    result[0] = 0.0
    order = np.argsort(lattice.dst, kind="stable")
    src, dst, score = lattice.src[order], lattice.dst[order], lattice.score[order]
    bounds = lattice.first_arcs
    for begin, end in zip(bounds, bounds[1:]):
        starts = group_starts(dst[begin:end])
        result[dst[begin:end][starts]] = total(result[src[begin:end]] + score[begin:end], starts)
    return result


def backward(lattice: Lattice, total: Sum) -> np.ndarray:
    """Log-probability of all paths from each state to the end, combined by `total`."""
    result = np.full(lattice.num_states, -np.inf)
    result[lattice.final_state] = lattice.final_lm
    src, dst, score = lattice.src, lattice.dst, lattice.score
    bounds = lattice.first_arcs
    for begin, end in zip(bounds[-2::-1], bounds[:0:-1]):
        starts = group_starts(src[begin:end])
        result[src[begin:end][starts]] = total(score[begin:end] + result[dst[begin:end]], starts)
    return result


def group_starts(keys: np.ndarray) -> np.ndarray:
    """The position of the first key of each run of equal keys."""
    return np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))[: len(keys)]


def arc_log_posteriors(lattice: Lattice) -> np.ndarray:
    """Log-probability of each arc given the frames: the share that paths through it have of all paths.

    Source: Rabiner 1989, A tutorial on hidden Markov models, eq. 37.
    """
    if not lattice.num_arcs:
        return np.zeros(0)
    before, after = forward(lattice, log_sum_of), backward(lattice, log_sum_of)
    return before[lattice.src] + lattice.score + after[lattice.dst] - after[0]


def best_arcs(lattice: Lattice) -> np.ndarray:
    """The arcs of the best path, one for each frame."""
    if not lattice.num_arcs:
        return np.zeros(0, dtype=np.int64)
    after = backward(lattice, best_of)
    bounds = np.searchsorted(lattice.src, np.arange(lattice.num_states + 1))
    arcs, state = [], 0
    for _ in range(lattice.num_frames):
        leaving = slice(bounds[state], bounds[state + 1])
        arcs.append(int(leaving.start + np.argmax(lattice.score[leaving] + after[lattice.dst[leaving]])))
        state = lattice.dst[arcs[-1]]
    return np.array(arcs)


def within_beam(lattice: Lattice, beam: float) -> Lattice:
    """The lattice of the arcs that lie on a path at most `beam` nats worse than the best one."""
    if not lattice.num_arcs:
        return lattice
    before, after = forward(lattice, best_of), backward(lattice, best_of)
    through = before[lattice.src] + lattice.score + after[lattice.dst]
    return trimmed(lattice, through >= after[0] - beam)


def pruned(lattice: Lattice, max_arcs: int) -> Lattice:
    """The best path and the arcs with the highest posteriors: at most `max_arcs` arcs, or the path's if it has more.

    Source: k2.prune_on_arc_post prunes by arc posteriors too, with a threshold.
    """
    if lattice.num_arcs <= max_arcs:
        return lattice
    keep = np.zeros(lattice.num_arcs, dtype=bool)
    if (others := max_arcs - lattice.num_frames) > 0:
        keep[np.argpartition(arc_log_posteriors(lattice), -others)[-others:]] = True
    keep[best_arcs(lattice)] = True
    return trimmed(lattice, keep)


def output_confidences(lattice: Lattice, labels: Sequence[int], frames: Sequence[int]) -> list[float]:
    """The confidence, 0 to 1, of each output label of a path.

    A label lasts until the next one is given. On each of its frames, the posteriors of all paths that are at the same
    label there are added up; its confidence is the largest of these sums.

    Args:
      lattice: the lattice of the path.
      labels: the path's output labels.
      frames: the frame of each.

    Source: Wessel et al. 2001, Confidence measures for large vocabulary continuous speech recognition, eq. 10 (C_max).
    """
    if not labels:
        return []
    different, which = np.unique(labels, return_inverse=True)
    share = _shares_by_last_label(lattice, different)
    return _largest(share[which, :], frames)


def token_confidences(lattice: Lattice, tokens: Sequence[int], frames: Sequence[int]) -> list[float]:
    """The confidence, 0 to 1, of each of a path's tokens that begin at these frames; see `output_confidences`."""
    if not tokens:
        return []
    different, which = np.unique(tokens, return_inverse=True)
    posterior = np.exp(arc_log_posteriors(lattice))
    share = [np.bincount(lattice.frame, weights=posterior * (lattice.ilabel == token)) for token in different]
    return _largest(np.stack(share)[which, :], frames)


def _largest(share: np.ndarray, frames: Sequence[int]) -> list[float]:
    """The largest value of each row (K, T) between its own frame and the next row's."""
    ends = [*frames[1:], share.shape[1]]
    return [float(row[begin:end].max().clip(0, 1)) for row, begin, end in zip(share, frames, ends)]


def _shares_by_last_label(lattice: Lattice, labels: np.ndarray) -> np.ndarray:
    """The share of all paths with each of these labels as their last one, at each frame, (K, T)."""
    order = np.lexsort([lattice.dst, lattice.frame])
    src, dst, given = lattice.src[order], lattice.dst[order], lattice.olabel[order]
    posterior = np.exp(arc_log_posteriors(lattice))[order]
    in_state = np.zeros((len(labels), lattice.num_states))  # share of a state's paths after each label
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
