"""Samples from audio files and back: the one reader of all that transcribe, serve or prepare recordings."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from shared_moe_conformer.atomic import atomic_path
from shared_moe_conformer.config import require
from shared_moe_conformer.speech.containers import open_audio
from shared_moe_conformer.speech.headers import ERRORS, PIECE, UNKNOWN_LENGTH, AudioFile, libsndfile_name, system_errors
from shared_moe_conformer.text import one_line

BLOCK_SECONDS = 10
"""Seconds of a block of samples."""
SAMPLING_RATES = (1000, 768_000)
"""Lowest and highest rate in Hz. Resampling takes memory in proportion, and a header may state any rate."""
SUFFIXES = frozenset(
    {
        *(".3gp", ".aac", ".aif", ".aifc", ".aiff", ".alaw", ".amr", ".au", ".awb", ".caf"),
        *(".flac", ".g722", ".gsm", ".m4a", ".mka", ".mp3", ".mp4", ".oga", ".ogg"),
        *(".opus", ".rf64", ".snd", ".sph", ".ulaw", ".w64", ".wav", ".webm", ".wma"),
    }
)
"""Suffixes of the audio files that a search of folders finds."""
PLAIN = ("WAV", "WAVEX", "FLAC")
"""Formats that all programs read in the same way."""
FLOATING = ("FLOAT", "DOUBLE")
"""Encodings that can hold NaN, infinity, and values of any scale."""
LOUDEST_FLOAT = 16.0
"""Magnitude above which floating-point samples count as having the scale of integers."""
INTEGER_SCALES = (2.0**15, 2.0**23, 2.0**31)
"""Full scale of integers of 16, 24 and 32 bits."""
CUT_OFF = 0.1
"""Seconds by which a file must be shorter than its header says to count as cut off."""
CANCELLED = 0.1
"""Channels cancel each other if the power of their mean is below this share of that of independent channels."""
LOST = 0.1
"""Share of a recording's power that may be cancelled."""

logger = logging.getLogger("shared_moe_conformer")


def read_audio(path: Path, *, channel: int | None = None) -> tuple[np.ndarray, int]:
    """The samples (num_samples,), float32, of all blocks of `stream_audio`, and their sampling rate in Hz."""
    sampling_rate, blocks = stream_audio(path, channel=channel)
    return np.concatenate([np.zeros(0, dtype=np.float32), *blocks]), sampling_rate


def stream_audio(
    path: Path, *, channel: int | None = None, max_seconds: float | None = None
) -> tuple[int, Iterator[np.ndarray]]:
    """The sampling rate in Hz, and the samples, float32 in -1..1, in blocks of 10 seconds.

    A wrong length in a header does not matter. A warning names files that were cut off, samples in the scale of
    integers, which are scaled down, and channels that cancel each other, of which the louder one is taken.

    Args:
      channel: the channel to take, from 0; None: the mean of all.
      max_seconds: reading and decoding stop after this many seconds of audio; None: at the file's end.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not an audio file that can be decoded here, no such channel, or a sample that is not a number;
        errors may also come while the blocks are read.
    """
    file = _open(path, max_seconds=max_seconds)
    most = None if max_seconds is None else math.ceil(max_seconds * file.samplerate / PIECE)
    if channel is not None and not 0 <= channel < file.channels:
        raise ValueError(f"{path} has no channel {channel}: its channels are 0 to {file.channels - 1}")
    weights = np.ones(1, dtype=np.float32)
    if file.channels > 1 or file.subtype in FLOATING:
        weights = _weights(file, path, channel, most)
        file = _rewound(file, path, max_seconds)
    return file.samplerate, _blocks(file, path, weights, most)


def stream_samples(samples: np.ndarray, sampling_rate: float) -> tuple[int, Iterator[np.ndarray]]:
    """The rate in Hz of samples (num_samples,), and the samples in blocks of 10 seconds, like those of a file.

    Raises:
      ValueError: not one channel, integers, or no sampling rate.
    """
    rate = whole_rate(sampling_rate)
    require_floats(samples)
    require(samples.ndim == 1, f"samples have the shape {samples.shape}: give one channel, (num_samples,)")
    length = BLOCK_SECONDS * rate
    return rate, (samples[first : first + length] for first in range(0, len(samples), length))


