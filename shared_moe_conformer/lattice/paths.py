"""Paths of a lattice: the best and the N best ones, posteriors of arcs, pruning, confidences of words and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shared_moe_conformer.lattice.lattice import Lattice, LatticePath, spans, trimmed


def forward(lattice: Lattice, total: np.ufunc) -> np.ndarray:
    """Log-probability of the paths from the start to each state.

    Args:
      total: `np.maximum` takes the best of them, `np.logaddexp` all together.
    """
    result = np.full(lattice.num_states, -np.inf)
    result[0] = 0.0
    order = np.argsort(lattice.dst, kind="stable")
    src, dst, score = lattice.src[order], lattice.dst[order], lattice.score[order]
    bounds = lattice.first_arcs
    for begin, end in zip(bounds, bounds[1:]):
        starts = group_starts(dst[begin:end])
        result[dst[begin:end][starts]] = total.reduceat(result[src[begin:end]] + score[begin:end], starts)
    return result


def backward(lattice: Lattice, total: np.ufunc) -> np.ndarray:
    """Log-probability of the paths from each state to the end; see `forward`."""
    result = np.full(lattice.num_states, -np.inf)
    result[lattice.final_state] = lattice.final_lm
    src, dst, score = lattice.src, lattice.dst, lattice.score
    bounds = lattice.first_arcs
    for begin, end in zip(bounds[-2::-1], bounds[:0:-1]):
        starts = group_starts(src[begin:end])
        result[src[begin:end][starts]] = total.reduceat(score[begin:end] + result[dst[begin:end]], starts)
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
    before, after = forward(lattice, np.logaddexp), backward(lattice, np.logaddexp)
    return before[lattice.src] + lattice.score + after[lattice.dst] - after[0]


def best_arcs(lattice: Lattice) -> np.ndarray:
    """The arcs of the best path, one for each frame."""
    if not lattice.num_arcs:
        return np.zeros(0, dtype=np.int64)
    after = backward(lattice, np.maximum)
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
    before, after = forward(lattice, np.maximum), backward(lattice, np.maximum)
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


class _Partials(NamedTuple):
    """The best partial paths to the states of one frame, in the order of these states."""

    state: np.ndarray
    sequence: np.ndarray
    """Hash of the output labels so far, uint64; among millions, two collide in one of a million lattices."""
    score: np.ndarray
    before: np.ndarray
    """The partial path of the frame before that each one continues."""
    arc: np.ndarray


def n_best(lattice: Lattice, num_paths: int, *, beam: float = np.inf) -> list[LatticePath]:
    """Return the best path of each of the N best output sequences, best first; fewer if the lattice has fewer.

    Every state remembers the N best sequences that lead to it, told apart by their output labels: all of them can
    continue alike, so no other sequence can become one of the N best. Sampling paths, as icefall does, misses some.

    Source: Chow and Schwartz 1989, The N-best algorithm: an efficient procedure for finding top N sentence hypotheses.

    Args:
      num_paths: N.
      beam: sequences this much (nats) worse than the best one are left out.
    """
    if not lattice.num_arcs:
        return []
    after = backward(lattice, np.maximum)
    worst = after[0] - beam
    start = np.zeros(1, dtype=np.int64)
    ways = [_Partials(start, start.astype(np.uint64), np.zeros(1), start, start)]
    bounds = lattice.first_arcs
    for begin, end in zip(bounds, bounds[1:]):
        longer = _continued(lattice, np.arange(begin, end), ways[-1])
        promising = longer.score + after[longer.state] >= worst
        ways.append(_best_different(_taken(longer, promising), num_paths))
    return [lattice.path(_trace_back(ways, last)) for last in _best_at_the_end(ways[-1], after, num_paths)]


def _continued(lattice: Lattice, arcs: np.ndarray, ways: _Partials) -> _Partials:
    """All partial paths, each continued by each arc that leaves its state."""
    first = np.searchsorted(ways.state, lattice.src[arcs])
    end = np.searchsorted(ways.state, lattice.src[arcs], side="right")
    before, arcs = spans(first, end), np.repeat(arcs, end - first)
    sequence, label = ways.sequence[before], lattice.olabel[arcs]
    return _Partials(
        lattice.dst[arcs],
        np.where(label > 0, _hash(sequence, label), sequence),
        ways.score[before] + lattice.score[arcs],
        before,
        arcs,
    )


def _hash(sequence: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Source: Steele et al. 2014, Fast splittable pseudorandom number generators (SplitMix64's constants)."""
    x = (sequence + label.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return x ^ (x >> np.uint64(27))


def _taken(ways: _Partials, which: np.ndarray) -> _Partials:
    return _Partials(*(column[which] for column in ways))


def _best_different(ways: _Partials, num_paths: int) -> _Partials:
    """The best partial path of each sequence to each state; of these, the N best of each state."""
    by_score = np.argsort(-ways.score, kind="stable")
    which = _hash(ways.sequence, ways.state)[by_score]
    _, first = np.unique(which, return_index=True)
    best = by_score[np.sort(first)]
    best = best[np.argsort(ways.state[best], kind="stable")]
    starts = group_starts(ways.state[best])
    rank = np.arange(len(best)) - np.repeat(starts, np.diff(np.append(starts, len(best))))
    return _taken(ways, best[rank < num_paths])


def _best_at_the_end(ways: _Partials, after: np.ndarray, num_paths: int) -> list[int]:
    """The complete paths with the N best sequences."""
    order = np.argsort(-(ways.score + after[ways.state]), kind="stable")
    _, first = np.unique(ways.sequence[order], return_index=True)
    return order[np.sort(first)][:num_paths].tolist()


def _trace_back(ways: list[_Partials], last: int) -> np.ndarray:
    arcs = []
    for frame in reversed(ways[1:]):
        arcs.append(int(frame.arc[last]))
        last = int(frame.before[last])
    return np.array(arcs[::-1])
