"""Lhotse Shar: shards of cuts and of their audio or features, read from beginning to end and written in pieces."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import urlopen

from lhotse.cut import Cut, MixedCut
from lhotse.lazy import LazyManifestIterator, count_newlines_fast
from lhotse.shar import LazySharIterator, SharWriter
from lhotse.utils import fastcopy

from shared_moe_conformer.atomic import is_full, named, sync
from shared_moe_conformer.config import require
from shared_moe_conformer.text import counted, first_line

ATTEMPTS, PAUSE = 4, 1.0
"""Times that URLs and commands are tried, and seconds of the first pause between; each next pause is twice as long."""
STALL = 60.0
"""Seconds without a byte after which a web server is given up."""
Files = Mapping[str, str]
"""The file of each field of a shard."""
CUTS = "cuts"
READ_FIELDS = ("features", "recording")
"""Fields that training can read; the first that a folder has is read, and no other."""


class Unreadable:
    """Shards and cuts that could not be read, in a line each."""

    def __init__(self, limit: int = 0) -> None:
        self._limit = limit  # of lines that wait to be taken
        self._lines: list[str] = []

    def note(self, error: ValueError) -> None:
        """Go on without what the error names, or raise it; one that waits already counts once."""
        line = str(error)
        if line in self._lines:
            return
        if len(self._lines) >= self._limit:
            raise error
        self._lines.append(line)

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
    """Name of the source, for messages."""
    files: Mapping[str, Sequence[str]]
    """For each field the files of all shards, in the same order: `cuts`, and one of READ_FIELDS."""
    index: int = 0
    count: int = 1
    """The part: every `count`-th shard of a pass, from `index` on; of fewer shards every `count`-th cut."""
    seed: int | None = None
    """Seed of the order of the shards; None: as they are."""
    num_passes: int = 0
    """Passes begun."""
    unreadable: Unreadable = field(default_factory=Unreadable)
    """Shards that passes leave out."""
    weight: float | None = None
    """None where `train_cuts` names none."""

    def part(self, index: int, count: int, *, seed: int | None = None) -> Shards:
        """One of `count` parts; those with the same seed have each cut once a pass."""
        return replace(self, index=index, count=count, seed=seed)

    def __iter__(self) -> Iterator[Cut]:
        order = list(range(len(self)))
        if self.seed is not None:
            random.Random(self.seed + self.num_passes).shuffle(order)
        self.num_passes += 1
        if len(self) < self.count:
            return itertools.islice(self._read(order), self.index, None, self.count)
        return self._read(order[self.index :: self.count])

    def _read(self, shards: Iterable[int]) -> Iterator[Cut]:
        for shard in shards:
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


def _retried(names: Files, read: Callable[[Files, Files], Iterator[Cut]]) -> Iterator[Cut]:
    """The cuts that `read` finds in files, which are fetched again if URLs or commands break off or stall."""
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
                raise ValueError(f"{error} (after {counted(count, 'cut')})") from error
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
    """A shard's cuts with their audio or features in memory; `ValueError`: files are missing or damaged."""
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


def without_others(cut: Cut, fields: Iterable[str]) -> Cut:
    """The cut, itself changed, without features or recording that its shard does not hold."""
    for name in {*READ_FIELDS} - {*fields}:
        if getattr(cut, name, None) is not None:
            setattr(cut, name, None)
    return cut


def write_shard(cuts: Sequence[Cut], directory: Path, number: int, fields: Mapping[str, str]) -> bool:
    """Write one shard, whole or not at all, and read it again; return False if it was there already.

    Args:
      cuts: their audio or features can be read.
      directory: the folder of all shards.
      number: of this shard, from 0.
      fields: formats by field, as Lhotse's `to_shar` has them.

    Raises:
      ValueError: a cut that cannot be read, named, or a shard of this number that holds other cuts or is damaged.
    """
    ids = [cut.id for cut in cuts]
    if _is_written(ids, directory, number, fields):
        return False
    suffix = f".{number:06d}"
    temporary = directory / suffix
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with (
            named(directory / f"{CUTS}{suffix}.jsonl.gz"),
            SharWriter(temporary, fields, shard_size=None, shard_suffix=suffix, warn_unused_fields=False) as writer,
        ):
            for cut in cuts:
                _write_cut(writer, cut, fields)
        written = sorted(temporary.iterdir(), key=lambda path: path.name.startswith(f"{CUTS}."))
        for path in written:  # the cuts come last: a shard without them is not there
            sync(path)
            os.replace(path, directory / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _is_written(ids, directory, number, fields)


def _write_cut(writer: SharWriter, cut: Cut, fields: Mapping[str, str]) -> None:
    missing = [f for f in fields if not (cut.has_recording if f == "recording" else cut.has_features)]
    require(not missing, f"cut {cut.id} has no {' and no '.join(missing)} to write")
    try:
        whole = cut.to_mono() if isinstance(cut, MixedCut) else cut
        writer.write(without_others(fastcopy(whole), fields))
    except Exception as error:  # audio backends and storages have their own
        if is_full(error):
            raise
        raise ValueError(f"cut {cut.id} cannot be written: {first_line(error)}") from error


def _is_written(ids: Sequence[str], directory: Path, number: int, fields: Mapping[str, str]) -> bool:
    """Whether a shard of this number is there; it is read whole, and refused if it is another."""
    files = {field: str(directory / f"{field}.{number:06d}.tar") for field in fields}
    files[CUTS] = str(directory / f"{CUTS}.{number:06d}.jsonl.gz")
    if not Path(files[CUTS]).is_file():
        return False
    are_there = all(Path(path).is_file() for path in files.values())
    same = are_there and [cut.id for cut in _cuts_of_shard(files, files)] == list(ids)
    require(same, f"{files[CUTS]} is of other cuts or fields: remove it, or give another --output-dir")
    return True
