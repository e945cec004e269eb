"""Audio files of any kind as recordings of one channel."""

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
from shared_moe_conformer.speech.audio import examine, stream_audio

SLOWEST, FASTEST = 0.9, 1.1
"""Speeds of the copies that training makes."""
TOLERANCE = 0.1
"""Seconds by which a segment may end after its recording, as rounded times do."""


def measure(utterances: Sequence[Utterance], audio_dir: Path) -> list[Utterance]:
    """The utterances with their durations.

    Raises:
      ValueError: files that are missing, cut off or cannot be read, or segments beyond their end; named.
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
    """The recording of a file; one that is not plain (see `speech.audio.Examined`) becomes a FLAC file of one channel.

    Args:
      path: any file that `speech.audio` reads.
      recording_id: the recording's id.
      converted_dir: folder of converted files; one that is newer than its source is taken as it is.

    Raises:
      ValueError: the file cannot be read.
    """
    found = examine(path)
    if not found.is_plain:
        path = _convert(path, converted_dir / f"{hashlib.sha1(str(path).encode()).hexdigest()[:20]}.flac")
        found = examine(path)
    source = AudioSource(type="file", channels=[0], source=str(path))
    rate, length = found.sampling_rate, found.num_samples
    return Recording(recording_id, [source], rate, length, length / rate)


def _seconds(path: Path) -> float | str:
    """Length of a file, or what is wrong with it."""
    if not path.is_file():
        return f"no file {path}: correct the path, or give the folder that it begins at as --audio-dir"
    try:
        rate, length, announced, _ = examine(path)
    except ValueError as error:
        return str(error)
    if announced is not None:
        return f"{path} is cut off, {length / rate:.2f} s of {announced / rate:.2f} s: get it again, or leave it out"
    return length / rate


def _convert(path: Path, target: Path) -> Path:
    if target.is_file() and target.stat().st_mtime >= path.stat().st_mtime:
        return target
    rate, blocks = stream_audio(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    with soundfile.SoundFile(str(temporary), "w", rate, 1, format="FLAC", subtype="PCM_16") as file:
        for block in blocks:
            file.write(np.clip(block, -1, 1))
    os.replace(temporary, target)
    return target
