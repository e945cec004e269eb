"""Training batches of cuts that Lhotse streams: any manifests and Shar, for epochs or without end."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset import DynamicBucketingSampler
from torch.utils.data import IterableDataset, get_worker_info

from shared_moe_conformer.config import require
from shared_moe_conformer.data.batch import AsrBatch, CutDataset, NothingReadable, PlannedBatch
from shared_moe_conformer.data.loaders import WHOLE, Part, ResumableLoader, TrainLoader
from shared_moe_conformer.data.manifests import StoredCuts
from shared_moe_conformer.data.shar import Shards, Unreadable
from shared_moe_conformer.data.sources import SAMPLE, Check, Source, Survey, utterances
from shared_moe_conformer.data.workers import read_ahead

logger = logging.getLogger("shared_moe_conformer")


@dataclass
class Mixture:
    """Utterances that are drawn at random from one source or another."""

    sources: Sequence[Source]
    weights: Sequence[float]
    """The share of draws from each source while none is at its end."""
    check: Check
    """Utterances in which it finds nothing are usable."""
    endless: bool
    """Whether each source begins again at its end."""
    unreadable: Unreadable = field(default_factory=Unreadable)
    """Shards that are left out."""

    def __post_init__(self) -> None:
        for source in self.sources:
            if isinstance(source, Shards):
                source.unreadable = self.unreadable

    def part(self, index: int, count: int, *, seed: int) -> CutSet:
        """The utterances of one of `count` parts, which have shards of Shar and lines of manifests of their own.

        The draws, the order of the shards and where a manifest begins follow from the seed.
        """
        cut_sets = []
        for source in self.sources:
            cut_set = self._usable(source.part(index, count, seed=seed))
            cut_sets.append(cut_set.repeat(preserve_id=True) if self.endless else cut_set)
        return cut_sets[0] if len(cut_sets) == 1 else CutSet.mux(*cut_sets, weights=list(self.weights), seed=seed)

    def first_cuts(self) -> list[Cut]:
        """The first usable utterance of each source, with what is in memory of it.

        Raises:
          ValueError: a source of which nothing can be read.
        """
        return [self._first_cut(source) for source in self.sources]

    def _first_cut(self, source: Source) -> Cut:
        for cut in self._usable(source):
            return cut
        raise ValueError(f"nothing of {source.name} can be read: {'; '.join(self.unreadable.take()[:1])}")

    def _usable(self, cuts: Iterable[Cut]) -> CutSet:
        return CutSet(utterances(cuts)).filter(self._is_usable)

    def _is_usable(self, cut: Cut) -> bool:
        return not self.check(cut)

    @functools.cached_property
    def sample(self) -> StoredCuts:
        """Some utterances, stored with what is in memory of them; the largest batches and babble are made of these."""
        return StoredCuts(itertools.islice(self.part(0, 1, seed=0), SAMPLE))

    def __getstate__(self) -> dict[str, object]:
        """All but the sample, whose file stays in this process where workers are not forked (macOS)."""
        return {name: value for name, value in vars(self).items() if name != "sample"}


class _Item(NamedTuple):
    """An item from a worker."""

    batch: AsrBatch | None
    """None: it is skipped, or none of its cuts can be read."""
    unreadable: list[str]
    """Shards and cuts that could not be read since the last item."""
    is_batch: bool = True


@dataclass
class _Batches(IterableDataset):
    """One pass over the mixture, or no end of them: batches of this process, divided among its workers.

    Batches come from Lhotse's `DynamicBucketingSampler`, which each worker has to itself.
    """

    mixture: Mixture
    dataset: CutDataset
    duration_bins: list[float]
    part: Part
    seed: int
    """Seed of the order of cuts and of all that happens to them."""
    num_to_skip: int = 0
    """Batches of this process that come as None: a resumed training has had them. Each worker may load one of them."""

    def __iter__(self) -> Iterator[_Item]:
        self.mixture.unreadable.take()  # what was met before, as in the largest batches, is met again and counted now
        worker = get_worker_info()
        index, count = (worker.id, worker.num_workers) if worker else (0, 1)
        sampler = self._sampler(self.part.rank * count + index, self.part.num_processes * count)
        # a cut longer than a batch is a batch by itself, and a small corpus fills no bucket
        for known in ("The first cut drawn", "We have exceeded the max_duration", "Your 'buffer_size' setting"):
            warnings.filterwarnings("ignore", f"(?s).*{known}")
        for number, cuts in enumerate(sampler):
            batch = None if number < self.num_to_skip // count else self._load(cuts)
            yield _Item(batch, self.mixture.unreadable.take())
        if rest := self.mixture.unreadable.take():
            yield _Item(None, rest, is_batch=False)

    def _load(self, cuts: CutSet) -> AsrBatch | None:
        try:
            return self.dataset[PlannedBatch(cuts, self._seed_of(cuts))]
        except NothingReadable:
            return None

    def _sampler(self, index: int, count: int) -> DynamicBucketingSampler:
        return DynamicBucketingSampler(
            self.mixture.part(index, count, seed=self.seed),
            max_duration=self.dataset.config.max_duration,
            duration_bins=self.duration_bins,
            buffer_size=self.dataset.config.buffer_cuts,
            shuffle=True,
            seed=self.seed,
            rank=0,
            world_size=1,
        )

    def _seed_of(self, cuts: Iterable[Cut]) -> int:
        ids = " ".join(cut.id for cut in cuts)
        return int.from_bytes(hashlib.sha256(f"{self.seed} {ids}".encode()).digest()[:7], "big")


class _StreamLoader(ResumableLoader):
    """The common part of the loaders of streamed batches."""

    def __init__(
        self, mixture: Mixture, dataset: CutDataset, survey: Survey, *, seed: int, part: Part = WHOLE, length: int
    ) -> None:
        """Begin nothing yet; `length`: batches of each process in an epoch."""
        self.mixture, self.dataset, self.part, self.seed = mixture, dataset, part, seed
        self._survey, self._length = survey, length
        self._bins = survey.duration_bins(dataset.config.num_buckets)
        self.set_epoch(1)

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self._unreadable: set[str] = set()

    def __len__(self) -> int:
        return self._length

    @property
    def cuts(self) -> StoredCuts:
        """Some of the cuts, for `largest_batches`."""
        return self.mixture.sample

    def _read(self, seed: int, *, num_to_skip: int = 0) -> Iterator[AsrBatch | None]:
        """This process's batches, None for those that are skipped or hold nothing that can be read.

        Raises:
          ValueError: cuts or shards that cannot be read, named, and more of them than may be left out; or no cut.
        """
        whose = f"train_cuts has no cut for process {self.part.rank}"
        nothing = f"{whose} that can be read: make smaller shards, or see above what was left out"
        config, is_read, num_empty = self.dataset.config, num_to_skip > 0, 0
        batches = _Batches(self.mixture, self.dataset.of_epoch(self.epoch), self._bins, self.part, seed, num_to_skip)
        for item in read_ahead(batches, num_workers=config.num_workers):
            self._leave_out(item.unreadable)
            if item.is_batch:
                is_read, num_empty = is_read or item.batch is not None, num_empty + 1 if item.batch is None else 0
                # a pass has at most as many batches without a readable cut as cuts that it may leave out
                require(num_empty <= num_to_skip + 2 * config.max_unreadable, nothing)
                yield item.batch
        require(is_read, nothing)

    def _leave_out(self, lines: Sequence[str]) -> None:
        """Name what is left out; what several workers or passes meet counts once an epoch."""
        limit = self.dataset.config.max_unreadable
        for line in lines:
            if line in self._unreadable:
                continue
            self._unreadable.add(line)
            logger.warning("left out: %s", line)
            require(
                len(self._unreadable) <= limit,
                f"more than --max-unreadable {limit} shards and cuts cannot be read in epoch {self.epoch}: {line}",
            )

    def _tell_unreadable(self) -> None:
        """Say at the end of an epoch how much was left out of it."""
        if self._unreadable:
            message = "epoch %d: %d shards and cuts could not be read by process %d and were left out; see above"
            logger.warning(message, self.epoch, len(self._unreadable), self.part.rank)


class EpochStream(_StreamLoader):
    """Loads each cut once an epoch; `len` is an estimate.

    Several processes may have different numbers of batches. One that is at its end begins its part again, until
    `has_ended` is true in all. A training that is resumed reads, but does not load, what it had before, and goes on
    with the same bits.
    """

    needs = "its data, number of processes, --seed, --max-duration, --num-buckets, --buffer-cuts and --num-workers"

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.has_ended = None if self.part.num_processes == 1 else False

    def __iter__(self) -> Iterator[AsrBatch]:
        num_to_skip = self.num_taken
        for batch in itertools.islice(self._passes(num_to_skip), num_to_skip, None):
            self.num_taken += 1
            if batch is not None:
                yield batch

    def _passes(self, num_to_skip: int) -> Iterator[AsrBatch | None]:
        """The part's batches; of several processes' again and again."""
        seed = self.seed * 1_000_003 + self.epoch
        yield from self._read(seed, num_to_skip=num_to_skip)
        self._tell_unreadable()
        while self.part.num_processes > 1:
            self.has_ended = True
            yield from self._read(seed)

    def fingerprint(self) -> str:
        config = self.dataset.config
        options = (config.max_duration, config.num_buckets, config.buffer_cuts, max(config.num_workers, 1))
        return f"{self._survey.content_digest} {self.seed} {self.part.num_processes} {options}"


class EndlessStream(_StreamLoader):
    """Loads cuts without end; an epoch is a stretch of the stream, and the next epoch goes on where it ended.

    A training that is resumed begins at once, with another order of shards and cuts. So a cut may come again earlier
    than others, but nothing has to be read again to find the place.
    """

    _stream: Iterator[AsrBatch | None] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Go on to an epoch, or begin with it; conditions begin with a new stream."""
        if epoch not in {self.epoch + 1} - {self.dataset.config.conditions_after + 1}:
            self._stream = None
        super().set_epoch(epoch)

    def __iter__(self) -> Iterator[AsrBatch]:
        if self._stream is None:
            self._stream = self._read(self._seed_from_here())
        while self.num_taken < len(self):
            if (batch := next(self._stream)) is not None:
                self.num_taken += 1
                yield batch
        self._tell_unreadable()

    def _seed_from_here(self) -> int:
        """The seed of a stream that begins at this place of the training."""
        place = f"{self.seed} {self.epoch} {self.num_taken}"
        seed = zlib.crc32(place.encode())
        if (self.epoch, self.num_taken) != (1, 0) and self.part.rank == 0:
            logger.info("train_cuts: shards and cuts come in a new order from here on (seed %d)", seed)
        return seed

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        super().load_state_dict(state)
        self._stream = None

    def fingerprint(self) -> str:
        """Nothing: the place is one in the training, and not in the stream."""
        return ""


Loader = TrainLoader | EpochStream | EndlessStream
"""Whatever gives the batches of a training."""
