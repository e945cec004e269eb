"""Iterables over batches: training epochs that can be resumed at any batch, and splits that are read in order."""

from __future__ import annotations

import functools
import hashlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from lhotse import CutSet, MonoCut
from lhotse.dataset import SimpleCutSampler
from torch.utils.data import DataLoader, Dataset

from shared_moe_conformer.config import DataConfig, require
from shared_moe_conformer.data.batch import AsrBatch, Example, collate
from shared_moe_conformer.data.buckets import plan_batches
from shared_moe_conformer.data.joining import with_silence
from shared_moe_conformer.data.noise import NoiseMixer
from shared_moe_conformer.data.spec_augment import spec_augment
from shared_moe_conformer.data.stored_cuts import StoredCuts
from shared_moe_conformer.data.tokenizer import Tokenizer


class PlannedBatch(NamedTuple):
    """The cuts of a batch, and the seed of its silence, noise and SpecAugment (None: nothing of these)."""

    cuts: CutSet
    seed: int | None


class TrainingBatch(NamedTuple):
    """A batch of an epoch before its cuts are read."""

    indexes: np.ndarray
    """Of its cuts."""
    seed: int


class Part(NamedTuple):
    """One process's part of the batches."""

    rank: int
    num_processes: int


WHOLE = Part(0, 1)


class CutDataset(Dataset):
    """Loads planned batches; item by item the same whoever loads it, so that workers change nothing."""

    def __init__(
        self, tokenizer: Tokenizer, config: DataConfig, *, noise: NoiseMixer | None = None, num_copies: int = 1
    ) -> None:
        """Load nothing yet.

        Args:
          tokenizer: makes tokens of texts.
          config: silence, noise and masks of training batches.
          noise: what is mixed into training batches.
          num_copies: copies of each training utterance in its batch, each with masks of its own.
        """
        self.tokenizer = tokenizer
        self.config = config
        self.noise = noise
        self.num_copies = num_copies

    def __getitem__(self, planned: PlannedBatch) -> AsrBatch:
        examples = self.examples(planned.cuts)
        if planned.seed is None:
            return collate(examples)
        generator = torch.Generator().manual_seed(planned.seed)
        joined = with_silence(examples, self.config, generator=generator)
        copies = zip(*(self._augmented(example, generator) for example in joined))
        return collate([example for copy in copies for example in copy], num_copies=self.num_copies)

    def examples(self, cuts: Iterable[MonoCut]) -> list[Example]:
        """The cuts as they are stored."""
        cuts = list(cuts)
        texts = [cut.supervisions[0].text for cut in cuts]
        features = (torch.from_numpy(cut.load_features()) for cut in cuts)
        return list(map(Example, features, self.tokenizer.encode(texts), (cut.id for cut in cuts), texts))

    def _augmented(self, example: Example, generator: torch.Generator) -> list[Example]:
        """The copies of an utterance: with the same noise, each with masks of its own."""
        features = example.features
        if self.noise is not None:
            features = self.noise(features, generator=generator)
        masked = (spec_augment(features, self.config, generator=generator) for _ in range(self.num_copies))
        return [example._replace(features=copy) for copy in masked]


