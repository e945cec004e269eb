"""Transfers of models between zoos: they resume, are verified before use, and appear whole or not at all."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tqdm import tqdm

from shared_moe_conformer.atomic import check_free, put_folder
from shared_moe_conformer.config import require
from shared_moe_conformer.release.download import fetch
from shared_moe_conformer.release.hub import HUB, hub_upload
from shared_moe_conformer.release.manifest import FILES, MANIFEST_FILE, read_manifest, require_name
from shared_moe_conformer.release.zoo_index import (
    INDEX_FILE,
    MAX_INDEX,
    SUMS_FILE,
    ZooEntry,
    add,
    drop,
    entry_of,
    file_sha256,
    find,
    locked,
    parse_index,
    read_index,
    read_sums,
    verify_sums,
)

ZOO = "zoo"
"""Default folder of released models."""
MAX_SUMS = 1 << 16
"""Largest size of a SHA256SUMS that is read, in bytes."""
VERSION_LETTERS = 16
"""Letters of a version's SHA-256 in the name of the hidden folder of its download."""


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """`--model` and `--zoo-dir`, which `resolve` takes."""
    parser.add_argument(
        "--model",
        required=True,
        help="a released model: its folder, its name in the zoo, or its name behind another zoo's address "
        f"({HUB}o/zoo/NAME)",
    )
    parser.add_argument("--zoo-dir", type=Path, default=Path(ZOO), help=f"the folder of released models [{ZOO}]")


def resolve(model: str | Path, *, zoo_dir: Path) -> Path:
    """The folder of a model, given by its path, its name in the zoo, or its name behind another zoo's address.

    Raises:
      FileNotFoundError: none of these.
      ValueError: it cannot be pulled from the other zoo.
    """
    if "://" in str(model):
        source, _, name = str(model).rstrip("/").rpartition("/")
        return pull(name, source=source, zoo_dir=zoo_dir)
    if Path(model).is_dir():
        return Path(model)
    if Path(model).name != str(model):
        raise FileNotFoundError(f"no released model in {model}: ./export.py makes one")
    return zoo_dir / find(str(model), zoo_dir=zoo_dir).path


def read_remote_index(location: str) -> list[ZooEntry]:
    """The models of a local or remote zoo.

    Raises:
      FileNotFoundError: there is no zoo.
      ValueError: its index cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / INDEX_FILE
        fetch(location, INDEX_FILE, index, max_bytes=MAX_INDEX)
        return parse_index(index.read_bytes(), source=f"{location.rstrip('/')}/{INDEX_FILE}")


def pull(name: str, *, source: str, zoo_dir: Path, update: bool = False) -> Path:
    """Get a model from another zoo into this one, without the network if it is already here.

    Args:
      source: the other zoo: a folder, `file://`, `http(s)://` or `hf://owner/name`.
      zoo_dir: this zoo, made if it does not exist. A model whose files were damaged here is pulled again.
      update: take the other zoo's version if it differs.

    Returns:
      The model's folder.

    Raises:
      FileExistsError: something else is here under this name.
      FileNotFoundError: the other zoo is not there, or has no such model.
      ValueError: the files are not those of the other zoo's index; no suspect file is kept.
    """
    require_name(name)
    if not update and (intact := _intact(name, zoo_dir)):
        return intact  # without a lock: a zoo that one may only read will do
    zoo_dir.mkdir(parents=True, exist_ok=True)
    with locked(zoo_dir, name):
        if not update and (intact := _intact(name, zoo_dir)):
            return intact  # another process has just pulled it
        entry = entry_of(name, read_remote_index(source), source=source)
        folder = zoo_dir / name
        if not _is_version(folder, entry):
            _require_replaceable(folder, entry, source=source, update=update)
            _download(entry, source=source, folder=folder)
        add(folder)
        return folder


def push(name: str, *, zoo_dir: Path, target: str) -> str:
    """Put a model of this zoo into another one, which is created if it does not exist.

    Args:
      target: the other zoo: a folder, `file://` or `hf://owner/name`.

    Returns:
      The model's new place.

    Raises:
      ValueError: the model is damaged, or the other zoo cannot be written.
    """
    entry = find(name, zoo_dir=zoo_dir)
    verify_files(entry, zoo_dir / entry.path)
    if target.startswith(HUB):
        hub_upload(zoo_dir / entry.path, entry, target)
        return f"{target}/{entry.path}"
    if "://" not in target:
        return str(pull(name, source=str(zoo_dir), zoo_dir=Path(target), update=True))
    parts = urlsplit(target)
    require(parts.scheme == "file", f"{target} can be read only: push to a folder, file:// or {HUB}owner/name")
    return str(pull(name, source=str(zoo_dir), zoo_dir=Path(url2pathname(parts.path)), update=True))


def remove(name: str, *, zoo_dir: Path) -> None:
    """Delete a model, its entry, and the rest of an interrupted download.

    Raises:
      FileNotFoundError: no such model.
      ValueError: its folder holds something else.
    """
    require_name(name)
    partials = _partials(name, zoo_dir)
    if not partials:
        find(name, zoo_dir=zoo_dir)
    with locked(zoo_dir, name):
        for entry in [entry for entry in read_index(zoo_dir) if entry.name == name]:
            folder = zoo_dir / entry.path
            is_model = (folder / MANIFEST_FILE).is_file() and not folder.is_symlink()
            require(is_model or not os.path.lexists(folder), f"{folder} is not a model's folder: remove it yourself")
            drop(name, zoo_dir=zoo_dir)
            partials += [folder] if is_model else []
        for path in partials:
            shutil.rmtree(path)


def verify_files(entry: ZooEntry, folder: Path) -> None:
    """Refuse a model whose files are not those of its zoo's index; the message names one that differs."""
    require(
        (folder / SUMS_FILE).is_file() and file_sha256(folder / SUMS_FILE) == entry.sha256,
        f"{folder / SUMS_FILE} is not the one in the zoo's index: export or get the model again",
    )
    verify_sums(folder, required=FILES)


