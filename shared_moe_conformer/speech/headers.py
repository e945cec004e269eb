"""Opens the audio files that libsndfile knows, to their real ends: headers may be wrong about lengths, or lack them."""

from __future__ import annotations

import contextlib
import io
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soundfile

from shared_moe_conformer.speech.chunks import CHUNKS, payload_of

ERRORS = (soundfile.LibsndfileError, RuntimeError, TypeError)
"""Errors of soundfile for a file that it cannot read."""
PIECE = 4096
"""Samples decoded at once; damage loses no more than these."""
MAGIC = {*CHUNKS, b".snd", b"fLaC", b"OggS", b"NIST"}
"""First bytes of files with headers."""
UNKNOWN_LENGTH = (1 << 36) - 1
"""Number of samples from which a header does not count as a length: the largest that FLAC can state."""
MP3_HEAD = 64
"""Bytes at the start of an MP3 file's first frame that say whether it tells the length."""
MP3_RATES = (44100, 48000, 32000)
"""Sampling rates of MPEG 1 in Hz, by their index in a frame's header; MPEG 2 has half of them, 2.5 a quarter."""
MP3_BIT_RATE = 64000
"""Bit rate of a frame that only tells the length."""
MOST_FRAMES = 0x7FFFFFFF
"""Number of MP3 frames that counts as unknown."""
MORE = 4096
"""Bytes behind the end that an MP3 file tells, from which more sound is looked for there."""


class AudioFile(soundfile.SoundFile):
    """A file that is read to its end, whatever length its header states.

    The base class trusts the length of a seekable file.
    """

    announced: float | None = None
    """Number of samples by the header; None if it does not tell, infinity if the file ends within a page."""
    is_exact: bool = False
    """Whether nothing behind these samples is sound: FLAC's decoder fails at what other programs append, as tags."""

    def seekable(self) -> bool:
        return False

    def read(self, frames: int = -1, *args: Any, **options: Any) -> Any:
        """Read as `soundfile.SoundFile` does, but nothing behind the end of an exact file."""
        return super().read(min(frames, self.frames - self.tell()) if self.is_exact else frames, *args, **options)


def open_known(path: Path) -> AudioFile:
    """Open a file of a format that libsndfile knows.

    Raises:
      soundfile.LibsndfileError, RuntimeError, TypeError: it cannot be read, or not to its end; these are `ERRORS`.
    """
    file = _opened(path)
    file.announced = None if file.frames >= UNKNOWN_LENGTH else file.frames
    payload = payload_of(path)
    if payload and payload.available < payload.announced < payload.streamed:
        file.announced = file.frames * payload.announced / max(1, payload.available)
    elif file.format == "OGG":
        is_whole, is_chained = _pages(path)
        if is_chained:
            file.close()
            raise RuntimeError("libsndfile reads only the first of its streams")
        file.announced = file.announced if is_whole else math.inf
    return file


def has_header(path: Path) -> bool:
    """Whether a file begins with a known header, whatever its name says."""
    with path.open("rb") as file:
        return file.read(4) in MAGIC


def libsndfile_name(path: Path) -> Path | bytes:
    """A path as soundfile takes it: in bytes if it is not valid UTF-8."""
    is_text = not any("\udc80" <= character <= "\udcff" for character in str(path))
    return path if is_text else os.fsencode(path)


