"""Lhotse Shar: shards of cuts and of their audio or features, read from beginning to end and written in pieces."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lhotse import CutSet
from lhotse.cut import Cut, MixedCut
from lhotse.lazy import LazyManifestIterator, count_newlines_fast
from lhotse.shar import LazySharIterator, SharWriter
from lhotse.utils import fastcopy

from shared_moe_conformer.config import require
from shared_moe_conformer.text import first_line

CUTS = "cuts"
READ_FIELDS = ("features", "recording")
"""Fields that training can read; the first that a folder has is read, and no other."""


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

    def part(self, index: int, count: int) -> Shards:
        """Every `count`-th shard, from `index` on."""
        return replace(self, files={field: paths[index::count] for field, paths in self.files.items()})

    def __iter__(self) -> Iterator[Cut]:
        order = list(range(len(self)))
        if self.seed is not None:
            random.Random(self.seed + self.num_passes).shuffle(order)
        self.num_passes += 1
        for shard in order:
            yield from _read_shard({field: paths[shard] for field, paths in self.files.items()})

    def __len__(self) -> int:
        """Shards."""
        return len(self.files[CUTS])

    def manifests(self) -> Iterator[Cut]:
        """The cuts without their audio or features."""
        for path in self.files[CUTS]:
            try:
                for cut in LazyManifestIterator(path):
                    yield _without_others(cut, self.files)
            except Exception as error:  # backends of files have their own
                raise ValueError(f"{path} is not a readable manifest of cuts: {first_line(error)}") from error


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
        files = json.loads(path.read_text())
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


def _read_shard(paths: Mapping[str, str]) -> Iterator[Cut]:
    """A shard's cuts with their audio or features in memory.

    Raises:
      ValueError: a file that is missing, damaged or cut off, or is another shard's.
    """
    others = ", ".join(path for field, path in paths.items() if field != CUTS)
    count = 0
    try:
        for cut in LazySharIterator(fields={field: [path] for field, path in paths.items()}):
            yield _without_others(cut, paths)
            count += 1
        announced = count_newlines_fast(paths[CUTS])
    except Exception as error:  # tar files, compression and URLs have their own
        raise ValueError(f"{paths[CUTS]} and {others} cannot be read: {first_line(error)}: write them again") from error
    require(count == announced, f"{others} is cut off, {count} of the {announced} in {paths[CUTS]}: write it again")


def _without_others(cut: Cut, fields: Iterable[str]) -> Cut:
    """The cut, itself changed, without features or recording that its shard does not hold."""
    for field in {*READ_FIELDS} - {*fields}:
        if getattr(cut, field, None) is not None:
            setattr(cut, field, None)
    return cut


def write_shard(cuts: Sequence[Cut], directory: Path, number: int, fields: Mapping[str, str]) -> bool:
    """Write one shard, whole or not at all; return False if it is there already.

    Args:
      cuts: their audio or features can be read.
      directory: the folder of all shards.
      number: of this shard, from 0.
      fields: formats by field, as Lhotse's `to_shar` has them.

    Raises:
      ValueError: a cut that cannot be read, named, or a shard of this number that holds other cuts.
    """
    if _is_written([cut.id for cut in cuts], directory, number, fields):
        return False
    suffix = f".{number:06d}"
    temporary = directory / suffix
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with SharWriter(temporary, fields, shard_size=None, shard_suffix=suffix, warn_unused_fields=False) as writer:
            for cut in cuts:
                _write_cut(writer, cut, fields)
        written = sorted(temporary.iterdir(), key=lambda path: path.name.startswith(f"{CUTS}."))
        for path in written:  # the cuts come last: a shard without them is not there
            os.replace(path, directory / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _write_cut(writer: SharWriter, cut: Cut, fields: Mapping[str, str]) -> None:
    missing = [f for f in fields if not (cut.has_recording if f == "recording" else cut.has_features)]
    require(not missing, f"cut {cut.id} has no {' and no '.join(missing)} to write")
    try:
        whole = cut.to_mono() if isinstance(cut, MixedCut) else cut
        writer.write(_without_others(fastcopy(whole), fields))
    except Exception as error:  # audio backends and storages have their own
        raise ValueError(f"cut {cut.id} cannot be written: {first_line(error)}") from error


def _is_written(ids: Sequence[str], directory: Path, number: int, fields: Mapping[str, str]) -> bool:
    path = directory / f"{CUTS}.{number:06d}.jsonl.gz"
    if not path.is_file():
        return False
    others = [directory / f"{field}.{number:06d}.tar" for field in fields]
    same = [cut.id for cut in CutSet.from_jsonl_lazy(path)] == list(ids) and all(map(Path.is_file, others))
    require(same, f"{path} is of other cuts or fields: remove it, or give another --output-dir")
    return True
