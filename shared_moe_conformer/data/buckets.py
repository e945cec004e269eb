"""Shuffled batches of cuts that are about equally long, planned from their durations alone."""

from __future__ import annotations

import numpy as np
import torch


def plan_batches(
    durations: np.ndarray, *, max_duration: float, num_buckets: int, generator: torch.Generator
) -> list[np.ndarray]:
    """Indexes of each batch's cuts, every cut once.

    The cuts are sorted into buckets of neighbouring durations, each with as much audio; a batch is drawn from one
    bucket, and the batches come in random order. The time it takes grows with the number of cuts, not faster.

    Source: lhotse.dataset.DynamicBucketingSampler, which shuffles a bucket again for every batch of it.

    Args:
      durations: seconds of each cut, (M,).
      max_duration: audio in a batch, in seconds, without padding; a longer cut is a batch.
      num_buckets: how many durations are told apart.
      generator: of all that is random.
    """
    buckets = _buckets(durations, num_buckets)
    shuffled = torch.randperm(len(durations), generator=generator).numpy()
    order = shuffled[np.argsort(buckets[shuffled], kind="stable")]
    ends = np.cumsum(durations[order])
    bucket_ends = np.flatnonzero(np.diff(buckets[order], append=num_buckets)) + 1
    batches, begin = [], 0
    for bucket_end in bucket_ends.tolist():
        while begin < bucket_end:
            limit = ends[begin - 1] + max_duration if begin else max_duration
            fitting = int(np.searchsorted(ends, limit + 1e-6, side="right"))
            end = min(max(fitting, begin + 1), bucket_end)
            batches.append(order[begin:end])
            begin = end
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _buckets(durations: np.ndarray, num_buckets: int) -> np.ndarray:
    """Each cut's bucket, (M,): the shortest are in the first, and all hold about as much audio."""
    order = np.argsort(durations, kind="stable")
    audio = np.cumsum(durations[order])
    buckets = np.empty(len(durations), dtype=np.int64)
    buckets[order] = np.minimum((audio - durations[order] / 2) / audio[-1:] * num_buckets, num_buckets - 1)
    return buckets