@contextlib.contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Let the system say what is wrong with the disk where libsndfile, which writes there, says "System error"."""
    try:
        yield
    except soundfile.LibsndfileError:
        with path.open("ab", buffering=0) as file:
            file.write(bytes(PIECE))
        raise


def _opened(path: Path) -> AudioFile:
    """A file as libsndfile reads it; its size replaces a length that the header lacks, or that is too short."""
    name: Any = libsndfile_name(path)
    if path.suffix.lower() == ".raw":  # a name that soundfile would take for a file without a header
        name = _Corrected(path, 0, b"")
    payload = payload_of(path)
    if payload is None or not payload.available:
        file, corrected = AudioFile(name), None
        if file.format == "FLAC":
            corrected = _longer_flac(path, file.frames)
        elif file.format == "MP3":
            corrected = _longer_mp3(path)
        if corrected is None:
            file.is_exact = file.format == "FLAC" and 0 < file.frames < UNKNOWN_LENGTH
            return file
        file.close()
        return AudioFile(corrected)
    if not payload.has_more:
        with contextlib.suppress(*ERRORS):
            file = AudioFile(name)
            if file.frames:
                return file
            file.close()
    return AudioFile(_Corrected(path, payload.place, payload.length))


class _Corrected(io.RawIOBase):
    """A file with some of its bytes replaced."""

    def __init__(self, path: Path, place: int, content: bytes, *, replaced: int | None = None) -> None:
        """The content stands at a place, instead of as many bytes, or of another number."""
        super().__init__()
        self.name = ""
        self._file = path.open("rb")
        self._place, self._content, self._position = place, content, 0
        self._shift = len(content) - (len(content) if replaced is None else replaced)
        self._length = os.fstat(self._file.fileno()).st_size + self._shift

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def seekable(self) -> bool:
        """Whether it can be read from any place: yes."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def tell(self) -> int:
        """The place of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, counted from the beginning, from here or from the end; return it."""
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(0, begin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read bytes into a buffer, as many as fit; return their number."""
        view, number = memoryview(buffer).cast("B"), 0
        while number < len(view) and (part := self._part(len(view) - number)):
            view[number : number + len(part)] = part
            number, self._position = number + len(part), self._position + len(part)
        return number

    def _part(self, number: int) -> bytes:
        """Up to a number of bytes from here on; empty at the end."""
        into = self._position - self._place
        if 0 <= into < len(self._content):
            return self._content[into : into + number]
        self._file.seek(self._position - (self._shift if into >= 0 else 0))
        return self._file.read(min(number, -into) if into < 0 else number)


def _pages(path: Path) -> tuple[bool, bool]:
    """Whether an Ogg file consists of whole pages, unlike one that was cut off, and whether a stream follows another.

    Source: RFC 3533, sections 4 and 6.
    """
    size, began, is_chained = path.stat().st_size, True, False
    with path.open("rb") as file:
        while len(head := file.read(27)) == 27 and head[:4] == b"OggS":
            is_first = bool(head[5] & 2)
            is_chained, began = is_chained or (is_first and not began), is_first
            file.seek(sum(file.read(head[26])), io.SEEK_CUR)
        return not head and file.tell() == size, is_chained


def place_behind_tags(path: Path) -> int:
    """The place behind the ID3 tags at a file's beginning."""
    place = 0
    with path.open("rb") as file:
        while len(head := file.read(10)) == 10 and head[:3] == b"ID3":
            place += 10 + sum((byte & 0x7F) << 7 * (9 - i) for i, byte in enumerate(head) if i >= 6)
            file.seek(place)
    return place


def _longer_flac(path: Path, announced: int) -> _Corrected | None:
    """A FLAC file without a length, if it has more samples than it tells.

    Source of the length's place: RFC 9639, section 8.2.
    """
    place = place_behind_tags(path) + 21
    with path.open("rb") as file:
        file.seek(place)
        bits = file.read(1)
    corrected = _Corrected(path, place, bytes([bits[0] & 0xF0, 0, 0, 0, 0]))
    with contextlib.suppress(*ERRORS), AudioFile(corrected) as longer:
        longer.seek(announced - 1)
        if 0 < announced < UNKNOWN_LENGTH and len(longer.read(2)) == 2:
            corrected.seek(0)
            return corrected
    corrected.close()
    return None


def _longer_mp3(path: Path) -> _Corrected | None:
    """An MP3 file that says to be endless, if it does not tell its length, or more follows; otherwise None.

    libsndfile would guess the length from the first frame's bit rate, and read no more.

    Source of the frame that tells it: https://www.codeproject.com/Articles/8295 (MPEG Audio Frame Header), section 2.3.
    """
    start = place_behind_tags(path)
    with path.open("rb") as file:
        file.seek(start)
        head = file.read(MP3_HEAD)
    size = path.stat().st_size - start
    if len(head) < MP3_HEAD or head[0] != 0xFF or head[1] & 0xE6 != 0xE2 or head[2] & 0x0C == 0x0C or b"VBRI" in head:
        return None
    mark = max(head.find(b"Xing"), head.find(b"Info"))
    if mark < 0 or mark + 16 > MP3_HEAD:
        return _Corrected(path, start, _endless_frame(head), replaced=0)
    flags, frames, length = struct.unpack(">III", head[mark + 4 : mark + 16])
    if flags & 1 and frames and not (flags & 2 and length + MORE < size):
        return None
    told = [flags, MOST_FRAMES, *([size] if flags & 2 else [])] if flags & 1 else [1, MOST_FRAMES, 0, 0, 0]
    return _Corrected(path, start + mark + 4, struct.pack(f">{len(told)}I", *told))


def _endless_frame(head: bytes) -> bytes:
    """A frame of no sound for a file whose first frame has this header; it tells a length that counts as unknown."""
    is_first_version, is_mono = head[1] & 0x18 == 0x18, head[3] & 0xC0 == 0xC0
    rate = MP3_RATES[head[2] >> 2 & 3] // {0x18: 1, 0x10: 2}.get(head[1] & 0x18, 4)
    header = bytes([0xFF, head[1] | 1, (5 if is_first_version else 8) << 4 | head[2] & 0x0C, head[3]])
    side = bytes((17 if is_mono else 32) if is_first_version else (9 if is_mono else 17))
    length = (144 if is_first_version else 72) * MP3_BIT_RATE // rate
    return (header + side + b"Xing" + struct.pack(">II", 1, MOST_FRAMES)).ljust(length, b"\0")
