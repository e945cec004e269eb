"""Batches of the prepared splits: training epochs that can be resumed at any batch, and splits read in order."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from lhotse import CutSet
from lhotse.dataset import SimpleCutSampler
from torch import Generator

from shared_moe_conformer.config import require
from shared_moe_conformer.data.augment import with_most_silence
from shared_moe_conformer.data.batch import AsrBatch, CutDataset, PlannedBatch, collate
from shared_moe_conformer.data.manifests import StoredCuts
from shared_moe_conformer.data.workers import read_ahead

TrainingBatch = tuple[np.ndarray, int]
"""Indexes of the cuts of a batch, and its seed."""


def plan_epoch(
    durations: np.ndarray, *, max_duration: float, num_buckets: int, batches_per_update: int, seed: int
) -> list[TrainingBatch]:
    """The batches of an epoch, as `plan_batches` makes them, in updates of the same number of batches.

    The batches of an update have similar sizes, and the updates come in random order. Lhotse's sampler, which
    `streamed` has, would let processes wait for each other longer, and would take minutes to find the place of a
    training that is resumed in a large corpus (benchmarks/data_loading.py compares both).
    """
    generator = torch.Generator().manual_seed(seed)
    num_buckets = min(num_buckets, len(durations))
    planned = plan_batches(durations, max_duration=max_duration, num_buckets=num_buckets, generator=generator)
    batches = [(indexes, _random_seed(generator)) for indexes in planned]
    if batches_per_update == 1:
        return batches

    def padded_duration(batch: TrainingBatch) -> tuple[float, float]:
        indexes, _ = batch
        longest = float(durations[indexes].max())
        return longest * len(indexes), longest

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
    """The batches, the largest ones halved until their number can be divided; some of single cuts may be left out."""
    while len(batches) % divisor:
        largest = max(range(len(batches)), key=lambda i: len(batches[i][0]))
        indexes, seed = batches[largest]
        if len(indexes) == 1:
            return batches[: len(batches) // divisor * divisor]
        half = len(indexes) // 2
        batches[largest] = indexes[half:], seed
        batches.append((indexes[:half], _random_seed(generator)))
    return batches


def _random_seed(generator: Generator) -> int:
    return int(torch.randint(2**62, (1,), generator=generator))


def largest_batches(cuts: StoredCuts, dataset: CutDataset, *, max_duration: float) -> list[AsrBatch]:
    """Full batches of the longest cuts, of those with the most text for their frames, and of the shortest.

    These need most memory: the first has the longest frames to attend to, the second the largest lattices (frames by
    tokens; characters tell enough of these), the third the most utterances. Where training utterances get silence,
    these have as much of it as they can; where they are joined, each of the three is followed by itself, joined. Other
    speeds are the slowest.
    Padding can make a batch of training a little larger than these, the more so the fewer the buckets.

    Nothing is masked, and no noise is mixed in.
    """
    lattices = np.array([cut.duration * len(cut.supervisions[0].text) for cut in cuts])
    batches = []
    for size in (-cuts.durations, -lattices, cuts.durations):
        order = np.argsort(size, kind="stable")
        within = int((np.cumsum(cuts.durations[order]) <= max_duration).sum())
        chosen = [cuts[index] for index in order[: max(within, 1)].tolist()]
        examples = dataset.examples(map(dataset.transforms.longest, chosen) if dataset.transforms else chosen)
        batches += with_most_silence(examples, dataset.config)
    return [collate(batch * dataset.num_copies, num_copies=dataset.num_copies) for batch in batches]


class Part(NamedTuple):
    """One process's part of the batches."""

    rank: int
    num_processes: int


WHOLE = Part(0, 1)


