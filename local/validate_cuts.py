#!/usr/bin/env python3
"""Refuse prepared cuts on which training or scoring would go wrong, naming each; exit status 1 if there are any.

Checks transcripts, durations, ids, and that no text or recording is in two splits; with --lang-dir also characters
that the tokenizer does not know and features with fewer frames after subsampling than their tokens need.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lhotse import CutSet
from tqdm import tqdm

from shared_moe_conformer.cli import run_main
from shared_moe_conformer.data import checks
from shared_moe_conformer.data.manifests import read_cuts
from shared_moe_conformer.data.tokenizer import Tokenizer


def main() -> None:
    args = parser().parse_args()
    tokenizer = Tokenizer.load(args.lang_dir) if args.lang_dir else None
    splits = {split: read_cuts(args.manifest_dir, split, recipe_dir=Path()) for split in args.splits}
    problems = find_problems(splits, tokenizer, args)
    for problem in problems[: args.max_shown]:
        print(problem)
    if len(problems) > args.max_shown:
        print(f"... and {len(problems) - args.max_shown} more")
    if problems:
        raise ValueError(
            f"{len(problems)} problems in {args.manifest_dir}: correct or drop these cuts where the recipe builds its "
            f"manifests (local/), then run ./prepare.sh --stage 1 --force true"
        )
    for split, cuts in splits.items():
        print(f"{split}: {len(cuts)} cuts, {sum(cut.duration for cut in cuts) / 60:.1f} minutes, no problems")


def find_problems(splits: dict[str, CutSet], tokenizer: Tokenizer | None, args: argparse.Namespace) -> list[str]:
    cuts = [cut for split in splits.values() for cut in split]
    kinds = [kind for kind in checks.OVERLAP_KINDS if kind != "text" or args.shared_texts == "refused"]
    problems = checks.check_duplicates(cuts) + checks.check_overlap(splits, kinds=kinds)
    for cut in tqdm(cuts, desc=f"checking {args.manifest_dir}", unit="cut"):
        problems += checks.check_cut(cut, tokenizer, min_duration=args.min_duration, max_duration=args.max_duration)
        if args.read_features:
            problems += checks.check_features(cut)
        if args.read_audio:
            problems += checks.check_audio(cut)
    return problems


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument(
        "--manifest-dir", type=Path, default=Path("data/fbank"), help="Folder of cuts_<split>.jsonl.gz."
    )
    result.add_argument("--splits", nargs="+", default=["train", "dev", "test"], help="Splits; no two may overlap.")
    result.add_argument("--shared-texts", choices=("refused", "allowed"), default="refused",
                        help="What is done with a text in two splits; official splits may have such.")  # fmt: skip
    result.add_argument("--lang-dir", type=Path, default=None, help="Folder of the tokenizer.")
    result.add_argument("--read-features", action="store_true", help="Read all features and look for NaN.")
    result.add_argument("--read-audio", action="store_true", help="Read all audio and look for damaged files.")
    result.add_argument("--min-duration", type=float, default=checks.MIN_DURATION, help="Shortest cut, in seconds.")
    result.add_argument("--max-duration", type=float, default=checks.MAX_DURATION, help="Longest cut, in seconds.")
    result.add_argument("--max-shown", type=int, default=20, help="Problems that are printed.")
    return result


if __name__ == "__main__":
    run_main(main)
