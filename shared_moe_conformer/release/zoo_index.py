"""The contents of a zoo: index.json lists its models, and SHA256SUMS in each model's folder lists its files."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

from filelock import FileLock

from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.config import ADDED_LATER, from_dict, require, to_dict
from shared_moe_conformer.release.manifest import DEFAULT_SEARCH, ModelFacts, is_by, read_manifest, require_name

INDEX_FILE = "index.json"
MAX_INDEX = 1 << 24
"""Largest size of an index that is read, in bytes."""
SUM = re.compile("[0-9a-f]{64}")
SUMS_FILE = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *]([A-Za-z0-9_][A-Za-z0-9_.-]{0,99})")


@dataclass(frozen=True)
class ZooEntry(ModelFacts):
    """The entry of one model, whose name is unique in the zoo."""

    size: int
    """Bytes of all its files."""
    path: str
    """Its folder's name in the zoo's folder: its URL relative to the index."""
    sha256: str
    """SHA-256 of its SHA256SUMS, which holds those of its files."""
    decoding_method: str = field(default=DEFAULT_SEARCH, metadata=ADDED_LATER)
    """Its default search."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_name(self.path)
        require(SUM.fullmatch(self.sha256) is not None, f"sha256 of {self.name} is {self.sha256!r}: not a SHA-256")

    @property
    def word_error_rate(self) -> tuple[float, str] | None:
        """Rate in percent by the model's own search, and the first test set that this search decoded; None: none.

        The best of many searches, chosen on the test set itself, would flatter.
        """
        for test_set, rates in self.error_rates.items():
            for search, rate in rates.items():
                if is_by(search, self.decoding_method) and math.isfinite(rate):
                    return rate, test_set
        return None

    @property
    def shown_rate(self) -> str:
        """The word error rate, as lists show it: 5.69 % (test, ctc_greedy_search); empty: none."""
        if not (found := self.word_error_rate):
            return ""
        rate, test_set = found
        return f"{rate:.2f} % ({test_set}, {self.decoding_method})"


def read_index(zoo_dir: Path) -> list[ZooEntry]:
    """The zoo's models by name, empty if there is no index yet; see `parse_index`."""
    path = zoo_dir / INDEX_FILE
    return parse_index(path.read_bytes(), source=str(path)) if path.is_file() else []


def parse_index(content: bytes, *, source: str) -> list[ZooEntry]:
    """The models of an index.

    Raises:
      ValueError: the index is damaged, or a newer version's; its source is named.
    """
    try:
        values = json.loads(content.decode("utf-8"))
        require(isinstance(values, list), "not a list of JSON objects")
        entries = [from_dict(ZooEntry, of_model) for of_model in values]
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{source}: {error}") from error
    require(len({entry.name for entry in entries}) == len(entries), f"{source} lists a name twice")
    return entries


def write_index(entries: list[ZooEntry], path: Path) -> None:
    """Write an index with the models by name; if all have the default search, earlier versions can read it as well."""
    values = [to_dict(entry) for entry in sorted(entries, key=lambda entry: entry.name)]
    for of_model in values:
        if of_model["decoding_method"] == DEFAULT_SEARCH:
            del of_model["decoding_method"]
    write_whole(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def add(folder: Path) -> ZooEntry:
    """Enter a bundle into the index of its zoo, and replace an entry of the same name."""
    entry = _describe(folder)
    with locked(folder.parent, INDEX_FILE):
        write_index(with_entry(read_index(folder.parent), entry), folder.parent / INDEX_FILE)
    return entry


def drop(name: str, *, zoo_dir: Path) -> None:
    """Take a model out of the index; its files stay."""
    with locked(zoo_dir, INDEX_FILE):
        write_index([entry for entry in read_index(zoo_dir) if entry.name != name], zoo_dir / INDEX_FILE)


def with_entry(entries: list[ZooEntry], entry: ZooEntry) -> list[ZooEntry]:
    """The entries with this one added, or in the place of one with its name."""
    return [*(other for other in entries if other.name != entry.name), entry]


def find(name: str, *, zoo_dir: Path) -> ZooEntry:
    """The index's entry of a name; see `entry_of`."""
    return entry_of(name, read_index(zoo_dir), source=str(zoo_dir))


def entry_of(name: str, entries: list[ZooEntry], *, source: str) -> ZooEntry:
    """The entry of a name among those of a zoo.

    Raises:
      FileNotFoundError: the zoo has no such model.
    """
    require_name(name)
    named = {entry.name: entry for entry in entries}
    if name not in named:
        raise FileNotFoundError(f"the zoo {source} has no model {name}; it has: {', '.join(named) or 'none'}")
    return named[name]


def locked(zoo_dir: Path, name: str) -> FileLock:
    """A lock on a name in a zoo, among all processes."""
    return FileLock(zoo_dir / f".{name}.lock")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_sums(folder: Path) -> None:
    """Write the sums of all files of a (flat) folder."""
    names = sorted(path.name for path in folder.iterdir() if path.name != SUMS_FILE)
    (folder / SUMS_FILE).write_text("".join(f"{file_sha256(folder / name)}  {name}\n" for name in names))


def read_sums(folder: Path) -> dict[str, str]:
    """File name to SHA-256, as SHA256SUMS says.

    Raises:
      ValueError: no such file, or a line that is not a sum and a plain file name.
    """
    path = folder / SUMS_FILE
    if not path.is_file():
        raise ValueError(f"{folder} has no {SUMS_FILE}: it is not a released model")
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    matches = [LINE.fullmatch(line) for line in lines]
    for number, match in enumerate(matches, start=1):
        if match is None:
            raise ValueError(f"{path}, line {number}: not a SHA-256 and a plain file name: get the model again")
    return {match[2]: match[1] for match in matches if match}


def require_small(folder: Path, names: Iterable[str], *, max_bytes: int) -> None:
    """Refuse files that are too large to be read whole."""
    for path in (folder / name for name in names):
        if path.is_file() and path.stat().st_size > max_bytes:
            raise ValueError(f"{path} has {path.stat().st_size} bytes: at most {max_bytes} are read")


def verify_sums(folder: Path, *, required: Iterable[str]) -> None:
    """Compare every file that SHA256SUMS lists with its sum.

    Args:
      required: names that must be listed; a file that is not listed is not checked.

    Raises:
      ValueError: a file is missing, changed, or required but not listed; the message names it.
    """
    sums = read_sums(folder)
    for name in required:
        if name not in sums:
            raise ValueError(f"{folder / SUMS_FILE} does not list {name}: get or export the model again")
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing, but {SUMS_FILE} lists it: get or export the model again")
        if file_sha256(path) != expected:
            raise ValueError(f"{path} is not the file that was released (its SHA-256 differs): get it again")


def _describe(folder: Path) -> ZooEntry:
    manifest = read_manifest(folder)
    return ZooEntry(
        **{f.name: getattr(manifest, f.name) for f in fields(ModelFacts)},
        size=sum(path.stat().st_size for path in folder.iterdir()),
        path=folder.name,
        sha256=file_sha256(folder / SUMS_FILE),
        decoding_method=manifest.decoding_method,
    )
