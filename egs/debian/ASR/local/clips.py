"""Recorded clips with their texts, and how they become manifests in splits that share no text."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from lhotse import Recording
from tqdm import tqdm

from shared_moe_conformer.cli import ShowDefaults
from shared_moe_conformer.data.features import resample
from shared_moe_conformer.data.manifests import supervise, write_split
from shared_moe_conformer.data.normalisation import normalise
from shared_moe_conformer.data.utterances import SPLITS, split_of
from shared_moe_conformer.speech.audio import write_flac

MIN_DURATION, MAX_DURATION = 0.3, 26.0
"""Seconds."""
MAX_CHARACTERS_PER_SECOND = 22.0
"""More than anybody says; even at 1.1 times the speed each has one of the encoder's 25 frames a second."""
RULES = {
    "a number that can be read in several ways": r"\d",
    "a note in brackets, which may be spoken or not": r"[()\[\]{}<>]",
    "a symbol that can be read in several ways": r"[%&+@#$*=/\\|~^_]",
}


class Clip(NamedTuple):
    """A recording of one utterance."""

    id: str
    path: Path
    text: str
    """As the package gives it."""
    language: str
    """A code."""
    speaker: str


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options of a program that prepares one package."""
    result = argparse.ArgumentParser(description=description, formatter_class=ShowDefaults)
    result.add_argument("--corpus-dir", type=Path, required=True, help="Holds the package's usr/ folder.")
    result.add_argument("--audio-dir", type=Path, required=True, help="Folder to write FLAC files to.")
    result.add_argument("--sampling-rate", type=int, required=True, help="Of the FLAC files, in Hz.")
    result.add_argument("--output-dir", type=Path, required=True, help="Folder to write.")
    return result


def write_splits(clips: Sequence[Clip], args: argparse.Namespace) -> None:
    """Write FLAC files and manifests of the usable clips, and print how many are not, and why.

    Args:
      args: of `parser`.
    """
    kept, dropped = [], Counter[str]()
    for clip in tqdm(clips, desc="recordings", unit="file"):
        reason = reason_to_drop(clip.text)
        reason = reason or doubt_of_length(clip.text, soundfile.info(str(clip.path)).duration)
        if reason:
            dropped[reason] += 1
            continue
        path = args.audio_dir / f"{clip.id}.flac"
        write_flac(path, [mono_at(args.sampling_rate, clip.path)], sampling_rate=args.sampling_rate)
        recording = Recording.from_file(path, recording_id=clip.id)
        text = normalise(clip.text, "lower", language=clip.language)
        kept.append((recording, supervise(recording, text, language=clip.language, speaker=clip.speaker)))
    print(f"{len(clips)} clips, {len(kept)} usable; left out:")
    for reason, count in dropped.most_common():
        print(f"  {count}: {reason}")
    for split in SPLITS:
        chosen = [(recording, says) for recording, says in kept if split_of(says.text) == split]
        write_split((recording for recording, _ in chosen), (says for _, says in chosen), split, args.output_dir)


def reason_to_drop(text: str) -> str | None:
    """Why nobody can tell from a text what is said; None where one can."""
    if not normalise(text, "lower"):
        return "no words"
    return next((reason for reason, pattern in RULES.items() if re.search(pattern, text)), None)


def doubt_of_length(text: str, duration: float) -> str | None:
    """Why a clip cannot say its text, or cannot be used."""
    if not MIN_DURATION <= duration <= MAX_DURATION:
        return f"shorter than {MIN_DURATION:g} or longer than {MAX_DURATION:g} s"
    return "more text than can be said in its time" if len(text) > MAX_CHARACTERS_PER_SECOND * duration else None


def mono_at(rate: int, source: Path) -> np.ndarray:
    """The mean of a recording's channels at another rate."""
    samples, source_rate = soundfile.read(str(source), dtype="float32", always_2d=True)
    mono = resample(samples.mean(axis=1), source_rate, rate)
    return mono / max(1.0, float(np.abs(mono).max(initial=0.0)))  # resampling can overshoot
