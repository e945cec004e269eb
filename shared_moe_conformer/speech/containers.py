"""Opening audio files of any kind: headers may be wrong about lengths or missing, and other programs may decode."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import struct
import subprocess
import tempfile
import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

ERRORS = (soundfile.LibsndfileError, RuntimeError, TypeError)
"""Errors of soundfile for a file that it cannot read."""
UNKNOWN_LENGTH = (1 << 36) - 1
"""Number of samples from which a header counts as not knowing it: the largest that FLAC can say."""
STREAMED = 0x7FFFF000
"""Bytes of samples from which a RIFF header counts as not knowing them, as in a file that was written to a pipe."""
HEADERLESS = {
    ".gsm": ("GSM610", 8000),
    ".ulaw": ("ULAW", 8000),
    ".ul": ("ULAW", 8000),
    ".alaw": ("ALAW", 8000),
    ".al": ("ALAW", 8000),
}
"""Encoding and sampling rate in Hz of files without a header, by suffix, as telephone systems write them."""
TELEPHONY = {".g722": "g722"}
"""Format of files without a header that ffmpeg or PyAV decodes, by suffix; no byte of them tells what they are."""
AMBIGUOUS = (".raw", ".pcm", ".sln")
"""Suffixes of files without a header that do not tell their encoding."""
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,amr,asf,aac,caf,flv,mpegts,wv,ape,ogg"
"""Formats that are decoded by ffmpeg or PyAV; playlists, which may name other files, are not among them."""
WHITELIST = ["-format_whitelist", CONTAINERS]
MAX_REASON = 200
"""Most characters of another program's message."""


class AudioFile(soundfile.SoundFile):
    """A file that is read from its beginning to its end, whatever length its header tells.

    The base class trusts the length if a file can be sought in.
    """

    announced: float | None = None
    """Number of samples by the header; None where it does not know."""

    def seekable(self) -> bool:
        return False


