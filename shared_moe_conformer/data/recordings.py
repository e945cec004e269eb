"""Audio files of any kind: how long and how loud they are, what is wrong with them, and recordings of one channel."""

from __future__ import annotations

import hashlib
import math
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from lhotse import Recording
from lhotse.audio import AudioSource
from tqdm import tqdm

from shared_moe_conformer.data.replaced import conversion_comment, converted_from, is_replaced, source_of
from shared_moe_conformer.data.utterances import Utterance, refuse
from shared_moe_conformer.speech.audio import CUT_OFF, SUFFIXES, cut_off, examine, stream_audio, write_flac
from shared_moe_conformer.speech.containers import open_audio
from shared_moe_conformer.text import first_line

TOLERANCE = 0.1
"""Seconds by which a segment may end after its recording: its times may be rounded."""
FULL_SCALE = 0.999
"""Samples from here on are taken for clipped, where there are many."""
SILENCE_DB = -60.0
"""Frames of 10 ms below this, relative to full scale, are silent."""


class Level(NamedTuple):
    """The level of a recording's samples."""

    peak: float
    """Largest absolute value; 1 is full scale."""
    clipped_share: float
    """Share of samples at full scale."""
    silent_share: float
    """Share of frames of 10 ms that are silent."""


class Examined(NamedTuple):
    """The faults and the level of a recording, of which several cuts may be parts."""

    faults: list[tuple[str, str]]
    """Kind and message of each, as a `Problem` has them."""
    level: Level | None


def measure(utterances: Sequence[Utterance], audio_dir: Path) -> tuple[list[Utterance], int]:
    """The utterances with their durations, and the lowest sampling rate of their recordings in Hz.

    Raises:
      ValueError: files that are missing, cut off or cannot be read, or segments beyond their end; named.
    """
    lengths: dict[str, _Length | str] = {}
    measured, problems = [], []
    for utterance in tqdm(utterances, desc="opening recordings", unit="file"):
        path = _existing(utterance.path, audio_dir)
        if path not in lengths:
            lengths[path] = _length(audio_dir / path)
        length = lengths[path]
        if isinstance(length, str):
            problems.append(f"{utterance.origin}: {length}")
            continue
        problems += _beyond(utterance, length)
        end = min(length.seconds, utterance.start + (utterance.duration or math.inf))
        measured.append(utterance._replace(path=path, duration=round(end - utterance.start, 6)))
    refuse(problems)
    rates = [length.sampling_rate for length in lengths.values() if not isinstance(length, str)]
    return measured, min(rates, default=0)


def _beyond(utterance: Utterance, length: _Length) -> Iterator[str]:
    """Problems of an utterance that reaches beyond its recording, or names a channel that there is not."""
    origin, path, start, end = utterance.origin, utterance.path, utterance.start, utterance.start + utterance.duration
    if utterance.channel is not None and utterance.channel >= length.channels:
        yield f"{origin}: no channel {utterance.channel}: the channels of {path} are 0 to {length.channels - 1}"
    if start > length.seconds or end > length.seconds + TOLERANCE:
        beyond = f"starts at {start:.2f} s" if start > length.seconds else f"ends at {end:.2f} s"
        yield (
            f"{origin}: the segment {beyond}, after its recording: {path} has {length.seconds:.2f} s; correct its times"
        )


class _Length(NamedTuple):
    seconds: float
    sampling_rate: int
    channels: int


def _existing(path: str, audio_dir: Path) -> str:
    """The path in the form that its file's name has: tables may have another form of Unicode, or Windows' slashes."""
    slashed = path.replace("\\", "/")
    forms = (unicodedata.normalize(form, each) for each in (path, slashed) for form in ("NFC", "NFD"))
    return next((form for form in (path, slashed, *forms) if (audio_dir / form).is_file()), path)


def _length(path: Path) -> _Length | str:
    """Length of a file, or what is wrong with it."""
    if not path.is_file():
        return f"no file {path}: {_remedy(path)}"
    try:
        rate, length, announced, _ = examine(path)
        with open_audio(path) as file:
            channels = file.channels
    except ValueError as error:
        return str(error)
    if announced is not None:
        return f"{cut_off(path, length / rate, announced / rate)}: get it again, or leave it out"
    return _Length(length / rate, rate, channels)


