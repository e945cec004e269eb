#!/usr/bin/env python3
"""Kaldi folders, which ESPnet reads, of a recipe's manifests: wav.scp, text and utt2spk of each split."""

from __future__ import annotations

import argparse
from pathlib import Path

from lhotse import CutSet

from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.data.manifests import read_cuts

SPLITS = ("train", "dev", "test")


def main() -> None:
    args = parser().parse_args()
    for split in SPLITS:
        write_folder(read_cuts(args.recipe / "data/manifests", split, recipe_dir=args.recipe), args.output_dir / split)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--recipe", type=Path, default=Path("../ASR"), help="Folder whose data/manifests is read.")
    result.add_argument("--output-dir", type=Path, default=Path("data"), help="Folder to write.")
    return result


def write_folder(cuts: CutSet, folder: Path) -> None:
    """One line an utterance in each file, in the order of their names.

    Args:
      cuts: whole recordings with one supervision each.
      folder: to write.
    """
    lines: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
    for cut in sorted(cuts, key=lambda cut: cut.id):
        supervision = cut.supervisions[0]
        lines["wav.scp"].append(f"{cut.id} {Path(cut.recording.sources[0].source).resolve()}\n")
        lines["text"].append(f"{cut.id} {supervision.text}\n")
        lines["utt2spk"].append(f"{cut.id} {supervision.speaker}\n")
    folder.mkdir(parents=True, exist_ok=True)
    for name, its in lines.items():
        write_whole(folder / name, "".join(its))


if __name__ == "__main__":
    run_main(main)
