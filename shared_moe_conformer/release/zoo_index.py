"""The index of a zoo: what a folder of released models holds, in one JSON file."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared_moe_conformer.atomic import atomic_file
from shared_moe_conformer.config import from_dict, require, to_dict
from shared_moe_conformer.release.checksums import SUMS_FILE, file_sha256
from shared_moe_conformer.release.manifest import is_default_search, read_manifest, require_name, require_types

INDEX_FILE = "index.json"
SUM = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class ZooEntry:
    """What the index says about one model."""

    name: str
    """Its name, unique in the zoo."""
    corpus: str
    """What it was trained on."""
    language: str
    """BCP-47 code of its language; several with commas between them."""
    licence: str
    """SPDX identifier of its licence."""
    unique_parameters: int
    """Parameters that are stored."""
    unrolled_parameters: int
    """Parameters, those of shared blocks counted once per layer."""
    active_parameters: int
    """Unrolled parameters that compute one frame."""
    error_rates: dict[str, dict[str, float]]
    """Word error rate in percent by test set and decoding method."""
    size: int
    """Bytes of all its files."""
    path: str
    """Its folder's name in the zoo's folder: its URL, relative to that of the index."""
    sha256: str
    """SHA-256 of its SHA256SUMS, which holds those of its files."""

    def __post_init__(self) -> None:
        require_types(self)
        require_name(self.name)
        require_name(self.path)
        require(SUM.fullmatch(self.sha256) is not None, f"sha256 of {self.name} is {self.sha256!r}: not a SHA-256")

    @property
    def word_error_rate(self) -> tuple[float, str] | None:
        """In percent by `DEFAULT_SEARCH`, and the test set, the first that it decoded; None: none.

        One search for all models: the best of many, chosen on the test set itself, would flatter.
        """
        for test_set, rates in self.error_rates.items():
            for search, rate in rates.items():
                if is_default_search(search) and math.isfinite(rate):
                    return rate, test_set
        return None


def read_index(zoo_dir: Path) -> list[ZooEntry]:
    """The zoo's models by name; none where there is no index yet.

    Raises:
      ValueError: the index is damaged, or a newer version's.
    """
    path = zoo_dir / INDEX_FILE
    return parse_index(path.read_bytes(), source=str(path)) if path.is_file() else []


def parse_index(content: bytes, *, source: str) -> list[ZooEntry]:
    """The models of an index.

    Raises:
      ValueError: the index is damaged, or a newer version's; its source is named.
    """
    try:
        entries = [from_dict(ZooEntry, values) for values in _list_of_objects(json.loads(content.decode("utf-8")))]
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{source}: {error}") from error
    require(len({entry.name for entry in entries}) == len(entries), f"{source} lists a name twice")
    return entries


def write_index(entries: list[ZooEntry], path: Path) -> None:
    """Write an index, the models by name."""
    values = [to_dict(entry) for entry in sorted(entries, key=lambda entry: entry.name)]
    with atomic_file(path) as file:
        file.write((json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


def add(folder: Path) -> ZooEntry:
    """Enter a bundle into the index of the zoo that it lies in; an entry of the same name is replaced."""
    entry = _describe(folder)
    with locked(folder.parent, INDEX_FILE):
        write_index(with_entry(read_index(folder.parent), entry), folder.parent / INDEX_FILE)
    return entry


def drop(name: str, *, zoo_dir: Path) -> None:
    """Take a model out of the index; its files stay."""
    with locked(zoo_dir, INDEX_FILE):
        write_index([entry for entry in read_index(zoo_dir) if entry.name != name], zoo_dir / INDEX_FILE)


def with_entry(entries: list[ZooEntry], entry: ZooEntry) -> list[ZooEntry]:
    """The entries and this one, instead of any of its name."""
    return [*(other for other in entries if other.name != entry.name), entry]


def find(name: str, *, zoo_dir: Path) -> ZooEntry:
    """The index's entry of a name.

    Raises:
      FileNotFoundError: the zoo has no such model.
    """
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


def select(
    entries: list[ZooEntry], *, corpus: str | None = None, language: str | None = None, max_size: float | None = None
) -> list[ZooEntry]:
    """The models that fit a query; None: anything does.

    Args:
      entries: to choose from.
      corpus: part of the corpus's name, in any case of letters.
      language: a BCP-47 code; `en` finds `en-GB` as well.
      max_size: of all files together, in MB (10**6 bytes).
    """

    def fits(entry: ZooEntry) -> bool:
        codes = entry.language.lower().split(",")
        return (
            (corpus is None or corpus.lower() in entry.corpus.lower())
            and (language is None or any(f"{code}-".startswith(f"{language.lower()}-") for code in codes))
            and (max_size is None or entry.size <= max_size * 1e6)
        )

    return [entry for entry in entries if fits(entry)]


@contextlib.contextmanager
def locked(zoo_dir: Path, name: str) -> Iterator[None]:
    """While the block runs, no other process that locks this name is in its own."""
    with (zoo_dir / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _describe(folder: Path) -> ZooEntry:
    manifest = read_manifest(folder)
    return ZooEntry(
        name=manifest.name,
        corpus=manifest.corpus,
        language=manifest.language,
        licence=manifest.licence,
        unique_parameters=manifest.unique_parameters,
        unrolled_parameters=manifest.unrolled_parameters,
        active_parameters=manifest.active_parameters,
        error_rates=manifest.error_rates,
        size=sum(path.stat().st_size for path in folder.iterdir()),
        path=folder.name,
        sha256=file_sha256(folder / SUMS_FILE),
    )


def _list_of_objects(values: Any) -> list[dict[str, Any]]:
    require(isinstance(values, list) and all(isinstance(v, dict) for v in values), "not a list of JSON objects")
    return values