def _remedy(path: Path) -> str:
    """What to do about a path at which there is no file."""
    names = [name for end in sorted(SUFFIXES) if path.with_name(name := path.name + end).is_file()]
    if names:
        return f"there is {names[0]}: write the name with its suffix"
    if re.search(r"(^|/)[a-z]{2,}:/", str(path)):
        return "a URL: get the file, and write its path"
    if re.search(r"(^|/)([A-Za-z]:)?\\|(^|/)[A-Za-z]:/", str(path)):
        return "a path of Windows: write it from the table's folder on, or from the one that you give as --audio-dir"
    return "correct the path, or give the folder that it begins at as --audio-dir"


def make_recording(path: Path, *, recording_id: str, converted_dir: Path, channel: int | None = None) -> Recording:
    """The recording of any file that `speech.audio` reads, of one of its channels or the mean of all.

    A file that is not plain (see `speech.audio.Examined`) becomes a FLAC file of one channel in `converted_dir`, which
    names its source as it is now. One that is there is taken again if its source has not been replaced since.

    Raises:
      ValueError: the file cannot be read.
    """
    found = examine(path)
    if not found.is_plain:
        name = str(path) if channel is None else f"{path}#{channel}"
        target = converted_dir / f"{hashlib.sha1(os.fsencode(name)).hexdigest()[:20]}.flac"
        converted = examine(_convert(path, target, channel))
        if (announced := found.announced or found.num_samples) > converted.num_samples + CUT_OFF * found.sampling_rate:
            message = cut_off(path, *(n / found.sampling_rate for n in (converted.num_samples, announced)))
            raise ValueError(f"{message}: get it again, or leave it out")
        path, found = target, converted
    source = AudioSource(type="file", channels=[0], source=str(path))
    rate, length = found.sampling_rate, found.num_samples
    return Recording(recording_id, [source], rate, length, length / rate)


def _convert(path: Path, target: Path, channel: int | None) -> Path:
    if (before := converted_from(target)) and not is_replaced(before, path):
        return target
    comment = conversion_comment(source_of(path))
    rate, blocks = stream_audio(path, channel=channel)
    write_flac(target, (np.clip(block, -1, 1) for block in blocks), sampling_rate=rate, comment=comment)
    return target


def examine_recording(recording: Recording) -> Examined:
    """The faults and the level of a recording, which is read from its beginning to its end."""
    source = recording.sources[0]
    try:
        samples = source.load_audio()
    except Exception as error:  # audio backends have their own
        return Examined([("unreadable", _why_unreadable(recording, error))], None)
    if not np.isfinite(samples).all():
        return Examined([("not finite", "recording holds NaN or infinity")], None)
    faults: list[tuple[str, str]] = []
    if not recording.transforms:  # otherwise the manifest says rate and length after these
        rate = soundfile.info(str(source.source)).samplerate if source.type == "file" else recording.sampling_rate
        if rate != recording.sampling_rate:  # everything would sound slower or faster than it was
            message = f"{source.source} is at {rate} Hz, its manifest says {recording.sampling_rate} Hz"
            faults.append(("sampling rate", message))
        if samples.shape[-1] != recording.num_samples:  # Lhotse itself mends up to 0.5 s in silence
            message = f"{source.source} has {samples.shape[-1]} samples, not {recording.num_samples}"
            faults.append(("length", message))
    if not np.any(samples):
        faults.append(("silence", "recording is digital silence"))
    return Examined(faults, measure_level(samples, recording.sampling_rate))


def _why_unreadable(recording: Recording, error: Exception) -> str:
    """Where a file is damaged, as our own reader finds, or else what Lhotse says."""
    source = recording.sources[0]
    if source.type == "file" and not recording.transforms:
        try:
            rate, blocks = stream_audio(Path(source.source))
            if (length := sum(map(len, blocks))) < recording.num_samples:
                place = f"damaged {length / rate:.2f} s after its beginning"
                return f"{source.source} cannot be read to its end: it is {place}; get it again, or leave it out"
        except (ValueError, OSError) as reason:
            return first_line(reason)
    return f"{source.source} cannot be read ({first_line(error)})"


def measure_level(samples: np.ndarray, sampling_rate: int) -> Level:
    """The level of finite samples (channels, samples)."""
    size = np.abs(samples)
    length = max(sampling_rate // 100, 1)
    frames = size[..., : size.shape[-1] // length * length].reshape(-1, length)
    power = np.square(frames, dtype=np.float64).mean(axis=1) if len(frames) else np.zeros(1)
    clipped = np.count_nonzero(size >= FULL_SCALE) / max(size.size, 1)
    silent = float((power < 10 ** (SILENCE_DB / 10)).mean())
    return Level(float(size.max(initial=0.0)), clipped, silent)
