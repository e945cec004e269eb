"""Audio files that are replaced, under the same names, after something was computed from them.

A file counts as replaced if its size differs, or if its time differs and then samples of its content do, where these
are known.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import soundfile

from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.text import counted

SAMPLE = 16384
"""Bytes of a file's beginning, middle and end of which digests are made."""
MAX_DIGESTS = 20_000
"""Files of one record that have digests at most: to read a part of each takes long where there are more."""
MAX_SHOWN = 3
"""Files that one message names."""
CONVERTED = "converted from "
"""What the comment of a converted file begins with; its source follows in JSON."""


class Source(NamedTuple):
    """An audio file as it was when something was computed from it."""

    path: str
    """As manifests name it."""
    size: int
    """Bytes."""
    time: int
    """Of its last change, in nanoseconds."""
    digest: str
    """Of samples of its content; empty: not known."""


def source_of(path: Path, *, name: str = "", with_digest: bool = True) -> Source:
    """A file as it is now, called by its path or by another name.

    Raises:
      OSError: it cannot be read.
    """
    stat = path.stat()
    return Source(name or str(path), stat.st_size, stat.st_mtime_ns, digest_of(path) if with_digest else "")


def digest_of(path: Path) -> str:
    """A digest of the beginning, the middle and the end of a file."""
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        for place in (0, size // 2, size - SAMPLE):
            file.seek(max(0, place))
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()[:16]


def is_replaced(source: Source, path: Path) -> bool:
    """Whether the file at a path is another than the source was; a file that is not there is not."""
    try:
        stat = path.stat()
        is_same_time = (stat.st_size, stat.st_mtime_ns) == (source.size, source.time)
        return not is_same_time and (stat.st_size != source.size or digest_of(path) != source.digest)
    except OSError:
        return False


def conversion_comment(source: Source) -> str:
    """The comment of a file that is converted from a source; see `converted_from`."""
    return CONVERTED + json.dumps(source)


def converted_from(path: Path) -> Source | None:
    """The source that a converted file names in its comment; None for other files."""
    try:
        with soundfile.SoundFile(path) as file:
            comment = file.comment
        return Source(*json.loads(comment[len(CONVERTED) :])) if comment.startswith(CONVERTED) else None
    except (OSError, RuntimeError, TypeError, ValueError):
        return None


def record_path(directory: Path, split: str) -> Path:
    """The file that says which audio the features of a split in a folder were computed from."""
    return directory / f"audio_{split}.jsonl"


def known_sources(paths: Iterable[str]) -> list[Source]:
    """Audio files as they are now, and the sources of those that are conversions, as these were then."""
    names = [name for name in dict.fromkeys(paths) if Path(name).is_file()]
    found = [source_of(Path(name), name=name, with_digest=len(names) <= MAX_DIGESTS) for name in names]
    conversions = (Path(name) for name in names if re.fullmatch(r"[0-9a-f]{20}\.flac", Path(name).name))
    return found + [source for source in map(converted_from, conversions) if source is not None]


def write_record(sources: Iterable[Source], path: Path) -> None:
    """Write a record that `replaced_files` reads."""
    write_whole(path, "".join(json.dumps(source) + "\n" for source in sources))


def replaced_files(record: Path, *, recipe_dir: Path, most: int | None = None) -> list[str]:
    """Files of a record that were replaced; none, if there is no record.

    Args:
      most: the number of files to look at, at most; they are spread evenly over the record. None: all of them.
    """
    sources = list(_read(record))
    step = 1 if most is None else -(-len(sources) // most) or 1
    return [source.path for source in sources[::step] if is_replaced(source, recipe_dir / source.path)]


def content_digest(record: Path) -> str:
    """A digest of the audio of a record, wherever the files are; empty, if there is no record."""
    content = [(source.size, source.digest) for source in _read(record)]
    return hashlib.sha256(repr(content).encode()).hexdigest() if content else ""


def _read(record: Path) -> Iterator[Source]:
    try:
        for line in record.read_text().splitlines():
            yield Source(*json.loads(line))
    except (OSError, TypeError, ValueError):
        return


def told(replaced: list[str]) -> str:
    """The files that were replaced, in words."""
    more = ", .." if len(replaced) > MAX_SHOWN else ""
    names = ", ".join(replaced[:MAX_SHOWN])
    return f"{counted(len(replaced), 'audio file')} replaced since features were computed from them ({names}{more})"