def open_audio(path: Path, *, max_seconds: float | None = None) -> AudioFile:
    """Open an audio file.

    Args:
      max_seconds: other programs decode no more than so many seconds of it; None: all.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not an audio file that can be decoded here.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no audio file {path}")
    suffix = path.suffix.lower()
    if suffix in AMBIGUOUS:
        raise ValueError(
            f"{path} has no header that tells its encoding and rate: convert it to wav, "
            f"as by sox -t raw -r 8000 -e signed -b 16 -c 1 {path.name} {path.stem}.wav"
        )
    if suffix in TELEPHONY:
        return _decoded(path, ValueError("libsndfile does not know its format"), max_seconds)
    try:
        if suffix in HEADERLESS:
            subtype, rate = HEADERLESS[suffix]
            return AudioFile(path, samplerate=rate, channels=1, format="RAW", subtype=subtype)
        file = AudioFile(path if _is_text(path) else os.fsencode(path))
    except ERRORS as error:
        return _decoded(path, error, max_seconds)
    payload = _payload(path)
    if file.frames == 0 and payload and payload.available:
        return _without_header(path, file, payload)
    file.announced = None if file.frames >= UNKNOWN_LENGTH else file.frames
    if payload and payload.available < payload.announced < STREAMED:
        file.announced = file.frames * payload.announced / max(1, payload.available)
    return file


def _is_text(path: Path) -> bool:
    """Whether a path has no bytes that are not UTF-8, which soundfile takes as bytes only."""
    return not any("\udc80" <= character <= "\udcff" for character in str(path))


class _Payload(NamedTuple):
    """The samples of an uncompressed file, in bytes."""

    offset: int
    announced: int
    """Length by the header."""
    available: int
    """Length up to the end of the file."""
    endian: str


def _payload(path: Path) -> _Payload | None:
    """The samples of a WAV, RF64, AIFF or AU file; None for other formats."""
    size = path.stat().st_size
    with path.open("rb") as file, contextlib.suppress(struct.error):
        kind = file.read(4)
        if kind == b".snd":
            offset, announced = struct.unpack(">II", file.read(8))
            return _Payload(offset, announced, max(0, size - offset), "BIG")
        if kind not in (b"RIFF", b"RF64", b"FORM"):
            return None
        file.seek(12)
        big = kind == b"FORM"
        while True:
            name, length = struct.unpack(">4sI" if big else "<4sI", file.read(8))
            if name in (b"data", b"SSND"):
                offset = file.tell() + 8 * big  # SSND begins with two numbers
                return _Payload(offset, length - 8 * big, max(0, size - offset), "BIG" if big else "LITTLE")
            file.seek(length + length % 2, io.SEEK_CUR)
    return None


class _Tail(io.FileIO):
    """A file without its first bytes."""

    def __init__(self, path: Path, offset: int) -> None:
        super().__init__(path)
        self._offset = offset
        self.seek(0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(offset + self._offset * (whence == io.SEEK_SET), whence) - self._offset

    def tell(self) -> int:
        return super().tell() - self._offset


def _without_header(path: Path, file: AudioFile, payload: _Payload) -> AudioFile:
    """The samples after a header that says there are none, as of a recorder that was killed."""
    with file:
        kind = {"samplerate": file.samplerate, "channels": file.channels, "subtype": file.subtype}
    try:
        return AudioFile(_Tail(path, payload.offset), format="RAW", endian=payload.endian, **kind)
    except ERRORS as error:
        raise ValueError(f"{path} cannot be read as audio: its header tells no length, and {error}") from error


def _decoded(path: Path, reason: Exception, max_seconds: float | None) -> AudioFile:
    """The file as ffmpeg or PyAV decodes it, for formats that libsndfile does not know."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as copy:
        try:
            _decode(path, copy.name, max_seconds)
            file = AudioFile(copy.name)
        except ModuleNotFoundError:
            said = getattr(reason, "error_string", str(reason)).rstrip(".")
            raise ValueError(
                f"{path} cannot be read as audio: {said}; for m4a, webm, amr and g722 install ffmpeg or pip install "
                "av, or convert it to wav or flac"
            ) from reason
        except (*ERRORS, OSError, ValueError, LookupError, EOFError, wave.Error, subprocess.SubprocessError) as error:
            said = " ".join(str(getattr(error, "stderr", None) or error).split())[:MAX_REASON]
            raise ValueError(f"{path} cannot be read as audio: {said}; convert it to wav or flac") from error
    file.announced = file.frames
    return file


def _decode(path: Path, target: str, max_seconds: float | None) -> None:
    form = TELEPHONY.get(path.suffix.lower())
    if program := shutil.which("ffmpeg"):
        command = [program, "-nostdin", "-v", "error", "-y", *(["-f", form] if form else WHITELIST)]
        until = [] if max_seconds is None else ["-t", str(max_seconds)]
        source = ["-i", f"file:{path}", *until, "-vn", "-f", "wav", "-c:a", "pcm_s16le", f"file:{target}"]
        subprocess.run([*command, *source], check=True, capture_output=True, text=True, errors="replace")
        return
    import av

    with av.open(str(path), format=form, options={} if form else {"format_whitelist": CONTAINERS}) as container:
        if not container.streams.audio:
            raise ValueError("it has no sound")
        stream, resampler = container.streams.audio[0], av.AudioResampler(format="s16")
        with wave.open(target, "wb") as wav:
            rate = stream.codec_context.sample_rate
            wav.setparams((stream.codec_context.channels, 2, rate, 0, "NONE", ""))
            for frame in itertools.chain(container.decode(stream), [None]):
                for part in resampler.resample(frame):
                    wav.writeframesraw(np.ascontiguousarray(part.to_ndarray()).tobytes())
                if max_seconds is not None and wav.tell() >= max_seconds * rate:
                    break
