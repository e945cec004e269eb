#!/usr/bin/env python3
"""Recordings, supervisions and cuts of AN4: the official test set, and a dev set of speakers taken from train.

The corpus has no development set; about a twelfth of the training utterances becomes one, with all that their speakers
said, so that dev tests new voices as test does. Raw files may be in either byte order; SPHERE files are read as well.

Source: Acero 1993, "Acoustical and environmental robustness in automatic speech recognition", Kluwer.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from lhotse import Recording
from tqdm import tqdm

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.data.manifests import supervise, write_split
from shared_moe_conformer.data.utterances import held_out
from shared_moe_conformer.speech.audio import write_flac

SAMPLING_RATE = 16000
DEV_SHARE = 0.08
"""Share of the training utterances."""
FORMATS = (".raw", ".sph")


class Utterance(NamedTuple):
    """A recording in the corpus and what is said in it."""

    id: str
    """The name of its file, such as an251-fash-b."""
    speaker: str
    path: Path
    text: str


def main() -> None:
    args = parser().parse_args()
    utterances = {split: read_split(args.corpus_dir / "an4", split) for split in ("train", "test")}
    for split, its in splits_of(utterances["train"], utterances["test"]).items():
        recordings = [convert(u, args.audio_dir) for u in tqdm(its, desc=split, unit="file")]
        said = [supervise(r, u.text, language="English", speaker=u.speaker) for r, u in zip(recordings, its)]
        write_split(recordings, said, split, args.output_dir)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--corpus-dir", type=Path, required=True, help="Holds an4/, in which etc/ and wav/ are.")
    result.add_argument("--audio-dir", type=Path, required=True, help="Folder to write FLAC files to.")
    result.add_argument("--output-dir", type=Path, required=True, help="Folder to write.")
    return result


def read_split(corpus: Path, split: str) -> list[Utterance]:
    """The utterances that etc/an4_<split>.fileids lists, in its order.

    Raises:
      FileNotFoundError: the list, the texts or a recording is missing.
      ValueError: list and texts name different utterances.
    """
    lists = [corpus / f"etc/an4_{split}.{kind}" for kind in ("fileids", "transcription")]
    for path in lists:
        if not path.is_file():
            raise FileNotFoundError(f"no {path}: --corpus-dir must be the folder of an4/, as CMU's archive has it")
    fileids, lines = (path.read_text(encoding="ascii").split("\n") for path in lists)
    names = [name.strip() for name in fileids if name.strip()]
    texts = dict(parse_line(line) for line in lines if line.strip())
    different = {name.rsplit("/", 1)[-1] for name in names} ^ texts.keys()
    require(not different, f"only one of {lists[0]} and {lists[1].name} names {', '.join(sorted(different)[:5])}")
    return [make_utterance(corpus, name, texts) for name in names]


def parse_line(line: str) -> tuple[str, str]:
    """Id and words of a line such as `<s> GO ++NOISE++ </s> (an253-fash-b)`."""
    match = re.fullmatch(r"(.*)\((\S+)\)\s*", line)
    if not match:
        raise ValueError(f"{line!r} is not a line `WORDS (id)` of a transcription")
    return match[2], normalise(match[1])


def normalise(text: str) -> str:
    """The words in upper case, without marks of noise and of the sentence's ends."""
    return " ".join(re.sub(r"\+\+\S*\+\+|<\S*>", " ", text).upper().split())


def make_utterance(corpus: Path, name: str, texts: dict[str, str]) -> Utterance:
    """The utterance of a name such as an4_clstk/fash/an251-fash-b."""
    paths = [path for suffix in FORMATS if (path := corpus / f"wav/{name}{suffix}").is_file()]
    if not paths:
        raise FileNotFoundError(f"no {corpus}/wav/{name}.raw or .sph: unpack CMU's archive again")
    _, speaker, its_id = name.split("/")
    return Utterance(its_id, speaker, paths[0], texts[its_id])


def splits_of(train: list[Utterance], test: list[Utterance]) -> dict[str, list[Utterance]]:
    """The official test set, and two parts of the official training set that share no speaker."""
    dev = held_out(Counter(utterance.speaker for utterance in train), DEV_SHARE)
    return {
        "train": [utterance for utterance in train if utterance.speaker not in dev],
        "dev": [utterance for utterance in train if utterance.speaker in dev],
        "test": test,
    }


def convert(utterance: Utterance, audio_dir: Path) -> Recording:
    """The recording of an utterance as a FLAC file, which is written."""
    path = audio_dir / utterance.speaker / f"{utterance.id}.flac"
    write_flac(path, [read_samples(utterance.path)], sampling_rate=SAMPLING_RATE)
    return Recording.from_file(path, recording_id=utterance.id)


def read_samples(path: Path) -> np.ndarray:
    """The samples of a raw or SPHERE file, as int16."""
    if path.suffix == ".raw":
        data = path.read_bytes()
        require(len(data) > 0 and len(data) % 2 == 0, f"{path} has {len(data)} bytes: unpack CMU's archive again")
        return min((np.frombuffer(data, order) for order in ("<i2", ">i2")), key=roughness).astype(np.int16)
    try:
        samples, rate = soundfile.read(str(path), dtype="int16")
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path} cannot be read ({error}): unpack CMU's archive again") from error
    require(rate == SAMPLING_RATE and samples.ndim == 1, f"{path} is not of one channel at {SAMPLING_RATE} Hz")
    return samples


def roughness(samples: np.ndarray) -> float:
    """Mean step from sample to sample, which is far larger in the wrong byte order."""
    return float(np.abs(np.diff(samples.astype(np.int32))).mean())


if __name__ == "__main__":
    run_main(main)
