#!/usr/bin/env python3
"""Name, in a line, audio files that were replaced after their features were computed; without them print nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.data.replaced import replaced_files, told


def main() -> None:
    args = parser().parse_args()
    records = sorted(args.manifest_dir.glob("audio_*.jsonl"))
    if replaced := [name for record in records for name in replaced_files(record, recipe_dir=Path())]:
        print(told(list(dict.fromkeys(replaced))))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--manifest-dir", type=Path, default=Path("data/fbank"), help="Folder of the features' cuts.")
    return result


if __name__ == "__main__":
    run_main(main)
