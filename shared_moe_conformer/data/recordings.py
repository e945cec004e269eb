"""Audio files of any kind that libsndfile reads, as recordings of one channel."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from lhotse import Recording
from lhotse.audio import AudioSource
from tqdm import tqdm

from shared_moe_conformer.data.checks import MAX_CHARACTERS_PER_SECOND
from shared_moe_conformer.data.utterances import Utterance, refuse

TAKEN_AS_THEY_ARE = ("WAV", "WAVEX", "FLAC")
"""Formats that every program reads alike; others are converted."""
SLOWEST, FASTEST = 0.9, 1.1
"""Speeds of the copies that training makes."""
TOLERANCE = 0.1
"""Seconds by which a segment may end after its recording, as rounded times do."""


def measure(utterances: Sequence[Utterance], audio_dir: Path) -> list[Utterance]:
    """The utterances with their durations.

    Raises:
      ValueError: files that are missing or cannot be read, or segments beyond their end; named.
    """
    lengths: dict[str, float | str] = {}
    measured, problems = [], []
    for utterance in tqdm(utterances, desc="opening recordings", unit="file"):
        if utterance.path not in lengths:
            lengths[utterance.path] = _seconds(audio_dir / utterance.path)
        length = lengths[utterance.path]
        if isinstance(length, str):
            problems.append(f"{utterance.origin}: {length}")
            continue
        duration = utterance.duration or length - utterance.start
        if utterance.start + duration > length + TOLERANCE:
            problems.append(f"{utterance.origin}: the segment ends after its recording, which has {length:.2f} s")
        end = min(length, utterance.start + duration)
        measured.append(utterance._replace(duration=round(end - utterance.start, 6)))
    refuse(problems)
    return measured


def reason_to_drop(utterance: Utterance, *, min_duration: float, max_duration: float) -> str | None:
    """Why an utterance cannot be trained on or scored; None where it can."""
    if not min_duration <= utterance.duration <= max_duration:
        return f"{utterance.duration:.2f} s long, not {min_duration:g} to {max_duration:g}"
    if len(utterance.text) * FASTEST > MAX_CHARACTERS_PER_SECOND * utterance.duration:
        return f"{len(utterance.text)} characters cannot be said in {utterance.duration:.2f} s"
    return None


def make_recording(path: Path, *, recording_id: str, converted_dir: Path) -> Recording:
    """The recording of a file; one of several channels or of another format becomes a FLAC file of their mean.

    Args:
      path: any file that libsndfile reads.
      recording_id: of the recording.
      converted_dir: where files are converted to; one that is newer than its source is taken as it is.

    Raises:
      ValueError: the file cannot be read.
    """
    try:
        info = soundfile.info(str(path))
        if info.channels > 1 or info.format not in TAKEN_AS_THEY_ARE:
            path = _convert(path, converted_dir / f"{hashlib.sha1(str(path).encode()).hexdigest()[:20]}.flac")
            info = soundfile.info(str(path))
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path} cannot be read ({error}): convert it to wav or flac") from error
    source = AudioSource(type="file", channels=[0], source=str(path))
    return Recording(recording_id, [source], info.samplerate, info.frames, info.frames / info.samplerate)


def _seconds(path: Path) -> float | str:
    """Length of a file, or what is wrong with it."""
    if not path.is_file():
        return f"no file {path}: correct the path, or give the folder that it begins at as --audio-dir"
    try:
        info = soundfile.info(str(path))
    except soundfile.LibsndfileError as error:
        return f"{path} cannot be read ({' '.join(str(error).split())}): convert it to wav or flac"
    return info.frames / info.samplerate


def _convert(path: Path, target: Path) -> Path:
    if target.is_file() and target.stat().st_mtime >= path.stat().st_mtime:
        return target
    samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    soundfile.write(str(temporary), np.clip(samples.mean(axis=1), -1, 1), rate, format="FLAC", subtype="PCM_16")
    os.replace(temporary, target)
    return target
