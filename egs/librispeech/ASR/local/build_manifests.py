#!/usr/bin/env python3
"""Recordings, supervisions and cuts of LibriSpeech: its training parts together as train, each other part as it is.

The files are read by Lhotse's prepare_librispeech. Texts stay as they come, in upper case.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lhotse.recipes import prepare_librispeech

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.data.manifests import write_split


def main() -> None:
    args = parser().parse_args()
    parts = [*args.train_parts, *args.test_parts]
    for part in parts:
        require_transcripts(args.corpus_dir, part)
    prepared = prepare_librispeech(args.corpus_dir, dataset_parts=parts, num_jobs=args.num_jobs)
    splits = {"train": args.train_parts} | {part: [part] for part in args.test_parts}
    for split, its_parts in splits.items():
        recordings = [recording for part in its_parts for recording in prepared[part]["recordings"]]
        supervisions = [supervision for part in its_parts for supervision in prepared[part]["supervisions"]]
        expected = sum(count_transcripts(args.corpus_dir, part) for part in its_parts)
        require(
            len(supervisions) == expected,
            f"{expected - len(supervisions)} of {expected} recordings of {', '.join(its_parts)} are missing or cannot "
            f"be read: unpack these parts again into {args.corpus_dir}",
        )
        supervisions.sort(key=lambda supervision: supervision.id)  # not as the file system lists them
        write_split(recordings, supervisions, split, args.output_dir)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--corpus-dir", type=Path, required=True, help="The folder LibriSpeech.")
    result.add_argument("--output-dir", type=Path, required=True, help="Folder to write.")
    result.add_argument("--train-parts", nargs="+", required=True, help="Parts of the split train.")
    result.add_argument("--test-parts", nargs="+", required=True, help="Parts that are splits of their own.")
    result.add_argument("--num-jobs", type=int, default=1, help="Threads that open recordings.")
    return result


def require_transcripts(corpus_dir: Path, part: str) -> None:
    """Refuse a corpus without this part."""
    if not any((corpus_dir / part).rglob("*.trans.txt")):
        raise FileNotFoundError(
            f"no transcripts in {corpus_dir / part}: --corpus-dir must be the folder LibriSpeech and hold {part}"
        )


def count_transcripts(corpus_dir: Path, part: str) -> int:
    """The number of utterances with a text of a part of the corpus."""
    files = (corpus_dir / part).rglob("*.trans.txt")
    return sum(1 for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip())


if __name__ == "__main__":
    run_main(main)
