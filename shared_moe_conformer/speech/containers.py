"""Opens audio files of any kind: headers may be missing or wrong about lengths, and ffmpeg or PyAV may decode."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import os
import shutil
import struct
import subprocess
import tempfile
import wave
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

ERRORS = (soundfile.LibsndfileError, RuntimeError, TypeError)
"""Errors of soundfile for a file that it cannot read."""
UNKNOWN_LENGTH = (1 << 36) - 1
"""Number of samples from which a header does not count as a length: the largest that FLAC can state."""
STREAMED = {"I": 0x7FFFF000, "Q": 1 << 40}
"""Bytes of samples from which a header does not count as a length, as in a file written to a pipe.

By the format of the number for `struct`: 32 or 64 bits.
"""
HEADERLESS = {
    ".gsm": ("GSM610", 8000),
    ".ulaw": ("ULAW", 8000),
    ".ul": ("ULAW", 8000),
    ".alaw": ("ALAW", 8000),
    ".al": ("ALAW", 8000),
}
"""Encoding and sampling rate in Hz of files without a header, by suffix, as telephone systems write them."""
TELEPHONY = {".g722": "g722"}
"""Format of headerless files that ffmpeg or PyAV decodes, by suffix."""
AMBIGUOUS = (".raw", ".pcm", ".sln")
"""Suffixes of headerless files that do not tell the encoding."""
WITHOUT_HEADER = frozenset({*HEADERLESS, *TELEPHONY, *AMBIGUOUS})
"""Suffixes of headerless files, whose content does not tell their format."""
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,amr,asf,aac,caf,flv,mpegts,wv,ape,ogg"
"""Formats that are decoded by ffmpeg or PyAV; playlists, which may name other files, are not among them."""
TRUSTED = {"mov", "matroska"}
"""Formats whose header tells the length; for others it is guessed."""
WHITELIST = ["-format_whitelist", CONTAINERS]
MP3_HEAD = 64
"""Bytes at the start of an MP3 file's first frame that say whether it tells the length."""
MAX_REASON = 200
"""Most characters quoted from another program's message."""


class AudioFile(soundfile.SoundFile):
    """A file that is read to its end, whatever length its header states.

    The base class trusts the length of a seekable file.
    """

    announced: float | None = None
    """Number of samples by the header; None if it does not tell, infinity if the file ends within a page."""

    def seekable(self) -> bool:
        return False


def open_audio(path: Path, *, max_seconds: float | None = None) -> AudioFile:
    """Open an audio file.

    Args:
      max_seconds: other programs decode at most this many seconds of it; None: all.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not an audio file that can be decoded here.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no audio file {path}")
    suffix = path.suffix.lower()
    if suffix in WITHOUT_HEADER and _has_header(path):
        suffix = ""
    if suffix in AMBIGUOUS:
        raise ValueError(
            f"{path} has no header that tells its encoding and rate: convert it to wav, "
            f"as by sox -t raw -r 8000 -e signed -b 16 -c 1 {path} out.wav"
        )
    if suffix in TELEPHONY:
        return _decoded(path, ValueError("libsndfile does not know its format"), max_seconds)
    try:
        if suffix in HEADERLESS:
            subtype, rate = HEADERLESS[suffix]
            return AudioFile(path, samplerate=rate, channels=1, format="RAW", subtype=subtype)
        file = _opened(path)
    except ERRORS as error:
        return _decoded(path, error, max_seconds)
    file.announced = None if file.frames >= UNKNOWN_LENGTH else file.frames
    payload = _payload(path)
    if payload and payload.available < payload.announced < payload.streamed:
        file.announced = file.frames * payload.announced / max(1, payload.available)
    elif file.format == "OGG" and not _has_whole_pages(path):
        file.announced = math.inf
    elif file.format == "MP3" and not _tells_length(path):
        file.announced = None  # libsndfile guesses it from the first frame's bit rate
    return file


def _opened(path: Path) -> AudioFile:
    """A file as libsndfile reads it; its size replaces a length that the header lacks."""
    name: Any = path if _is_text(path) else os.fsencode(path)
    if path.suffix.lower() == ".raw":  # a name that soundfile would take for a file without a header
        name = _Corrected(path, 0, b"")
    payload = _payload(path)
    if payload is None or not payload.available:
        return AudioFile(name)
    with contextlib.suppress(*ERRORS):
        file = AudioFile(name)
        if file.frames:
            return file
        file.close()
    return AudioFile(_Corrected(path, payload.place, payload.length))


def _has_header(path: Path) -> bool:
    """Whether a file begins with a known header, whatever its name says."""
    with path.open("rb") as file:
        return file.read(4) in MAGIC


def _is_text(path: Path) -> bool:
    """Whether a path is valid UTF-8; soundfile takes others only as bytes."""
    return not any("\udc80" <= character <= "\udcff" for character in str(path))


class _Payload(NamedTuple):
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
MAGIC = {*CHUNKS, b".snd", b"fLaC", b"OggS", b"NIST"}
"""First bytes of files with headers."""


def _payload(path: Path) -> _Payload | None:
    """The samples of a file of `CHUNKS` or AU; None for other formats."""
    size = path.stat().st_size
    with path.open("rb") as file, contextlib.suppress(struct.error, OSError, ValueError):  # no such place
        kind = file.read(4)
        if kind == b".snd":
            offset, announced = struct.unpack(">II", file.read(8))
            return _payload_at(8, ">I", announced, size - offset)
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
                return _payload_at(place, number, length, size - begin - chunks.skipped, more=more)
            length = max(0, length - chunks.counted)
            file.seek(begin + length + -length % chunks.alignment)
    return None


def _payload_at(place: int, number: str, announced: int, available: int, *, more: int = 0) -> _Payload:
    """The samples whose length, plus `more`, is stored at a place."""
    available, streamed = max(0, available), STREAMED[number[-1]]
    length = struct.pack(number, min(available + more, streamed - 1))
    return _Payload(announced - more, available, streamed, place, length)


class _Corrected(io.FileIO):
    """A file with some of its bytes replaced."""

    def __init__(self, path: Path, place: int, content: bytes) -> None:
        super().__init__(path)
        self.name = ""
        self._place, self._content = place, content

    def readinto(self, buffer: Any) -> int:
        """Read bytes into a buffer; return their number."""
        begin, view = self.tell(), memoryview(buffer)
        number = super().readinto(view) or 0
        first, last = max(begin, self._place), min(begin + number, self._place + len(self._content))
        if first < last:
            view[first - begin : last - begin] = self._content[first - self._place : last - self._place]
        return number


def _has_whole_pages(path: Path) -> bool:
    """Whether an Ogg file consists of whole pages; one that was cut off does not.

    Source: RFC 3533, section 6.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        while len(head := file.read(27)) == 27 and head[:4] == b"OggS":
            file.seek(sum(file.read(head[26])), io.SEEK_CUR)
        return not head and file.tell() == size


