"""Where the samples of an uncompressed file are, by its chunks: WAV, RF64, AIFF, W64, CAF; and AU, which has none."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import NamedTuple

STREAMED = {"I": 0x7FFFF000, "Q": 1 << 40}
"""Bytes of samples from which a header does not count as a length, as in a file written to a pipe.

By the format of the number for `struct`: 32 or 64 bits.
"""


class Payload(NamedTuple):
    """The samples of an uncompressed file, in bytes."""

    announced: int
    """Length by the header."""
    available: int
    """Length up to the end of the file."""
    streamed: int
    """Length from which the header does not count."""
    place: int
    """Offset of the length in the file."""
    length: bytes
    """The bytes of the length if the samples filled the rest of the file."""
    has_more: bool = False
    """Whether what follows the samples is no chunk: the recorder was killed after it had last written the length."""


class _Chunks(NamedTuple):
    """The layout of a format's chunks."""

    first: int
    """Offset of the first chunk."""
    name: int
    """Bytes of a chunk's name."""
    number: str
    """Format of its length, for `struct`."""
    counted: int = 0
    """Bytes of a chunk's header that its length includes."""
    alignment: int = 2
    samples: bytes = b"data"
    """Name of the chunk of samples, or its beginning."""
    skipped: int = 0
    """Bytes in that chunk before the samples."""


CHUNKS = {
    b"RIFF": _Chunks(12, 4, "<I"),
    b"RF64": _Chunks(12, 4, "<I"),
    b"FORM": _Chunks(12, 4, ">I", samples=b"SSND", skipped=8),
    b"riff": _Chunks(40, 16, "<Q", counted=24, alignment=8),
    b"caff": _Chunks(8, 4, ">Q", alignment=1, skipped=4),
}
"""The chunks of WAV, RF64, AIFF, W64 and CAF files, by the first bytes of the file."""


def payload_of(path: Path) -> Payload | None:
    """The samples of a file of `CHUNKS` or AU; None for other formats."""
    size = path.stat().st_size
    with path.open("rb") as file, contextlib.suppress(struct.error, OSError, ValueError):  # no such place
        kind = file.read(4)
        if kind == b".snd":
            offset, announced = struct.unpack(">II", file.read(8))
            payload = _payload_at(8, ">I", announced, size - offset)
            return payload._replace(has_more=0 < announced < payload.available)
        if kind not in CHUNKS:
            return None
        chunks, wide = CHUNKS[kind], None
        file.seek(chunks.first)
        while True:
            name = file.read(chunks.name)
            place, number, begin = file.tell(), chunks.number, file.tell() + struct.calcsize(chunks.number)
            (length,) = struct.unpack(number, file.read(begin - place))
            if name[:4] == b"ds64":
                wide = begin + 8
            if name[:4] == chunks.samples:
                if wide and length == 0xFFFFFFFF:
                    place, number = wide, "<Q"
                    file.seek(wide)
                    (length,) = struct.unpack(number, file.read(8))
                more = chunks.counted + chunks.skipped
                payload = _payload_at(place, number, length, size - begin - chunks.skipped, more=more)
                if kind == b"RIFF" and length:
                    file.seek(begin + length + length % 2)
                    payload = payload._replace(has_more=_is_no_name(file.read(4)))
                return payload
            length = max(0, length - chunks.counted)
            file.seek(begin + length + -length % chunks.alignment)
    return None


def _payload_at(place: int, number: str, announced: int, available: int, *, more: int = 0) -> Payload:
    """The samples whose length, plus `more`, is stored at a place."""
    available, streamed = max(0, available), STREAMED[number[-1]]
    length = struct.pack(number, min(available + more, streamed - 1))
    return Payload(announced - more, available, streamed, place, length)


def _is_no_name(name: bytes) -> bool:
    """Whether these bytes cannot be the name of a chunk; zeros fill the end of a file."""
    return len(name) == 4 and name != bytes(4) and not all(0x20 <= byte < 0x7F for byte in name)
