"""Audio files that a command line names, the names of their transcripts, and where these belong."""

from __future__ import annotations

import contextlib
import glob
import itertools
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from shared_moe_conformer.config import require
from shared_moe_conformer.speech.audio import SUFFIXES
from shared_moe_conformer.speech.containers import open_audio
from shared_moe_conformer.speech.recognition import Channel
from shared_moe_conformer.text import counted, one_line

STDIN = "-"
EACH = "each"
MAX_SHOWN = 3
"""Most names that a message about skipped files shows."""


class Input(NamedTuple):
    """A recording, and the name of its transcript."""

    name: str
    recording: str | Channel


def find_audio(names: Sequence[str]) -> Iterator[str]:
    """The audio files that the arguments name, in order.

    Args:
      names: files; folders, which are searched with all below them; patterns with `*`, `**` or `?`; `-`.

    Raises:
      ValueError: an empty name.
      FileNotFoundError: a folder without audio files, or a pattern without match. Missing files are kept in the list.
    """
    for name in names:
        require(name != "", "an argument is empty: name a file or a folder; the folder where you are is .")
        if name == STDIN or Path(name).is_file() or not (Path(name).is_dir() or glob.has_magic(name)):
            yield name
            continue
        paths = Path(name).rglob("*") if Path(name).is_dir() else map(Path, glob.iglob(name, recursive=True))
        folder = folder_of(name)
        seen = sorted((path for path in paths if _may_be_audio(path) and not _is_hidden(path, folder)), key=str)
        files = [path for path in seen if not path.is_dir()]
        found = [path for path in files if path.suffix.lower() in SUFFIXES]
        if not found:
            raise FileNotFoundError(f"no audio files in {name}: their names must end in {', '.join(sorted(SUFFIXES))}")
        others = [path for path in files if path.suffix.lower() not in SUFFIXES]
        pipes = [path for path in found if path.exists() and not path.is_file()]
        found = [path for path in found if path not in pipes]
        links = [path for path in seen if path.is_dir() and Path(name).is_dir()]  # a pattern's are followed
        _tell_of(others, "file", "not named like audio", name, folder)
        _tell_of(pipes, "pipe", "which are read only where they are named", name, folder)
        _tell_of(links, "link", "to folders, which are not followed", name, folder)
        yield from map(str, found)


def _may_be_audio(path: Path) -> bool:
    """Whether this is no folder; a link may lead to one, or nowhere, which opening it reports."""
    return path.is_symlink() or not path.is_dir()


def _tell_of(left_out: Sequence[Path], noun: str, reason: str, name: str, folder: Path) -> None:
    if left_out:
        shown = ", ".join(str(path.relative_to(folder)) for path in left_out[:MAX_SHOWN])
        more = ", .." * (len(left_out) > MAX_SHOWN)
        message = f"left out {counted(len(left_out), noun)} of {name}, {reason}: {shown}{more}"
        print(one_line(message), file=sys.stderr, flush=True)


def inputs_of(path: str, channel: int | str | None, *, name: str) -> list[Input]:
    """The recordings of a file: the mean of its channels, one of them, or `each`.

    A file that cannot be opened is one input, whose error comes when it is transcribed.
    """
    if channel is None:
        return [Input(name, path)]
    channels = [channel] if isinstance(channel, int) else []
    if channel == EACH:
        with contextlib.suppress(ValueError, OSError), open_audio(Path(path)) as file:
            channels = list(range(file.channels))
    if not channels:
        return [Input(name, path)]
    of_channel = Path(name)
    return [Input(str(of_channel.with_stem(f"{of_channel.stem}-{n}")), Channel(path, n)) for n in channels]


def seekable(name: str, copy: Path) -> str:
    """A file that can be read from any place: the file itself, or the copy of a pipe such as the standard input."""
    if name != STDIN and not Path(name).is_fifo():
        return name
    with copy.open("wb") as file, contextlib.ExitStack() as stack:
        pipe = sys.stdin.buffer if name == STDIN else stack.enter_context(open(name, "rb"))
        shutil.copyfileobj(pipe, file)
    return str(copy)


def place_of(name: str, arguments: Sequence[str]) -> Path:
    """The path of a recording's transcript in the output folder: that of the recording in the folder that was named."""
    searched = (folder_of(a) for a in arguments if Path(a).is_dir() or (glob.has_magic(a) and not Path(a).is_file()))
    folder = next((folder for folder in searched if Path(name).is_relative_to(folder)), Path(name).parent)
    return Path(name).relative_to(folder)


def folder_of(name: str) -> Path:
    """The folder that an argument names, or in which its pattern begins."""
    path = Path(name)
    if path.is_dir():
        return path
    plain = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts[:-1])
    return Path(*plain)


def _is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file below a folder is hidden, such as macOS's ._a.wav, or lies in a hidden folder."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
