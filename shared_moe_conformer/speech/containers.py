"""Opens audio files of any kind: by their suffix those without a header, by ffmpeg or PyAV what libsndfile lacks."""

from __future__ import annotations

import itertools
import math
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from shared_moe_conformer.speech.headers import (
    ERRORS,
    AudioFile,
    has_header,
    libsndfile_name,
    open_known,
    system_errors,
)
from shared_moe_conformer.speech.joined import open_joined, parts_of

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
NO_AUDIO = {
    b"version https://git-lfs": "it is a pointer of Git LFS: run git lfs pull",
    b"SQLite format 3": "it is a project of Audacity, or a database: export its audio as wav",
    b"PK\x03\x04": "it is a zip file: unpack it",
    b"<": "it is a web page or XML, as a failed download or a project of Audacity: get the audio itself",
}
"""What is wrong with files that begin in this way, and what to do."""
MAX_REASON = 200
"""Most characters quoted from another program's message."""


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
    if suffix in WITHOUT_HEADER and has_header(path):
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
            return AudioFile(libsndfile_name(path), samplerate=rate, channels=1, format="RAW", subtype=subtype)
        if len(parts := parts_of(path)) > 1:
            return open_joined(path, parts, max_seconds=max_seconds)
        return open_known(path)
    except ERRORS as error:
        return _decoded(path, error, max_seconds)


def _decoded(path: Path, reason: Exception, max_seconds: float | None) -> AudioFile:
    """The file as ffmpeg or PyAV decodes it, for formats that libsndfile does not know."""
    if not path.stat().st_size:
        raise ValueError(f"{path} cannot be read as audio: it is empty; get it again, or leave it out")
    with path.open("rb") as file:
        head = file.read(64).lstrip()
    for mark, said in NO_AUDIO.items():
        if head.startswith(mark) and path.suffix.lower() not in TELEPHONY:  # of which any byte may be the first
            raise ValueError(f"{path} cannot be read as audio: {said}") from reason
    of_libsndfile = getattr(reason, "error_string", str(reason)).rstrip(".")
    if "not exist" in of_libsndfile:  # its words for anything that is not MP3
        of_libsndfile = "Format not recognised"
    with tempfile.NamedTemporaryFile(suffix=".w64") as copy:
        try:
            announced = _decode(path, copy.name, max_seconds)
            file = AudioFile(copy.name)
        except ModuleNotFoundError:
            raise ValueError(
                f"{path} cannot be read as audio: {of_libsndfile}; for m4a, webm, amr and g722 install ffmpeg or "
                "pip install av, or convert it to wav or flac"
            ) from reason
        except (*ERRORS, OSError, ValueError, LookupError, EOFError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or getattr(error, "strerror", None) or str(error)
            of_ffmpeg = " ".join(said.split())[:MAX_REASON]
            raise ValueError(
                f"{path} cannot be read as audio: {of_libsndfile}; FFmpeg says: {of_ffmpeg}; convert it to wav or flac"
            ) from error
    file.announced = file.frames if announced is None else announced
    return file


def _decode(path: Path, target: str, max_seconds: float | None) -> float | None:
    """Write a W64 file, which may have more than the 4 GB of a wav file: 7 hours of 44.1 kHz in stereo.

    Returns:
      The expected number of samples; infinity if some cannot be read, None if not known.
    """
    source = f"file:{path}"  # otherwise a colon in the name would end a protocol
    form = TELEPHONY.get(path.suffix.lower())
    if program := shutil.which("ffmpeg"):
        command = [program, "-nostdin", "-v", "error", "-y", *(["-f", form] if form else WHITELIST)]
        until = [] if max_seconds is None else ["-t", str(max_seconds)]
        conversion = ["-i", source, *until, "-vn", "-f", "w64", "-c:a", "pcm_s16le", f"file:{target}"]
        subprocess.run([*command, *conversion], check=True, capture_output=True, text=True, errors="replace")
        return None
    import av

    try:
        return _decode_by_av(source, target, form, max_seconds)
    except av.error.FFmpegError as error:  # some of its kinds are no errors of values or of the system
        raise ValueError(error.strerror or str(error)) from error


def _decode_by_av(source: str, target: str, form: str | None, max_seconds: float | None) -> float | None:
    """`_decode` by PyAV, which brings FFmpeg's libraries."""
    import av

    with av.open(source, format=form, options={} if form else {"format_whitelist": CONTAINERS}) as container:
        if not container.streams.audio:
            raise ValueError("it has no sound")
        stream, resampler = container.streams.audio[0], av.AudioResampler(format="s16")
        if stream.codec_context is None:
            raise ValueError("the coding of its sound is not known")
        rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
        w64 = soundfile.SoundFile(target, "w", rate, channels, "PCM_16", format="W64")
        with system_errors(Path(target)), w64 as copy:
            announced = None
            if set(container.format.name.split(",")) & TRUSTED and container.duration and not container.streams.video:
                announced = container.duration / av.time_base * rate
            try:
                for frame in itertools.chain(container.decode(stream), [None]):
                    for part in resampler.resample(frame):
                        copy.write(np.reshape(part.to_ndarray(), (-1, channels)))
                    if max_seconds is not None and copy.tell() >= max_seconds * rate:
                        break
            except av.error.FFmpegError:
                if not copy.tell():
                    raise
                announced = math.inf
            if not copy.tell():
                raise ValueError("no sound in it can be decoded")
            return announced
