"""Which cuts are in which batch: shuffled batches of cuts that are about equally long, planned from durations alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Generator

from shared_moe_conformer.data.augment import with_most_silence
from shared_moe_conformer.data.batch import AsrBatch, CutDataset, collate
from shared_moe_conformer.data.stored_cuts import StoredCuts


class TrainingBatch(NamedTuple):
    """A batch of an epoch before its cuts are read."""

    indexes: np.ndarray
    """Of its cuts."""
    seed: int


def plan_epoch(
    durations: np.ndarray, *, max_duration: float, num_buckets: int, batches_per_update: int, seed: int
) -> list[TrainingBatch]:
    """The batches of an epoch, as `plan_batches` makes them, in updates of the same number of batches.

    The batches of an update have similar sizes, and the updates come in random order.
    """
    generator = torch.Generator().manual_seed(seed)
    num_buckets = min(num_buckets, len(durations))
    planned = plan_batches(durations, max_duration=max_duration, num_buckets=num_buckets, generator=generator)
    batches = [TrainingBatch(indexes, _random_seed(generator)) for indexes in planned]
    if batches_per_update == 1:
        return batches

    def padded_duration(batch: TrainingBatch) -> tuple[float, float]:
        longest = float(durations[batch.indexes].max())
        return longest * len(batch.indexes), longest

    batches = sorted(_split(batches, batches_per_update, generator), key=padded_duration)
    order = torch.randperm(len(batches) // batches_per_update, generator=generator).tolist()
    return [batch for i in order for batch in batches[i * batches_per_update : (i + 1) * batches_per_update]]


def plan_batches(
    durations: np.ndarray, *, max_duration: float, num_buckets: int, generator: Generator
) -> list[np.ndarray]:
    """Indexes of each batch's cuts, every cut once.

    The cuts are sorted into buckets of neighbouring durations, which all hold about as much audio. A batch is drawn
    from one bucket, and the batches come in random order. The time it takes is proportional to the number of cuts.

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
    """Each cut's bucket, (M,); the shortest cuts are in the first."""
    order = np.argsort(durations, kind="stable")
    audio = np.cumsum(durations[order])
    buckets = np.empty(len(durations), dtype=np.int64)
    buckets[order] = np.minimum((audio - durations[order] / 2) / audio[-1:] * num_buckets, num_buckets - 1)
    return buckets


def _split(batches: list[TrainingBatch], divisor: int, generator: Generator) -> list[TrainingBatch]:
    """The batches, the largest ones halved until their number can be divided; none if there are too few cuts."""
    while len(batches) % divisor:
        largest = max(range(len(batches)), key=lambda i: len(batches[i].indexes))
        indexes, seed = batches[largest]
        if len(indexes) == 1:
            return []
        half = len(indexes) // 2
        batches[largest] = TrainingBatch(indexes[half:], seed)
        batches.append(TrainingBatch(indexes[:half], _random_seed(generator)))
    return batches


def _random_seed(generator: Generator) -> int:
    return int(torch.randint(2**62, (1,), generator=generator))


def largest_batches(cuts: StoredCuts, dataset: CutDataset, *, max_duration: float) -> list[AsrBatch]:
    """Full batches of the longest cuts, of those with the most text for their frames, and of the shortest.

    These need most memory: the first has the longest frames to attend to, the second the largest lattices (frames by
    tokens; characters tell enough of these), the third the most utterances. Where training utterances get silence,
    these have as much of it as they can; where they are joined, each of the three is followed by itself, joined.
    Padding can make a batch of training a little larger than these, the more so the fewer the buckets.

    Args:
      cuts: the training split.
      dataset: loads them; nothing is masked, and no noise is mixed in.
      max_duration: audio in a batch, in seconds.
    """
    lattices = np.array([cut.duration * len(cut.supervisions[0].text) for cut in cuts])
    batches = []
    for size in (-cuts.durations, -lattices, cuts.durations):
        order = np.argsort(size, kind="stable")
        within = int((np.cumsum(cuts.durations[order]) <= max_duration).sum())
        examples = dataset.examples(cuts[index] for index in order[: max(within, 1)].tolist())
        batches += with_most_silence(examples, dataset.config)
    return [collate(batch * dataset.num_copies, num_copies=dataset.num_copies) for batch in batches]