def whole_rate(sampling_rate: float) -> int:
    """A sampling rate in Hz as an integer; other programs' are floats, such as 16000.0.

    Raises:
      ValueError: a fraction of one, no number, or a rate that no audio has.
    """
    lowest, highest = SAMPLING_RATES
    fits = (
        isinstance(sampling_rate, Real) and lowest <= sampling_rate <= highest and sampling_rate == int(sampling_rate)
    )
    require(fits, f"a sampling rate of {sampling_rate} Hz: give audio of {lowest} to {highest} Hz, a whole number")
    return int(sampling_rate)


def require_floats(samples: np.ndarray) -> None:
    """Refuse integers, which have another scale."""
    kind, example = np.asarray(samples).dtype, "for int16, samples / 32768"
    require(np.issubdtype(kind, np.floating), f"samples are {kind}: give floats from -1 to 1 ({example})")


class Examined(NamedTuple):
    """Facts about an audio file, from its samples if its header may be wrong."""

    sampling_rate: int
    """Rate of the samples, in Hz."""
    num_samples: int
    announced: float | None
    """Number of samples by the header, where the file was cut off."""
    is_plain: bool
    """Whether all programs read the same from it: a right header, one channel, WAV or FLAC, samples from -1 to 1."""


def examine(path: Path) -> Examined:
    """The length of an audio file, and whether it is cut off; the file is read only if its header may be wrong.

    Raises:
      FileNotFoundError, ValueError: see `stream_audio`.
    """
    with _open(path) as file:
        rate, length, announced = file.samplerate, file.frames, file.announced
        is_known = 0 < length == announced and _has_sample(file, length - 1)
        is_plain = is_known and file.channels == 1 and file.format in PLAIN and file.name == str(path)
        if is_plain and file.subtype in FLOATING:
            is_plain = float(_weights(_rewound(file, path), path, None)[0]) == 1
    if not is_known:
        length = sum(map(len, stream_audio(path)[1]))
    is_cut_off = announced is not None and length + CUT_OFF * rate < announced
    return Examined(rate, length, announced if is_cut_off else None, is_plain)


def cut_off(path: Path, seconds: float, announced: float) -> str:
    """A message about a file with fewer seconds than announced; the latter may be infinite."""
    told = f"its header says {announced:.2f} s" if math.isfinite(announced) else "its end is not whole"
    return f"{path} is cut off: it has {seconds:.2f} s, and {told}"


def _has_sample(file: AudioFile, index: int) -> bool:
    try:
        file.seek(index)
        return len(file.read(1)) == 1
    except ERRORS:
        return False


def seconds_of(path: Path) -> float:
    """Duration of an audio file in seconds by its header; 0 if that does not tell, as in FLAC from a pipe."""
    try:
        info = soundfile.info(libsndfile_name(path))
    except (OSError, *ERRORS):
        return 0.0
    return float(info.duration) if info.frames < UNKNOWN_LENGTH else 0.0


def require_short(path: Path, *, seconds: float) -> float:
    """Duration in seconds of an audio file, which is decoded up to the limit, whatever its header says.

    Raises:
      FileNotFoundError: no such file.
      ValueError: longer than `seconds`, or no audio.
    """
    sampling_rate, blocks = stream_audio(path, max_seconds=seconds + 1)
    duration = 0.0
    for block in blocks:
        duration += len(block) / sampling_rate
        require(
            duration <= seconds,
            f"{path} lasts more than {seconds / 60:g} minutes: cut it into parts, or give it to the command "
            "transcribe, which takes any length",
        )
    return duration