class TrainLoader:
    """Shuffled batches of similar durations, of one epoch at a time.

    Several processes divide the batches of an epoch among them; every update takes the same number from each, for
    which the largest batches are split until the last update has enough. The batches of an update have similar sizes,
    so that no process waits long for the others.
    The batches of an epoch follow from the seed and the epoch's number alone, whatever was drawn before:

        loader.set_epoch(3)
        for batch in loader: ...            # len(loader) batches
        state = loader.state_dict()         # after any batch
        other_loader.load_state_dict(state) # its next iteration goes on with the batch that follows
    """

    def __init__(
        self, cuts: StoredCuts, dataset: CutDataset, *, seed: int, part: Part = WHOLE, accumulate_batches: int = 1
    ) -> None:
        """Plan the first epoch.

        Args:
          cuts: the training split.
          dataset: loads them.
          seed: of the shuffling and of SpecAugment.
          part: what this process gets of every update.
          accumulate_batches: batches of each process in an update.
        """
        self.cuts = cuts
        self.dataset = dataset
        self.part = part
        self.batches_per_update = part.num_processes * accumulate_batches
        self.seed = seed
        self.epoch = 1
        self.num_taken = 0
        self._batches = self._draw()

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch."""
        self.epoch, self.num_taken = epoch, 0
        self._batches = self._draw()

    def __len__(self) -> int:
        """This process's batches in the whole epoch; it can differ a little from epoch to epoch."""
        return len(self._batches) // self.part.num_processes

    def __iter__(self) -> Iterator[AsrBatch]:
        """The batches that are left of the epoch; none after its end, until `set_epoch`."""
        own = self._batches[self.part.rank :: self.part.num_processes]
        planned = (PlannedBatch(self._cuts_of(batch), batch.seed) for batch in own[self.num_taken :])
        for batch in load_batches(planned, self.dataset):
            self.num_taken += 1
            yield batch

    def state_dict(self) -> dict[str, int | str]:
        """The position after the last batch that was given out."""
        return {"epoch": self.epoch, "num_taken": self.num_taken, "fingerprint": self._fingerprint()}

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Go to the position of another loader of the same cuts.

        Raises:
          ValueError: the epoch would have other batches.
        """
        self.set_epoch(int(state["epoch"]))
        require(
            state["fingerprint"] == self._fingerprint(),
            f"epoch {self.epoch} has other batches than when the checkpoint was written: "
            "resume with its data, number of processes, --seed, --max-duration and --num-buckets",
        )
        self.num_taken = int(state["num_taken"])

    def _cuts_of(self, batch: TrainingBatch) -> CutSet:
        return CutSet.from_cuts(self.cuts[index] for index in batch.indexes.tolist())

    def _fingerprint(self) -> str:
        """A digest of which cuts are in which batch of this epoch, and how they are masked."""
        digest = hashlib.sha256(f"{self.cuts.digest} {self.part.num_processes}".encode())
        for batch in self._batches:
            digest.update(f"{batch.seed} {batch.indexes.tolist()}".encode())
        return digest.hexdigest()

    def _draw(self) -> list[TrainingBatch]:
        """The epoch's batches, planned whole: their number is known, and to resume is to begin further on."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        config = self.dataset.config
        planned = plan_batches(
            self.cuts.durations,
            max_duration=config.max_duration,
            num_buckets=min(config.num_buckets, len(self.cuts)),
            generator=generator,
        )
        batches = _split(
            [TrainingBatch(indexes, _random_seed(generator)) for indexes in planned], self.batches_per_update, generator
        )
        return batches if self.batches_per_update == 1 else self._alike(batches, generator)

    def _alike(self, batches: list[TrainingBatch], generator: torch.Generator) -> list[TrainingBatch]:
        """The batches, those of equal size next to each other in updates, which come in random order."""
        by_size = sorted(batches, key=lambda batch: _padded_duration(self.cuts.durations[batch.indexes]))
        size = self.batches_per_update
        order = torch.randperm(len(batches) // size, generator=generator).tolist()
        return [batch for update in order for batch in by_size[update * size : (update + 1) * size]]


class EvalLoader:
    """A split without SpecAugment, longest cuts first, the same at each iteration."""

    def __init__(self, cuts: CutSet, dataset: CutDataset, *, part: Part = WHOLE) -> None:
        """Plan the batches.

        Args:
          cuts: the split.
          dataset: loads them.
          part: which batches this loader gives; a small split may have fewer batches than parts.
        """
        self.dataset = dataset
        sampler = SimpleCutSampler(
            cuts.sort_by_duration(ascending=False),
            max_duration=dataset.config.max_duration,
            shuffle=False,
            rank=0,
            world_size=1,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The first cut drawn")  # a cut above max_duration is a batch by itself
            batches = [PlannedBatch(batch, None) for batch in sampler]
        self._batches = batches[part.rank :: part.num_processes]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[AsrBatch]:
        return iter(load_batches(self._batches, self.dataset))


def load_batches(batches: Iterable[PlannedBatch], dataset: CutDataset) -> DataLoader:
    """The batches in order, read ahead by the config's workers; torch's global random state stays as it is.

    On Linux workers are forked, as Python itself did before 3.14: they begin at once and copy nothing.
    """
    num_workers = dataset.config.num_workers
    return DataLoader(
        dataset,
        sampler=batches,
        batch_size=None,
        num_workers=num_workers,
        generator=torch.Generator(),
        worker_init_fn=functools.partial(_begin_worker, os.getpid()),
        multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None,
    )


def _begin_worker(parent: int, worker: int) -> None:
    """Have a worker end with its parent or when that tells it to, and not before.

    Queues' systems and `timeout` send SIGTERM to all processes, of which the parent may be in the middle of a step: its
    workers leave it to the parent. Of a parent that was killed while the worker began, torch would not tell it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_told, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _split(batches: list[TrainingBatch], divisor: int, generator: torch.Generator) -> list[TrainingBatch]:
    """The batches, the largest ones halved until their number can be divided; none if there are too few cuts."""
    batches = list(batches)
    while len(batches) % divisor:
        largest = max(range(len(batches)), key=lambda i: len(batches[i].indexes))
        indexes, seed = batches[largest]
        if len(indexes) == 1:
            return []
        half = len(indexes) // 2
        batches[largest] = TrainingBatch(indexes[half:], seed)
        batches.append(TrainingBatch(indexes[:half], _random_seed(generator)))
    return batches


def _padded_duration(durations: np.ndarray) -> tuple[float, float]:
    """Seconds of a batch, padding included, and of its longest cut."""
    longest = float(durations.max())
    return longest * len(durations), longest


def _random_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (1,), generator=generator))
