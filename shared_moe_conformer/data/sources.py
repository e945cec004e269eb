"""Sources of training cuts, manifests and Shar: what is in them, and what is wrong with it."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import math
import random
import re
import shutil
import tempfile
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import urlopen

from lhotse.cut import Cut
from lhotse.dataset.sampling.base import TimeConstraint
from lhotse.dataset.sampling.dynamic_bucketing import estimate_duration_buckets
from lhotse.lazy import LazyManifestIterator, count_newlines_fast
from lhotse.shar import LazySharIterator

from shared_moe_conformer.config import require
from shared_moe_conformer.data.checks import Problem, UtteranceCheck, refuse_many
from shared_moe_conformer.data.manifests import CUTS, READ_FIELDS, iterate_cut_file, without_others
from shared_moe_conformer.text import counted, first_line

ATTEMPTS, PAUSE = 4, 1.0
"""Times that URLs and commands are tried, and seconds of the first pause between; each next pause is twice as long."""
STALL = 60.0
"""Seconds without a byte after which a web server is given up."""
CUTS_FOR_BUCKETS = 10_000
"""Cuts whose durations tell where a bucket ends (Lhotse's number)."""


class Unreadable:
    """Shards and cuts that could not be read, in a line each."""

    def __init__(self, *, allowed: bool) -> None:
        """Args: `allowed`: whether one goes on without them."""
        self._allowed = allowed
        self._lines: list[str] = []

    def note(self, error: ValueError) -> None:
        """Go on without what the error names, or raise it."""
        if not self._allowed:
            raise error
        self._lines.append(str(error))

    def take(self) -> list[str]:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return lines


@dataclass
class Shards:
    """The cuts of shards; each pass over them has another order of shards.

    Lhotse's reader ends a shard silently where its files end too early; here that is an error.
    """

    name: str
    """Of the source, for messages."""
    files: Mapping[str, Sequence[str]]
    """For each field the files of all shards, in the same order: `cuts`, and one of READ_FIELDS."""
    seed: int | None = None
    """Of the order of the shards; None: as they are."""
    num_passes: int = 0
    """Passes begun."""
    unreadable: Unreadable = field(default_factory=lambda: Unreadable(allowed=False))
    """What passes go on without."""

    def part(self, index: int, count: int) -> Shards:
        """Every `count`-th shard, from `index` on."""
        return replace(self, files={name: paths[index::count] for name, paths in self.files.items()})

    def __iter__(self) -> Iterator[Cut]:
        order = list(range(len(self)))
        if self.seed is not None:
            random.Random(self.seed + self.num_passes).shuffle(order)
        self.num_passes += 1
        for shard in order:
            try:
                yield from _retried({name: paths[shard] for name, paths in self.files.items()}, _cuts_of_shard)
            except ValueError as error:
                self.unreadable.note(error)

    def __len__(self) -> int:
        """Shards."""
        return len(self.files[CUTS])

    def manifests(self) -> Iterator[Cut]:
        """The cuts without their audio or features."""
        for path in self.files[CUTS]:
            for cut in _retried({CUTS: path}, _cuts_of_manifest):
                yield without_others(cut, self.files)


def find_shards(folder: Path) -> Shards:
    """The shards in a folder that `write_shard` or Lhotse's `to_shar` has written.

    Raises:
      ValueError: no shards, or not the same number of files of each field.
    """
    names = (CUTS, *READ_FIELDS)
    files = {name: sorted(map(str, folder.glob(f"{name}.*"))) for name in names}
    return _of_files(str(folder), {name: paths for name, paths in files.items() if paths})


def numbered_shards(folder: Path, numbers: Iterable[int], fields: Iterable[str]) -> Shards:
    """The shards of these numbers, with all these fields, as `write_shard` has written them."""
    numbers = list(numbers)
    files = {field: [str(folder / f"{field}.{number:06d}.tar") for number in numbers] for field in fields}
    return Shards(str(folder), {CUTS: [str(folder / f"{CUTS}.{n:06d}.jsonl.gz") for n in numbers], **files})


def listed_shards(path: Path) -> Shards:
    """The shards that a JSON file lists: `{"cuts": [..], "recording": [..]}`, each a path, a URL or `pipe:command`.

    Raises:
      ValueError: something else is in the file.
    """
    try:
        files = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    are_lists = isinstance(files, dict) and all(
        isinstance(paths, list) and all(isinstance(p, str) for p in paths) for paths in files.values()
    )
    require(are_lists, f'{path} does not list shards: write {{"{CUTS}": [..], "recording": [..]}}')
    unknown = sorted(set(files) - {CUTS, *READ_FIELDS})
    require(not unknown, f"{path} lists {', '.join(unknown)}: training reads {CUTS} and {' or '.join(READ_FIELDS)}")
    return _of_files(str(path), files)


def _of_files(name: str, files: Mapping[str, Sequence[str]]) -> Shards:
    require(bool(files.get(CUTS)), f"{name} has no {CUTS}.000000.jsonl.gz: it is not a folder of Shar")
    counts = {field: len(paths) for field, paths in files.items()}
    told = ", ".join(f"{count} of {field}" for field, count in counts.items())
    require(len(set(counts.values())) == 1, f"{name} has not as many files of each field: {told}: write it again")
    read = next((field for field in READ_FIELDS if field in files), "")
    require(read != "", f"{name} has neither {' nor '.join(f'{field}.000000.tar' for field in READ_FIELDS)}")
    return Shards(name, {field: files[field] for field in (CUTS, read)})


Files = Mapping[str, str]
"""The file of each field of a shard."""


def _retried(names: Files, read: Callable[[Files, Files], Iterator[Cut]]) -> Iterator[Cut]:
    """The cuts that `read` finds in files, which are fetched again if URLs or commands break off or stall.

    Raises:
      ValueError: what is wrong with a file, as `read` says it, or that it could not be fetched.
    """
    are_remote = any("://" in name or name.startswith("pipe:") for name in names.values())
    count = 0
    for attempt in range(ATTEMPTS if are_remote else 1):
        try:
            with _fetched(names) as files:
                for cut in itertools.islice(read(files, names), count, None):
                    yield cut
                    count += 1
            return
        except ValueError as error:
            if attempt + 1 == ATTEMPTS or not are_remote:
                raise ValueError(f"{error} ({counted(count, 'cut')} of it were read)") from error
            time.sleep(PAUSE * 2**attempt)


@contextmanager
def _fetched(names: Files) -> Iterator[Files]:
    """The files, of which those on web servers are copied into a temporary folder; Lhotse opens any others."""
    if not any(name.startswith(("http://", "https://")) for name in names.values()):
        yield names
        return
    with tempfile.TemporaryDirectory(prefix="shard-") as folder:
        yield {field: _copied(name, Path(folder)) if name.startswith("http") else name for field, name in names.items()}


def _copied(url: str, folder: Path) -> str:
    target = folder / PurePosixPath(urlsplit(url).path).name
    try:
        with urlopen(url, timeout=STALL) as response, target.open("wb") as file:
            shutil.copyfileobj(response, file)
            announced = int(response.headers.get("Content-Length", file.tell()))
            require(file.tell() == announced, f"it broke off, {file.tell()} of {announced} bytes")
    except (OSError, HTTPException, ValueError) as error:
        raise ValueError(f"{url} cannot be fetched: {first_line(error)}") from error
    return str(target)


def _cuts_of_manifest(files: Files, names: Files) -> Iterator[Cut]:
    try:
        yield from LazyManifestIterator(files[CUTS])
    except Exception as error:  # backends of files have their own
        raise ValueError(f"{names[CUTS]} is not a readable manifest of cuts: {first_line(error)}") from error


def _cuts_of_shard(files: Files, names: Files) -> Iterator[Cut]:
    """A shard's cuts with their audio or features in memory.

    Raises:
      ValueError: a file that is missing, damaged or cut off, or is another shard's.
    """
    others = ", ".join(name for field, name in names.items() if field != CUTS)
    count = 0
    try:
        for cut in LazySharIterator(fields={field: [path] for field, path in files.items()}):
            yield without_others(cut, files)
            count += 1
        announced = count_newlines_fast(files[CUTS])
    except Exception as error:  # tar files and compression have their own
        raise ValueError(f"{names[CUTS]} and {others} cannot be read: {first_line(error)}: write them again") from error
    require(count == announced, f"{others} is cut off, {count} of the {announced} in {names[CUTS]}: write it again")


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
    """Of where in a file that is not compressed one begins; None: at its beginning."""

    def part(self, index: int, count: int) -> Manifest:
        """Every `count`-th cut, from `index` on."""
        return Manifest(self.name, self.path, self.recipe_dir, index, count)

    def __iter__(self) -> Iterator[Cut]:
        begin = 0.0 if self.seed is None else random.Random(self.seed).random()
        return iterate_cut_file(self.path, recipe_dir=self.recipe_dir, index=self.index, count=self.count, begin=begin)

    def manifests(self) -> Iterator[Cut]:
        """All cuts; they hold no audio and no features anyway."""
        return iterate_cut_file(self.path, recipe_dir=self.recipe_dir)


class Source(NamedTuple):
    """One of the `train_cuts`."""

    cuts: Manifest | Shards
    weight: float | None
    """None where the option names none."""

    @property
    def name(self) -> str:
        """As messages have it."""
        return self.cuts.name


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
    if path.is_dir():
        return Source(find_shards(path), weight)
    if not path.is_file():
        raise FileNotFoundError(
            f"train_cuts {name}: no file or folder {path}: give manifests of cuts, folders of Shar, or JSON files that "
            "list the shards' URLs"
        )
    if path.suffix == ".json":
        return Source(listed_shards(path), weight)
    require(
        path.name.endswith((".jsonl", ".jsonl.gz")),
        f"train_cuts {name} is no manifest of cuts (.jsonl or .jsonl.gz), no folder of Shar and no JSON list of shards",
    )
    return Source(Manifest(location, path, recipe_dir), weight)


def utterances(cuts: Iterable[Cut]) -> Iterator[Cut]:
    """The cuts; one with several supervisions becomes a cut for each, without what overlaps."""
    for cut in cuts:
        if len(cut.supervisions) > 1:
            yield from cut.trim_to_supervisions(keep_overlapping=False)
        else:
            yield cut


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
