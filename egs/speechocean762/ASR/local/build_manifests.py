#!/usr/bin/env python3
"""Recordings, supervisions and cuts of speechocean762: the official test set, and a dev set of speakers out of train.

The corpus has no development set; speakers who have a twelfth of the training utterances become one. Supervisions say
a speaker's gender and, in `custom`, the age. Texts stay as they come, in upper case.

Source: Zhang et al. 2021, "speechocean762: An open-source non-native English speech corpus for pronunciation
assessment", arXiv 2104.01378.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from lhotse import Recording, SupervisionSegment
from tqdm import tqdm

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.data.manifests import supervise, write_split
from shared_moe_conformer.data.utterances import held_out

DEV_SHARE = 0.08
"""Share of the training utterances."""
GENDERS = {"f": "female", "m": "male"}


class Utterance(NamedTuple):
    """A recording, what is read in it and by whom."""

    id: str
    path: Path
    text: str
    speaker: str
    gender: str
    age: int


def main() -> None:
    args = parser().parse_args()
    train, test = (read_split(args.corpus_dir, split) for split in ("train", "test"))
    dev = held_out(Counter(utterance.speaker for utterance in train), DEV_SHARE)
    splits = {
        "train": [utterance for utterance in train if utterance.speaker not in dev],
        "dev": [utterance for utterance in train if utterance.speaker in dev],
        "test": test,
    }
    for split, its in splits.items():
        recordings = [read_recording(utterance) for utterance in tqdm(its, desc=split, unit="file")]
        write_split(recordings, map(supervise_reading, recordings, its), split, args.output_dir)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--corpus-dir", type=Path, required=True, help="The folder speechocean762.")
    result.add_argument("--output-dir", type=Path, required=True, help="Folder to write.")
    return result


def read_split(corpus_dir: Path, split: str) -> list[Utterance]:
    """The utterances of a split, in the order of its wav.scp.

    Raises:
      FileNotFoundError: a list is missing.
      ValueError: an utterance or a speaker is not in all of them.
    """
    texts, paths, speakers = (read_list(corpus_dir / split / name) for name in ("text", "wav.scp", "utt2spk"))
    genders, ages = (read_list(corpus_dir / split / name) for name in ("spk2gender", "spk2age"))
    incomplete = (texts.keys() ^ paths.keys()) | (speakers.keys() ^ paths.keys())
    require(not incomplete, f"not in all lists of {corpus_dir / split}: {', '.join(sorted(incomplete)[:5])}")
    unknown = set(speakers.values()) - (genders.keys() & ages.keys())
    require(not unknown, f"no gender or age of speakers {', '.join(sorted(unknown)[:5])} in {corpus_dir / split}")
    return [
        Utterance(name, corpus_dir / path, texts[name], speaker, GENDERS[genders[speaker]], int(ages[speaker]))
        for name, path in paths.items()
        for speaker in [speakers[name]]
    ]


def read_list(path: Path) -> dict[str, str]:
    """The rest of each line by the name that it begins with, as in Kaldi."""
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: --corpus-dir must be the folder speechocean762, with train/ and test/")
    rows = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {name: value.strip() for name, value in rows}


def read_recording(utterance: Utterance) -> Recording:
    try:
        return Recording.from_file(utterance.path, recording_id=utterance.id)
    except Exception as error:  # every audio backend has its own
        raise ValueError(f"{utterance.path} is missing or not a readable wav file: unpack the corpus again") from error


def supervise_reading(recording: Recording, utterance: Utterance) -> SupervisionSegment:
    says = {"speaker": utterance.speaker, "gender": utterance.gender, "custom": {"age": utterance.age}}
    return supervise(recording, utterance.text, language="English", **says)


if __name__ == "__main__":
    run_main(main)
