"""Corpora in miniature, in the layouts and formats of the real ones, made of real speech.

The speech is that of the asterisk recipe. Where a corpus has texts of its own kind, Mandarin or rows of yes and no,
such are given to these clips at random: nothing can be learned from them, but they go through the same programs.
"""

from __future__ import annotations

import itertools
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from shared_moe_conformer.data.features import resample

SENTENCES = "甚至出现交易几乎停滞的情况一二线城市虽然也处于调整中但因为聚集了过多公共资源为了规避三四线"
MADE = shutil.ignore_patterns("data", "download", "exp", "zoo", "__pycache__")
"""What a recipe's programs make in its folder."""
LIBRISPEECH_PARTS = {"train-clean-100": 12, "dev-clean": 3, "dev-other": 3, "test-clean": 3, "test-other": 3}
AISHELL_SPEAKERS = {"train": ("S0002", "S0003"), "dev": ("S0724",), "test": ("S0764",)}


class Clip(NamedTuple):
    """A recorded sentence."""

    path: Path
    text: str
    """In upper case, without punctuation."""


def write_speech(clip: Clip, path: Path, *, sampling_rate: int = 16000) -> None:
    """The clip in another format and at another rate."""
    samples, rate = soundfile.read(str(clip.path), dtype="float32")
    samples = np.clip(resample(samples, rate, sampling_rate) if rate != sampling_rate else samples, -1, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), samples, sampling_rate, subtype="PCM_16")


def librispeech(folder: Path, clips: Iterator[Clip]) -> Path:
    """LibriSpeech/<part>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac, and a .trans.txt in each chapter."""
    root = folder / "LibriSpeech"
    for index, (part, count) in enumerate(LIBRISPEECH_PARTS.items()):
        speaker, chapter = str(84 + index), str(121123 + index)
        lines = []
        for number, clip in enumerate(itertools.islice(clips, count)):
            name = f"{speaker}-{chapter}-{number:04}"
            write_speech(clip, root / part / speaker / chapter / f"{name}.flac")
            lines.append(f"{name} {clip.text}\n")
        (root / part / speaker / chapter / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
    (root / "SPEAKERS.TXT").write_text("; ID |SEX| SUBSET | MINUTES | NAME\n84 | F | train-clean-100 | 1 | A\n")
    return root


def aishell(folder: Path, clips: Iterator[Clip]) -> Path:
    """data_aishell/wav/<speaker>.tar.gz as distributed, and the transcripts of all, with words between spaces."""
    root = folder / "aishell" / "data_aishell"
    lines = []
    (root / "wav").mkdir(parents=True)
    numbers = itertools.count(121)
    for split, speakers in AISHELL_SPEAKERS.items():
        for speaker in speakers:
            for number in itertools.islice(numbers, 5):
                name = f"BAC009{speaker}W{number:04}"
                write_speech(next(clips), folder / "unpacked" / split / speaker / f"{name}.wav")
                start = (number * 7) % 30
                lines.append(f"{name} {SENTENCES[start : start + 3]} {SENTENCES[start + 3 : start + 8]}\n")
            with tarfile.open(root / "wav" / f"{speaker}.tar.gz", "w:gz") as tar:
                tar.add(folder / "unpacked" / split / speaker, arcname=f"{split}/{speaker}")
    (root / "transcript").mkdir()
    (root / "transcript/aishell_transcript_v0.8.txt").write_text("".join(lines), encoding="utf-8")
    return folder / "aishell"


def yesno(folder: Path, clips: Iterator[Clip]) -> Path:
    """waves_yesno: sixty recordings at 8 kHz whose names are their texts."""
    for number in range(60):
        name = "_".join(f"{(number * 37 + 11) % 256:08b}")
        write_speech(next(clips), folder / "waves_yesno" / f"{name}.wav", sampling_rate=8000)
    return folder / "waves_yesno"


def musan(folder: Path, clips: Iterator[Clip]) -> Path:
    """musan/{noise,music,speech}/<source>/*.wav, and the list of the music's genres."""
    root = folder / "musan"
    for name in ("noise/free-sound/noise-free-sound-0000", "speech/librivox/speech-librivox-0000",
                 "music/fma/music-fma-0000"):  # fmt: skip
        path = root / f"{name}.wav"
        parts = [soundfile.read(str(clip.path), dtype="float32")[0] for clip in itertools.islice(clips, 4)]
        path.parent.mkdir(parents=True)
        soundfile.write(str(path), resample(np.concatenate(parts), 8000, 16000), 16000, subtype="PCM_16")
    (root / "music/fma/ANNOTATIONS").write_text("music-fma-0000 rock,pop Y Somebody\n")
    return root


def own(folder: Path, clips: Iterator[Clip]) -> list[tuple[str, str]]:
    """Paths and texts of clips as wav, flac and ogg, every fourth of two channels, and of one that is too short."""
    rows = []
    for number, clip in enumerate(clips):
        samples, rate = soundfile.read(str(clip.path), dtype="float32")
        path = Path("sub folder") / f"clip {number}.{('wav', 'flac', 'ogg')[number % 3]}"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        channels = np.stack([0 * samples, samples], axis=1) if number % 4 == 0 else samples
        soundfile.write(str(folder / path), channels, rate)
        rows.append((str(path), clip.text.capitalize() + "."))
    soundfile.write(str(folder / "short.wav"), samples[:800], rate)
    return [*rows, ("short.wav", "too short")]


def kaldi(folder: Path, clips: list[Clip]) -> dict[str, Path]:
    """A Kaldi data folder for each split, half of the clips for training, with one recording and its segments."""
    half, quarter = len(clips) // 2, len(clips) // 4
    parts = {"train": clips[:half], "dev": clips[half : half + quarter], "test": clips[half + quarter :]}
    for split, its in parts.items():
        audio = [soundfile.read(str(clip.path), dtype="float32")[0] for clip in its]
        ends = np.cumsum([len(samples) for samples in audio]) / 8000
        (folder / split).mkdir(parents=True)
        soundfile.write(str(folder / split / "all.wav"), np.concatenate(audio), 8000)
        (folder / split / "wav.scp").write_text(f"rec-{split} {folder / split / 'all.wav'}\n")
        names = [f"{split}-{number}" for number in range(len(its))]
        (folder / split / "text").write_text("".join(f"{name} {clip.text}\n" for name, clip in zip(names, its)))
        starts = [0.0, *ends[:-1]]
        segments = (f"{n} rec-{split} {start:.3f} {end:.3f}\n" for n, start, end in zip(names, starts, ends))
        (folder / split / "segments").write_text("".join(segments))
        (folder / split / "utt2spk").write_text("".join(f"{name} allison\n" for name in names))
    return {split: folder / split for split in parts}
