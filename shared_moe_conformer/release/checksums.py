"""SHA256SUMS: the sums of a folder's files, in the form that `sha256sum -c` reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

SUMS_FILE = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *]([A-Za-z0-9_][A-Za-z0-9_.-]{0,99})")


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
    """Refuse files that are too long to be read whole.

    Raises:
      ValueError: one is; named.
    """
    for path in (folder / name for name in names):
        if path.is_file() and path.stat().st_size > max_bytes:
            raise ValueError(f"{path} has {path.stat().st_size} bytes, no more than {max_bytes} are read")


def verify_sums(folder: Path, *, required: Iterable[str]) -> None:
    """Read every file that SHA256SUMS lists, and compare.

    Args:
      folder: the folder with its SHA256SUMS.
      required: names that must be listed; a file that is not listed is not checked.

    Raises:
      ValueError: a file that is missing, not listed though required, or changed; named.
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
