"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

RENAME_EXCHANGE = 2
AT_FDCWD = -100
"""Constants of Linux, include/uapi/linux/fs.h and fcntl.h."""


@contextlib.contextmanager
def atomic_folder(target: Path, *, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder to fill; it replaces the target when the block ends, or is removed if the block fails.

    Args:
      target: path of the folder; an existing one stays until the new one is complete.
      marker: a file that every folder of this kind holds; a folder without it is never overwritten.

    Raises:
      FileExistsError: the target exists and may not be replaced.
    """
    check_free(target, marker=marker, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    temporary.mkdir()
    try:
        with named(target, hidden=temporary):
            yield temporary
            put_folder(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def put_folder(new: Path, target: Path) -> None:
    """Replace a folder by a complete one beside it, in one step, and delete the old one."""
    for path in (*new.rglob("*"), new):
        sync(path)
    _put_in_place(new, target)
    sync(target.parent)
    shutil.rmtree(new, ignore_errors=True)


def check_free(target: Path, *, marker: str, overwrite: bool = False) -> None:
    """Refuse a target that `atomic_folder` would not replace.

    Raises:
      FileExistsError: the target exists, and `overwrite` is not set or it is not a folder with the marker.
    """
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise FileExistsError(f"{target} exists: give another name, or --overwrite")
    if target.is_symlink() or not (target / marker).is_file():
        raise FileExistsError(f"{target} is a link or holds no {marker}, so it is not overwritten: give another name")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write; it appears at `path`, whole and on the disk, when the block ends, or not at all if it fails."""
    temporary = _beside(path)
    try:
        with named(path, hidden=temporary), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A hidden path with the same suffix, for programs that open files themselves; see `atomic_file`.

    The folder is made. The content may be lost with the machine's power, unless the block calls `sync`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with named(path, hidden=temporary):
            yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that appears whole or not at all; text in UTF-8."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def named(path: Path, *, hidden: Path | None = None) -> Iterator[None]:
    """Let system errors name the path if they name no file, as on a full disk, or the hidden one or a part of it."""
    try:
        yield
    except OSError as error:
        told = error.filename
        is_hidden = hidden is not None and isinstance(told, str) and Path(told).is_relative_to(hidden)
        if error.errno is not None and (told is None or is_hidden):
            error.filename = str(path)
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk or quota is full, or that a file has reached its largest size."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _put_in_place(temporary: Path, target: Path) -> None:
    """Rename; afterwards the replaced folder, if there was one, has the temporary name."""
    if not target.exists():
        os.rename(temporary, target)
    elif not _exchange(temporary, target):
        _replace_in_two_steps(temporary, target)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step; return False where the system cannot (Linux can, on most file systems)."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = AT_FDCWD, os.fsencode(first.absolute()), AT_FDCWD, os.fsencode(second.absolute())
    return renameat2 is not None and renameat2(*names, RENAME_EXCHANGE) == 0


def _replace_in_two_steps(temporary: Path, target: Path) -> None:
    old = _beside(target)
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old)


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
