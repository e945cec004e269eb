"""Sources of training cuts, manifests and Shar, and what is in them."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
import random
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from lhotse.cut import Cut
from lhotse.dataset.sampling.base import TimeConstraint
from lhotse.dataset.sampling.dynamic_bucketing import estimate_duration_buckets
from lhotse.lazy import LazyFlattener, LazyMapper

from shared_moe_conformer.config import require
from shared_moe_conformer.data.checks import Problem, refuse_many
from shared_moe_conformer.data.manifests import iterate_cut_file
from shared_moe_conformer.data.shar import Shards, find_shards, listed_shards

CUTS_FOR_BUCKETS = 10_000
"""Cuts whose durations tell where a bucket ends (Lhotse's number)."""
SAMPLE = 1000
"""Cuts of each source that are looked at before a training without end begins."""


@dataclass
class Manifest:
    """The cuts of a Lhotse manifest, read lazily where its format allows that; relative paths begin at the recipe."""

    name: str
    path: Path
    recipe_dir: Path
    index: int = 0
    count: int = 1
    """The part: every `count`-th cut, from `index` on."""
    seed: int | None = None
    """Seed of the place at which to begin in an uncompressed file; None: its beginning."""
    weight: float | None = None
    """None where the option names none."""

    def part(self, index: int, count: int, *, seed: int | None = None) -> Manifest:
        """Every `count`-th cut, from `index` on."""
        return replace(self, index=index, count=count, seed=seed)

    def __iter__(self) -> Iterator[Cut]:
        begin = 0.0 if self.seed is None else random.Random(self.seed).random()
        return iterate_cut_file(self.path, recipe_dir=self.recipe_dir, index=self.index, count=self.count, begin=begin)

    manifests = __iter__  # they hold no audio and no features anyway


Check = Callable[[Cut], list[Problem]]
"""Finds what is wrong with an utterance."""


Source = Manifest | Shards
"""One of the `train_cuts`."""


def open_sources(names: Sequence[str], recipe_dir: Path) -> list[Source]:
    """The sources that `train_cuts` names; of manifests and shards nothing is read yet.

    Raises:
      FileNotFoundError: no such file or folder.
      ValueError: neither a manifest nor Shar, or a weight that is not positive.
    """
    return [_open(name, recipe_dir) for name in names]


def _open(name: str, recipe_dir: Path) -> Source:
    weighted = re.fullmatch(r"(.+)@(\d+\.?\d*)", name)
    location, weight = (weighted[1], float(weighted[2])) if weighted else (name, None)
    require(weight is None or weight > 0, f"train_cuts {name}: give a weight above 0")
    path = recipe_dir / location
    if not path.exists():
        raise FileNotFoundError(
            f"train_cuts {name}: no file or folder {path}: give manifests of cuts, folders of Shar, or JSON files that "
            "list the shards' URLs"
        )
    source: Source
    if path.is_dir():
        source = find_shards(path)
    elif path.suffix == ".json":
        source = listed_shards(path)
    else:
        require(
            path.name.endswith((".jsonl", ".jsonl.gz")),
            f"train_cuts {name} is no manifest of cuts (.jsonl or .jsonl.gz), no folder of Shar and no JSON list of "
            "shards",
        )
        source = Manifest(location, path, recipe_dir)
    source.weight = weight
    return source


def utterances(cuts: Iterable[Cut]) -> Iterable[Cut]:
    """The cuts, as often as they are asked for; each of several supervisions becomes a cut, without overlaps."""
    return LazyFlattener(LazyMapper(cuts, _utterances))


def _utterances(cut: Cut) -> Iterable[Cut]:
    return cut.trim_to_supervisions(keep_overlapping=False) if len(cut.supervisions) > 1 else [cut]


class _Length(NamedTuple):
    """The duration of a cut, which is all that Lhotse needs for its buckets."""

    duration: float


@dataclass
class Survey:
    """The utterances that were found in the manifests of the sources."""

    durations: list[array[float]]
    """Seconds of each usable utterance that was looked at, for each source."""
    left_out: list[Problem]
    content_digest: str
    """Digest of the usable utterances' ids, times and texts."""

    def __len__(self) -> int:
        return sum(map(len, self.durations))

    @property
    def seconds(self) -> float:
        """Audio of all utterances, in seconds."""
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


def survey(sources: Sequence[Source], check: Check, *, limit: int | None) -> Survey:
    """Look at the manifests of all utterances, or of the first `limit` of each source.

    Raises:
      ValueError: a source without usable cuts, or of which more than a tenth are not usable, some named.
    """
    result, content = Survey([], [], ""), hashlib.sha256()
    for source in sources:
        durations, problems = array("d"), list[Problem]()
        for cut in itertools.islice(utterances(source.manifests()), limit):
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
