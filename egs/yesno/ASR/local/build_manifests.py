#!/usr/bin/env python3
"""Recordings, supervisions and cuts of yesno: train and test as in Kaldi's recipe, and a dev split taken from train.

The files are read by Lhotse's prepare_yesno: in the order of their names every other recording is for testing. There is
no development set, so the 3rd, 9th, 15th, 21st and 27th of the 30 training recordings become one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lhotse import SupervisionSegment
from lhotse.recipes import prepare_yesno

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.data.manifests import write_split

NUM_RECORDINGS = 60
DEV_EVERY, DEV_FIRST = 6, 2


def main() -> None:
    args = parser().parse_args()
    count = len(list(args.corpus_dir.glob("*.wav")))
    if count != NUM_RECORDINGS:
        raise FileNotFoundError(
            f"{count} wav files in {args.corpus_dir}, not {NUM_RECORDINGS}: --corpus-dir must be the folder waves_yesno"
        )
    prepared = prepare_yesno(args.corpus_dir)
    for split, supervisions in make_splits(prepared).items():
        wanted = {supervision.recording_id for supervision in supervisions}
        recordings = [r for part in prepared.values() for r in part["recordings"] if r.id in wanted]
        write_split(recordings, supervisions, split, args.output_dir)


def make_splits(prepared: dict) -> dict[str, list[SupervisionSegment]]:
    """The supervisions of train, dev and test."""
    both = sorted(prepared["train"]["supervisions"], key=lambda supervision: supervision.id)
    dev = both[DEV_FIRST::DEV_EVERY]
    held_out = {supervision.id for supervision in dev}
    train = [supervision for supervision in both if supervision.id not in held_out]
    return {"train": train, "dev": dev, "test": list(prepared["test"]["supervisions"])}


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--corpus-dir", type=Path, required=True, help="The folder waves_yesno.")
    result.add_argument("--output-dir", type=Path, required=True, help="Folder to write.")
    return result


if __name__ == "__main__":
    run_main(main)