class ResumableLoader(ABC):
    """Batches of one epoch at a time; the position in it can be stored, and found again by another loader.

    loader.set_epoch(3)
    for batch in loader: ...            # len(loader) batches
    state = loader.state_dict()         # after any batch
    other_loader.load_state_dict(state) # its next iteration goes on with the batch that follows
    """

    epoch = num_taken = 0
    """The epoch, and its batches that have been given out."""
    has_ended: bool | None = None
    """Whether this process has been given all its batches of the epoch; None where the number is the same in all."""
    needs = ""
    """Options and data that must be as they were, for a training to go on inside an epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch."""
        self.epoch, self.num_taken = epoch, 0

    @abstractmethod
    def __len__(self) -> int:
        """This process's batches in the whole epoch."""

    @abstractmethod
    def __iter__(self) -> Iterator[AsrBatch]:
        """The batches that are left of the epoch."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A text that tells an epoch of these batches from others."""

    def state_dict(self) -> dict[str, int | str]:
        """The position after the last batch that was given out."""
        return {"epoch": self.epoch, "num_taken": self.num_taken, "fingerprint": self.fingerprint()}

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Go to the position of another loader.

        Raises:
          ValueError: the epoch would have other batches.
        """
        self.set_epoch(int(state["epoch"]))
        require(
            state.get("fingerprint", "") == self.fingerprint(),
            f"epoch {self.epoch} has other batches than when the checkpoint was written: resume with {self.needs}",
        )
        self.num_taken = int(state["num_taken"])


class TrainLoader(ResumableLoader):
    """Shuffled batches of similar durations.

    Several processes divide the batches of an epoch among them. Every update takes the same number from each: the
    largest batches are split until the last update has enough. The batches of an update have similar sizes, so that no
    process waits long for the others.
    The batches of an epoch follow from the seed and the epoch's number alone, whatever was drawn before.
    """

    needs = "its data, number of processes, --seed, --max-duration and --num-buckets"

    def __init__(
        self, cuts: StoredCuts, dataset: CutDataset, *, seed: int, part: Part = WHOLE, accumulate_batches: int = 1
    ) -> None:
        """Plan the first epoch, whose updates have `accumulate_batches` of each process."""
        self.cuts = cuts
        self.dataset = dataset
        self.part = part
        self.batches_per_update = part.num_processes * accumulate_batches
        self.seed = seed
        self.set_epoch(1)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; it is planned whole, so that to resume is to begin further on."""
        super().set_epoch(epoch)
        self._batches: list[TrainingBatch] = plan_epoch(
            self.cuts.durations,
            max_duration=self.dataset.config.max_duration,
            num_buckets=self.dataset.config.num_buckets,
            batches_per_update=self.batches_per_update,
            seed=self.seed * 1_000_003 + epoch,
        )

    def __len__(self) -> int:
        """This process's batches in the whole epoch; it can differ a little from epoch to epoch."""
        return len(self._batches) // self.part.num_processes

    def __iter__(self) -> Iterator[AsrBatch]:
        own = self._batches[self.part.rank :: self.part.num_processes][self.num_taken :]
        planned = (PlannedBatch([self.cuts[i] for i in indexes.tolist()], seed) for indexes, seed in own)
        for batch in read_ahead(
            self.dataset.of_epoch(self.epoch), sampler=planned, num_workers=self.dataset.config.num_workers
        ):
            self.num_taken += 1
            yield batch

    def fingerprint(self) -> str:
        """A digest of which cuts are in which batch of this epoch, and how they are masked."""
        digest = hashlib.sha256(f"{self.cuts.digest} {self.part.num_processes}".encode())
        for indexes, seed in self._batches:
            digest.update(f"{seed} {indexes.tolist()}".encode())
        return digest.hexdigest()


class EvalLoader:
    """A split without SpecAugment, longest cuts first, the same at each iteration."""

    def __init__(self, cuts: CutSet, dataset: CutDataset, *, part: Part = WHOLE) -> None:
        """Plan the batches of a part of the split; a small split may have fewer batches than parts."""
        self.dataset = dataset
        longest_first = cuts.sort_by_duration(ascending=False)
        sampler = SimpleCutSampler(
            longest_first, max_duration=dataset.config.max_duration, shuffle=False, rank=0, world_size=1
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The first cut drawn")  # a cut above max_duration is a batch by itself
            batches = [PlannedBatch(batch, None) for batch in sampler]
        self._batches = batches[part.rank :: part.num_processes]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[AsrBatch]:
        return read_ahead(self.dataset, sampler=self._batches, num_workers=self.dataset.config.num_workers)
