"""The zoo: a folder of released models and the index of them.

`python -m shared_moe_conformer.zoo list` prints the index; `verify NAME` checks one model down to its test wav.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared_moe_conformer.atomic import atomic_file
from shared_moe_conformer.checksums import SUMS_FILE, file_sha256
from shared_moe_conformer.cli import run_main
from shared_moe_conformer.config import from_dict, require, to_dict
from shared_moe_conformer.manifest import read_manifest, require_name, require_types

INDEX_FILE = "index.json"


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
    """Its folder's name in the zoo's folder."""
    sha256: str
    """SHA-256 of its SHA256SUMS, which holds those of its files."""

    def __post_init__(self) -> None:
        require_types(self)
        require_name(self.name)
        require_name(self.path)


def read_index(zoo_dir: Path) -> list[ZooEntry]:
    """The zoo's models by name; none where there is no index yet.

    Raises:
      ValueError: the index is damaged, or a newer version's.
    """
    path = zoo_dir / INDEX_FILE
    if not path.is_file():
        return []
    try:
        return [from_dict(ZooEntry, values) for values in _list_of_objects(json.loads(path.read_text("utf-8")))]
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def add(folder: Path) -> ZooEntry:
    """Enter a bundle into the index of the zoo that it lies in; an entry of the same name is replaced."""
    entry = _describe(folder)
    with _locked(folder.parent):
        others = [other for other in read_index(folder.parent) if other.name != entry.name]
        entries = sorted([*others, entry], key=lambda e: e.name)
        with atomic_file(folder.parent / INDEX_FILE) as file:
            file.write((json.dumps([to_dict(e) for e in entries], indent=2, ensure_ascii=False) + "\n").encode())
    return entry


def find(name: str, *, zoo_dir: Path) -> ZooEntry:
    """The index's entry of a name.

    Raises:
      FileNotFoundError: the zoo has no such model.
    """
    require_name(name)
    entries = {entry.name: entry for entry in read_index(zoo_dir)}
    if name not in entries:
        raise FileNotFoundError(f"the zoo {zoo_dir} has no model {name}; it has: {', '.join(entries) or 'none'}")
    return entries[name]


def resolve(model: str | Path, *, zoo_dir: Path) -> Path:
    """The folder of a model, given by its path or by its name in the zoo.

    Raises:
      FileNotFoundError: neither.
    """
    if Path(model).is_dir():
        return Path(model)
    if Path(model).name != str(model):
        raise FileNotFoundError(f"no released model in {model}: ./export.py makes one")
    return zoo_dir / find(str(model), zoo_dir=zoo_dir).path


def verify(name: str, *, zoo_dir: Path) -> str:
    """Check a model's files against the index, and that it transcribes its test wav as it did when it was released.

    Returns:
      The test wav's transcript.

    Raises:
      FileNotFoundError: no such model.
      ValueError: something differs; named.
    """
    from shared_moe_conformer.bundle import TEST_WAV, Bundle, expected_text  # torch: not for listing

    entry = find(name, zoo_dir=zoo_dir)
    folder = zoo_dir / entry.path
    read_manifest(folder)
    require(
        (folder / SUMS_FILE).is_file() and file_sha256(folder / SUMS_FILE) == entry.sha256,
        f"{folder / SUMS_FILE} is not the one in the zoo's index: export or get the model again",
    )
    text, expected = Bundle.load(folder).transcribe(folder / TEST_WAV).text, expected_text(folder)
    require(text == expected, f"{folder} transcribes its test wav as {text!r}, not as released, {expected!r}")
    return text


def table(entries: list[ZooEntry]) -> str:
    """The models in lines of aligned columns."""
    heads = ("name", "corpus", "language", "licence", "unique", "unrolled", "active", "size", "best WER")
    rows = [heads, *(_row(entry) for entry in entries)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m shared_moe_conformer.zoo", description="Released models.")
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--zoo-dir", type=Path, default=Path("zoo"), help="the zoo's folder [zoo]")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[where], help="print the index")
    verifier = commands.add_parser("verify", parents=[where], help="check a model's files and its test wav")
    verifier.add_argument("name", help="of the model")
    args = parser.parse_args(arguments)
    run_main(lambda: _list(args.zoo_dir) if args.command == "list" else _verify(args.name, args.zoo_dir))


def _list(zoo_dir: Path) -> None:
    entries = read_index(zoo_dir)
    print(
        table(entries) if entries else f"no models in the zoo {zoo_dir} yet: ./export.py --zoo-dir {zoo_dir} adds one"
    )


def _verify(name: str, zoo_dir: Path) -> None:
    print(f"{name}: every file is as released; test.wav: {verify(name, zoo_dir=zoo_dir)}")


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


def _row(entry: ZooEntry) -> tuple[str, ...]:
    counts = (entry.unique_parameters, entry.unrolled_parameters, entry.active_parameters)
    rates = [(rate, method) for methods in entry.error_rates.values() for method, rate in methods.items()]
    best = "{:.2f} % {}".format(*min(rates)) if rates else "-"
    millions = (f"{count / 1e6:.2f}M" for count in counts)
    return (entry.name, entry.corpus, entry.language, entry.licence, *millions, f"{entry.size / 1e6:.1f} MB", best)


def _list_of_objects(values: Any) -> list[dict[str, Any]]:
    require(isinstance(values, list) and all(isinstance(v, dict) for v in values), "not a list of JSON objects")
    return values


@contextlib.contextmanager
def _locked(zoo_dir: Path) -> Iterator[None]:
    """While the block runs, no other process changes the index."""
    with (zoo_dir / f".{INDEX_FILE}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main()
