"""Files that hold several recordings one behind another, as `cat a.flac b.flac` makes them."""

from __future__ import annotations

import contextlib
import functools
import struct
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

from shared_moe_conformer.config import require
from shared_moe_conformer.speech.headers import ERRORS, PIECE, AudioFile, open_known, place_behind_tags, system_errors

FORMS = {b"RIFF": ("<I", (b"WAVE",)), b"FORM": (">I", (b"AIFF", b"AIFC"))}
"""Format of a file's length, for `struct`, and the words behind it, by its first bytes: WAV and AIFF."""
STREAM, STREAM_INFO = b"fLaC", (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22")
"""First bytes of a FLAC stream, and of its first block, of 34 bytes, the last or not. Source: RFC 9639, section 8."""
STREAM_HEAD = 8
"""Bytes of both."""
BLOCK = 1 << 20
"""Bytes that are searched, or copied, at once."""
MAX_PARTS = 10_000
"""Recordings in one file at most: each is a file for a moment."""


def parts_of(path: Path) -> list[tuple[int, int]]:
    """Begin and end, in bytes, of each recording in a WAV, AIFF or FLAC file; of other files none.

    A FLAC file does not tell where it ends, so it is searched as a whole.
    """
    stat = path.stat()
    return _parts(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _parts(path: Path, size: int, _time: int) -> list[tuple[int, int]]:
    with path.open("rb") as file:
        kind = file.read(4)
        if kind in FORMS:
            return list(pairwise([*_forms(path, size), size]))
        file.seek(place_behind_tags(path))
        if file.read(len(STREAM)) == STREAM:
            return list(pairwise([*_streams(file, file.tell() - 4), size]))
    return []


def _forms(path: Path, size: int) -> Iterator[int]:
    """Begins of the recordings in a file of `FORMS`."""
    begin = 0
    with path.open("rb") as file:
        while begin + 12 <= size:
            file.seek(begin)
            head = file.read(12)
            number, words = FORMS.get(head[:4], ("<I", ()))
            if head[8:] not in words:
                return
            yield begin
            (length,) = struct.unpack(number, head[4:8])
            begin += 8 + length + length % 2


def _streams(file: BinaryIO, begin: int) -> Iterator[int]:
    """Begins of the recordings in a FLAC file, the first of which is known."""
    file.seek(begin)
    content = b""
    while block := file.read(BLOCK):
        content += block
        place = content.find(STREAM)
        while place >= 0:
            if content[place + len(STREAM) : place + STREAM_HEAD] in STREAM_INFO:
                yield begin + place
            place = content.find(STREAM, place + 1)
        begin += max(0, len(content) - STREAM_HEAD + 1)
        content = content[-STREAM_HEAD + 1 :]


def open_joined(path: Path, parts: list[tuple[int, int]], *, max_seconds: float | None = None) -> AudioFile:
    """Open a file that holds several recordings, as one recording.

    Args:
      parts: see `parts_of`.
      max_seconds: about as many seconds are decoded at most; None: all.

    Raises:
      ValueError: one of them cannot be read, or they differ in sampling rate or channels.
    """
    require(len(parts) <= MAX_PARTS, f"{path} holds more than {MAX_PARTS:,} recordings one behind another: cut it up")
    announced: list[float | None] = []
    with tempfile.NamedTemporaryFile(suffix=".w64") as copy, contextlib.ExitStack() as stack:
        stack.enter_context(system_errors(Path(copy.name)))
        writer = None
        for file in _opened(path, parts):
            if writer is None:
                form = {"samplerate": file.samplerate, "channels": file.channels, "format": "W64", "subtype": "FLOAT"}
                writer = stack.enter_context(AudioFile(copy.name, "w", **form))
            announced.append(file.announced)
            for piece in _pieces(file):
                writer.write(piece)
            if max_seconds is not None and writer.frames > max_seconds * file.samplerate:
                break
        stack.close()
        joined = AudioFile(copy.name)
    lengths = [length for length in announced if length is not None]
    joined.announced = sum(lengths) if len(lengths) == len(announced) else None
    return joined


def _pieces(file: AudioFile) -> Iterator[np.ndarray]:
    """The samples (n, num_channels) of a file up to its end, or to where it is damaged, which shows in its length."""
    with contextlib.suppress(*ERRORS):
        while len(piece := file.read(PIECE, dtype="float32", always_2d=True)):
            yield piece


def _opened(path: Path, parts: list[tuple[int, int]]) -> Iterator[AudioFile]:
    """Each part of a file, in bytes, opened as a file of its own."""
    shape = None
    for number, (begin, end) in enumerate(parts, start=1):
        what = f"{path} holds {len(parts)} recordings one behind another: number {number}"
        remedy = "cut the file into these, or convert each to wav"
        with tempfile.NamedTemporaryFile(suffix=path.suffix) as copy, path.open("rb") as source:
            source.seek(begin)
            for first in range(begin, end, BLOCK):
                copy.write(source.read(min(BLOCK, end - first)))
            copy.flush()
            try:
                file = open_known(Path(copy.name))
            except ERRORS as error:
                reason = getattr(error, "error_string", str(error)).rstrip(".")
                raise ValueError(f"{what} cannot be read ({reason}): {remedy}") from error
        with file:
            its = f"{file.samplerate} Hz and {file.channels} channel{'s' * (file.channels != 1)}"
            require(its == (shape := shape or its), f"{what} has {its}, the first one has {shape}: {remedy}")
            yield file