def _tells_length(path: Path) -> bool:
    """Whether an MP3 file has, after its tags, the frame that tells its length."""
    with path.open("rb") as file:
        head = file.read(10)
        tag = head[:3] == b"ID3" and len(head) == 10
        file.seek(10 + sum(byte << 7 * (9 - i) for i, byte in enumerate(head) if i >= 6) if tag else 0)
        first = file.read(MP3_HEAD)
    return any(mark in first for mark in (b"Xing", b"Info", b"VBRI"))


def _decoded(path: Path, reason: Exception, max_seconds: float | None) -> AudioFile:
    """The file as ffmpeg or PyAV decodes it, for formats that libsndfile does not know."""
    if not path.stat().st_size:
        raise ValueError(f"{path} cannot be read as audio: it is empty; get it again, or leave it out")
    of_libsndfile = getattr(reason, "error_string", str(reason)).rstrip(".")
    if "not exist" in of_libsndfile:  # its words for anything that is not MP3
        of_libsndfile = "Format not recognised"
    with tempfile.NamedTemporaryFile(suffix=".wav") as copy:
        try:
            announced = _decode(path, copy.name, max_seconds)
            file = AudioFile(copy.name)
        except ModuleNotFoundError:
            raise ValueError(
                f"{path} cannot be read as audio: {of_libsndfile}; for m4a, webm, amr and g722 install ffmpeg or "
                "pip install av, or convert it to wav or flac"
            ) from reason
        except (*ERRORS, OSError, ValueError, LookupError, EOFError, wave.Error, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or getattr(error, "strerror", None) or str(error)
            of_ffmpeg = " ".join(said.split())[:MAX_REASON]
            raise ValueError(
                f"{path} cannot be read as audio: {of_libsndfile}; FFmpeg says: {of_ffmpeg}; convert it to wav or flac"
            ) from error
    file.announced = file.frames if announced is None else announced
    return file


def _decode(path: Path, target: str, max_seconds: float | None) -> float | None:
    """Write a wav file; return its expected samples, infinity if some cannot be read, or None if not known."""
    form = TELEPHONY.get(path.suffix.lower())
    if program := shutil.which("ffmpeg"):
        command = [program, "-nostdin", "-v", "error", "-y", *(["-f", form] if form else WHITELIST)]
        until = [] if max_seconds is None else ["-t", str(max_seconds)]
        source = ["-i", f"file:{path}", *until, "-vn", "-f", "wav", "-c:a", "pcm_s16le", f"file:{target}"]
        subprocess.run([*command, *source], check=True, capture_output=True, text=True, errors="replace")
        return None
    import av

    with av.open(str(path), format=form, options={} if form else {"format_whitelist": CONTAINERS}) as container:
        if not container.streams.audio:
            raise ValueError("it has no sound")
        stream, resampler = container.streams.audio[0], av.AudioResampler(format="s16")
        with wave.open(target, "wb") as wav:
            rate = stream.codec_context.sample_rate
            wav.setparams((stream.codec_context.channels, 2, rate, 0, "NONE", ""))
            announced = None
            if set(container.format.name.split(",")) & TRUSTED and container.duration and not container.streams.video:
                announced = container.duration / av.time_base * rate
            try:
                for frame in itertools.chain(container.decode(stream), [None]):
                    for part in resampler.resample(frame):
                        wav.writeframesraw(np.ascontiguousarray(part.to_ndarray()).tobytes())
                    if max_seconds is not None and wav.tell() >= max_seconds * rate:
                        break
            except av.error.FFmpegError:
                if not wav.tell():
                    raise
                announced = math.inf
            if not wav.tell():
                raise ValueError("no sound in it can be decoded")
            return announced