@contextlib.contextmanager
def warnings_of(names: Mapping[str, str]) -> Iterator[list[str]]:
    """What is warned of these files while the block runs, by their owners' names for them; logs have these names, too.

    Args:
      names: of each file, by its path.
    """
    found: list[str] = []

    def rename(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        for path in filter(message.__contains__, names):
            record.msg, record.args = one_line(message.replace(path, names[path])), None
            found.append(record.msg)
            break
        return True

    logger.addFilter(rename)
    try:
        yield found
    finally:
        logger.removeFilter(rename)


def write_wav(path: Path, samples: np.ndarray, *, sampling_rate: int) -> None:
    """Write a mono wav file of 16 bits a sample; samples beyond -1..1 are scaled down together."""
    peak = max(1.0, float(np.abs(samples).max(initial=0.0)))
    wav = io.BytesIO()  # libsndfile itself would say no more than "System error" of a full disk
    soundfile.write(wav, samples / peak, sampling_rate, subtype="PCM_16", format="WAV")
    path.write_bytes(wav.getvalue())


def write_flac(path: Path, blocks: Iterable[np.ndarray], *, sampling_rate: int, comment: str = "") -> None:
    """Write a FLAC file of one channel and 16 bits a sample, whole or not at all.

    Args:
      path: of the file; its folder is made.
      blocks: samples, (num_samples,) each, from -1 to 1 or int16.
      sampling_rate: in Hz.
      comment: is stored with them.

    Raises:
      OSError: the disk is full or fails.
    """
    with (
        atomic_path(path) as temporary,
        system_errors(temporary),
        soundfile.SoundFile(temporary, "w", sampling_rate, 1, "PCM_16", format="FLAC") as file,
    ):
        if comment:
            file.comment = comment
        for block in blocks:
            file.write(block)


def _open(path: Path, *, max_seconds: float | None = None) -> AudioFile:
    file = open_audio(path, max_seconds=max_seconds)
    try:
        whole_rate(file.samplerate)
    except ValueError as error:
        file.close()
        raise ValueError(f"{path} has {error}") from None
    return file


def _weights(file: AudioFile, path: Path, channel: int | None, most: int | None = None) -> np.ndarray:
    """Weights (num_channels,) of the channels in the mono samples; reads the file once.

    Args:
      most: pieces that are read at most.
    """
    power, cancelled, peak, first = np.zeros(file.channels), 0.0, 0.0, 0
    for piece in islice(_pieces(file, path), most):
        if not np.isfinite(piece).all():
            at = (first + int(np.flatnonzero(~np.isfinite(piece).all(axis=1))[0])) / file.samplerate
            raise ValueError(f"{path} has a sample at {at:.2f} s that is not a number: write the file again")
        swing = piece - piece.mean(axis=0, dtype=np.float64)  # without the offset, which nobody hears
        here, mixed = np.square(swing).sum(axis=0), float(np.square(swing.mean(axis=1)).sum())
        power, cancelled = power + here, cancelled + here.sum() * (mixed < CANCELLED * here.sum() / file.channels**2)
        peak, first = max(peak, float(np.abs(piece).max())), first + len(piece)
    weights = np.full(file.channels, 1 / file.channels, dtype=np.float32)
    if channel is None and cancelled > LOST * power.sum():
        channel = int(power.argmax())
        logger.warning("%s: its channels cancel each other: channel %d is taken, the louder one", path, channel)
    if channel is not None:
        weights = np.eye(file.channels, dtype=np.float32)[channel]
    if peak <= LOUDEST_FLOAT:
        return weights
    scale = next((scale for scale in INTEGER_SCALES if peak <= scale), peak)
    logger.warning("%s: its samples reach %g instead of 1: they are divided by %g", path, peak, scale)
    return weights / np.float32(scale)


def _rewound(file: AudioFile, path: Path, max_seconds: float | None = None) -> AudioFile:
    try:
        file.seek(0)
    except ERRORS:  # after damage
        file.close()
        return open_audio(path, max_seconds=max_seconds)
    return file


def _blocks(file: AudioFile, path: Path, weights: np.ndarray, most: int | None = None) -> Iterator[np.ndarray]:
    length, held, total = BLOCK_SECONDS * file.samplerate, 0, 0
    parts: list[np.ndarray] = []
    with file:
        for piece in islice(_pieces(file, path), most):
            parts.append(piece @ weights)
            held, total = held + len(piece), total + len(piece)
            if held >= length:
                whole, full = np.concatenate(parts), held - held % length
                yield from np.split(whole[:full], full // length)
                parts, held = [whole[full:]], held - full
    if held:
        yield np.concatenate(parts)
    if most is None and file.announced is not None and total + CUT_OFF * file.samplerate < file.announced:
        logger.warning("%s", cut_off(path, total / file.samplerate, file.announced / file.samplerate))


def _pieces(file: AudioFile, path: Path) -> Iterator[np.ndarray]:
    """The samples (n, num_channels) up to the file's end, or to where it is damaged."""
    try:
        found = False
        while len(piece := file.read(PIECE, dtype="float32", always_2d=True)):
            yield piece
            found = True
    except ERRORS as error:
        if not found:
            raise ValueError(f"{path} cannot be read as audio: {error}") from error
