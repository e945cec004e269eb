#!/usr/bin/env python3
"""Recordings, supervisions and cuts from a recipe's utterances.tsv, which local/new_recipe.py wrote.

Recordings of several channels, or in other formats than wav and flac, become flac files of one channel.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lhotse import Recording, SupervisionSegment
from tqdm import tqdm

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.data.manifests import write_split
from shared_moe_conformer.data.recordings import TOLERANCE, make_recording
from shared_moe_conformer.data.utterances import SPLITS, Utterance, read_table


def main() -> None:
    args = parser().parse_args()
    utterances = read_table(args.table)
    recordings = {}
    for path, channel in tqdm(dict.fromkeys(map(source_of, utterances)), desc="recordings", unit="file"):
        if not (args.audio_dir / path).is_file():
            raise FileNotFoundError(f"no file {args.audio_dir / path}: where is the audio now? give --corpus-dir")
        name = path if channel is None else f"{path}#{channel}"
        audio = args.audio_dir / path
        recordings[path, channel] = make_recording(
            audio, recording_id=name, converted_dir=args.converted_dir, channel=channel
        )
    for split in SPLITS:
        chosen = [utterance for utterance in utterances if utterance.split == split]
        require(len(chosen) > 0, f"no utterance of {args.table} is in {split}: correct its split column")
        its_recordings = [recordings[source] for source in dict.fromkeys(map(source_of, chosen))]
        write_split(its_recordings, (supervise(u, recordings[source_of(u)]) for u in chosen), split, args.output_dir)


def source_of(utterance: Utterance) -> tuple[str, int | None]:
    """File and channel of an utterance."""
    return utterance.path, utterance.channel


def supervise(utterance: Utterance, recording: Recording) -> SupervisionSegment:
    """The supervision of an utterance; `ValueError`: its recording is now shorter."""
    require(
        utterance.start + utterance.duration <= recording.duration + TOLERANCE,
        f"{utterance.origin}: it ends at {utterance.start + utterance.duration:.2f} s, and {utterance.path} now has "
        f"{recording.duration:.2f} s: correct the line, or make the recipe again with local/new_recipe.py",
    )
    return SupervisionSegment(
        id=utterance.id,
        recording_id=recording.id,
        start=utterance.start,
        duration=min(utterance.duration, recording.duration - utterance.start),
        text=utterance.text,
        speaker=utterance.speaker or None,
    )


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--table", type=Path, default=Path("utterances.tsv"), help="The utterances.")
    result.add_argument("--audio-dir", type=Path, required=True, help="What the table's paths are relative to.")
    result.add_argument("--converted-dir", type=Path, default=Path("data/audio"), help="Folder for converted files.")
    result.add_argument("--output-dir", type=Path, default=Path("data/manifests"), help="Folder to write.")
    return result


if __name__ == "__main__":
    run_main(main)
