"""Training cuts drawn from several sources, and what their manifests say before a training begins."""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset.sampling.base import TimeConstraint
from lhotse.dataset.sampling.dynamic_bucketing import estimate_duration_buckets

from shared_moe_conformer.config import require
from shared_moe_conformer.data.checks import Problem, refuse_many
from shared_moe_conformer.data.cut_sources import Source, UtteranceCheck, utterances
from shared_moe_conformer.data.shar import Shards
from shared_moe_conformer.data.stored_cuts import StoredCuts

SAMPLE = 1000
"""Cuts of each source that are looked at before a training without end begins."""
CUTS_FOR_BUCKETS = 10_000
"""Cuts whose durations tell where a bucket ends (Lhotse's number)."""


class _Length(NamedTuple):
    """As much of a cut as Lhotse's buckets are made of."""

    duration: float


@dataclass
class Survey:
    """What was found in the manifests of the sources."""

    durations: list[array[float]]
    """Seconds of each usable utterance that was looked at, for each source."""
    left_out: list[Problem]
    content_digest: str
    """Of the usable utterances' ids, times and texts."""

    def __len__(self) -> int:
        return sum(map(len, self.durations))

    @property
    def seconds(self) -> float:
        """Of all utterances."""
        return float(sum(map(sum, self.durations)))

    def duration_bins(self, num_buckets: int) -> list[float]:
        """The durations at which all buckets but the first begin; one that no cut has where there is one bucket."""
        num_buckets = min(num_buckets, len(self._lengths))
        return estimate_duration_buckets(self._lengths, num_buckets) if num_buckets > 1 else [math.inf]  # type: ignore[arg-type]

    def num_batches(self, num_buckets: int, max_duration: float, *, num_parts: int) -> int:
        """About as many batches as the utterances make, drawn as Lhotse's `DynamicBucketingSampler` draws them.

        In each part the last batch of each bucket is not full.
        """
        bins = self.duration_bins(num_buckets)
        buckets: dict[int, TimeConstraint] = {}
        count = 0
        for length in self._lengths:
            bucket = buckets.setdefault(bisect.bisect(bins, length.duration), TimeConstraint(max_duration))
            bucket.add(length)  # type: ignore[arg-type]
            if bucket.close_to_exceeding():
                bucket.reset()
                count += 1
        scale = self.seconds / sum(length.duration for length in self._lengths)
        return max(1, round(scale * count + num_parts * len(buckets) / 2))

    @property
    def _lengths(self) -> list[_Length]:
        """The first durations of each source."""
        share = CUTS_FOR_BUCKETS // len(self.durations)
        return [_Length(duration) for part in self.durations for duration in part[:share]]


def survey(sources: Sequence[Source], check: UtteranceCheck, *, limit: int | None) -> Survey:
    """Look at the manifests of all utterances, or of the first `limit` of each source.

    Raises:
      ValueError: a source without usable cuts, or of which more than a tenth are not usable, some named.
    """
    result, content = Survey([], [], ""), hashlib.sha256()
    for source in sources:
        durations, problems = array("d"), list[Problem]()
        for cut in itertools.islice(utterances(source.cuts.manifests()), limit):
            if found := check(cut):
                problems += found
                continue
            durations.append(cut.duration)
            what = (cut.id, getattr(cut, "start", 0), cut.duration, cut.supervisions[0].text)
            content.update(repr(what).encode())
        refuse_many(problems, len(durations), source.name)
        require(len(durations) > 0, f"no cuts in {source.name}")
        result.durations.append(durations)
        result.left_out += problems
    result.content_digest = content.hexdigest()
    return result


@dataclass
class Usable:
    """The utterances of a source that have no problem, as often as they are asked for."""

    cuts: Iterable[Cut]
    check: UtteranceCheck

    def __iter__(self) -> Iterator[Cut]:
        return (cut for cut in utterances(self.cuts) if not self.check(cut))


@dataclass
class Mixture:
    """Utterances that are drawn at random from one source or another."""

    sources: Sequence[Source]
    weights: Sequence[float]
    """The share of draws from each source while none is at its end."""
    check: UtteranceCheck
    """Tells which utterances are usable."""
    endless: bool
    """Whether each source begins again at its end."""

    def part(self, index: int, count: int, *, seed: int) -> CutSet:
        """The utterances of one of `count` parts, which have shards of Shar and lines of manifests of their own.

        Args:
          index: of the part.
          count: of parts.
          seed: of the draws, and of the order of shards.
        """
        cut_sets = []
        for source in self.sources:
            cuts = source.cuts.part(index, count)
            if isinstance(cuts, Shards):
                cuts.seed = seed
            cut_set = CutSet(Usable(cuts, self.check))  # type: ignore[arg-type]
            cut_sets.append(cut_set.repeat(preserve_id=True) if self.endless else cut_set)
        return cut_sets[0] if len(cut_sets) == 1 else CutSet.mux(*cut_sets, weights=list(self.weights), seed=seed)

    def first_cuts(self) -> list[Cut]:
        """The first usable utterance of each source, with what is in memory of it."""
        return [next(iter(Usable(source.cuts, self.check))) for source in self.sources]

    @functools.cached_property
    def sample(self) -> StoredCuts:
        """Some utterances, stored with what is in memory of them; the largest batches and babble are made of these."""
        return StoredCuts(itertools.islice(self.part(0, 1, seed=0), SAMPLE))

    def __len__(self) -> int:
        """Utterances of the sample."""
        return len(self.sample)

    def __getitem__(self, index: int) -> Cut:
        return self.sample[index]