def _download(entry: ZooEntry, *, source: str, folder: Path) -> None:
    """Fetch a model's files into a hidden folder, which becomes the model's at the end."""
    partial = folder.with_name(f".{entry.name}.{entry.sha256[:VERSION_LETTERS]}.partial")
    partial.mkdir(exist_ok=True)
    missing, free = entry.size - _size(partial), shutil.disk_usage(partial).free
    require(missing <= free, f"{entry.name} needs {missing / 1e6:.0f} MB, {free / 1e6:.0f} MB are free here")
    fetch(source, f"{entry.path}/{SUMS_FILE}", partial / SUMS_FILE, max_bytes=MAX_SUMS, sha256=entry.sha256)
    sums = read_sums(partial)
    wrong = (set(FILES) - sums.keys()) | (sums.keys() & {SUMS_FILE})
    require(not wrong, f"{source}/{entry.path}/{SUMS_FILE} is not a model's: look at {', '.join(sorted(wrong))}")
    with tqdm(total=entry.size, initial=_size(partial), unit="B", unit_scale=True, disable=None) as bar:
        for name, sha256 in sums.items():
            file = partial / name
            room = entry.size - _size(partial) + (file.stat().st_size if file.is_file() else 0)
            fetch(source, f"{entry.path}/{name}", file, max_bytes=room, sha256=sha256, progress=bar.update)
    named = read_manifest(partial).name
    if named != entry.name:
        shutil.rmtree(partial)
        raise ValueError(f"{source} calls {entry.name} a model that calls itself {named}: it was not kept")
    put_folder(partial, folder)
    for outdated in _partials(entry.name, folder.parent):
        shutil.rmtree(outdated)


def _partials(name: str, zoo_dir: Path) -> list[Path]:
    """Folders that interrupted downloads of a model's versions left."""
    return list(zoo_dir.glob(f".{name}.{'?' * VERSION_LETTERS}.partial"))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _intact(name: str, zoo_dir: Path) -> Path | None:
    """The folder of a model of this zoo if all its files are as the index says."""
    folders = [zoo_dir / e.path for e in read_index(zoo_dir) if e.name == name and _is_version(zoo_dir / e.path, e)]
    return folders[0] if folders else None


def _require_replaceable(folder: Path, entry: ZooEntry, *, source: str, update: bool) -> None:
    """Refuse to replace anything but a damaged copy of this version, unless asked to."""
    versions = [own.sha256 for own in read_index(folder.parent) if own.name == entry.name]
    wanted = update or entry.sha256 in versions
    if not wanted and os.path.lexists(folder):
        raise FileExistsError(f"{folder} is not the version that {source} has: --update takes that one instead")
    check_free(folder, marker=MANIFEST_FILE, overwrite=wanted)


def _is_version(folder: Path, entry: ZooEntry) -> bool:
    """Whether a folder holds all files of a model as an index describes it."""
    try:
        verify_files(entry, folder)
    except ValueError:
        return False
    return True
