#!/usr/bin/env python3
"""Name prepared cuts on which training or scoring would go wrong; exit status 1 if there are any.

Checks transcripts, durations, ids, and that no text or recording is in two splits; with --lang-dir also characters
that the tokenizer does not know and features with fewer frames after subsampling than their tokens need. All that
was found is in checks.txt and checks.png beside the cuts, and so are notices: clipped or mostly silent recordings,
and marks in texts.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

from lhotse import CutSet, Recording
from tqdm import tqdm

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.data import checks, recordings
from shared_moe_conformer.data.check_report import CheckReport, facts_of, write_report
from shared_moe_conformer.data.checks import Problem
from shared_moe_conformer.data.manifests import cuts_path, read_cuts, write_manifest
from shared_moe_conformer.data.marks import listed
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.text import counted

TABLE = "utterances.tsv"
"""The corpus of a recipe that `new_recipe.py` made, in the recipe's folder."""


def main() -> None:
    args = parser().parse_args()
    tokenizer = Tokenizer.load(args.lang_dir) if args.lang_dir else None
    splits = {split: read_cuts(args.manifest_dir, split, recipe_dir=Path()) for split in args.splits}
    found = examine(splits, tokenizer, args)
    report, picture = write_report(found, args.manifest_dir)
    show(found.problems, args.max_shown)
    print(f"wrote {report} and {picture}")
    if marks := [mark for fact in found.facts for mark in fact.marks]:
        print(f"texts have marks that may be no words: {listed(marks)}; {report} names the cuts")
    if args.drop_faulty:
        splits, left = drop_faulty(splits, found.problems, args)
        found = found._replace(problems=left)
    if found.problems:
        place = f"in {TABLE}" if Path(TABLE).is_file() else "where the recipe builds its manifests (local/)"
        raise ValueError(
            f"{counted(len(found.problems), 'problem')} in {args.manifest_dir}, see checks.txt there: correct or drop "
            f"these cuts {place}, then run ./prepare.sh --stage 1 --force true; or leave those of the training split "
            "out with ./prepare.sh --drop-faulty true"
        )
    for split, cuts in splits.items():
        print(f"{split}: {len(cuts)} cuts, {sum(cut.duration for cut in cuts) / 60:.1f} minutes, no problems")


def examine(splits: dict[str, CutSet], tokenizer: Tokenizer | None, args: argparse.Namespace) -> CheckReport:
    cuts = [(split, cut) for split, part in splits.items() for cut in part]
    kinds = [kind for kind in checks.OVERLAP_KINDS if kind != "text" or args.shared_texts == "refused"]
    compared = {split: part for split, part in splits.items() if split not in args.whole_splits}
    problems = checks.check_duplicates(cut for _, cut in cuts) + checks.check_overlap(compared, kinds=kinds)
    facts, known, read = [], dict[Any, recordings.Examined](), sample(splits, args.sample)
    for split, cut in tqdm(cuts, desc=f"checking {args.manifest_dir}", unit="cut"):
        longest = float("inf") if split in args.whole_splits else args.max_duration
        problems += checks.check_cut(cut, tokenizer, min_duration=args.min_duration, max_duration=longest)
        if args.read_features and (split, cut.id) in read:
            problems += checks.check_features(cut)
        is_heard = args.read_audio and (split, cut.id) in read
        audio = examine_audio(cut.recording, known) if is_heard else recordings.Examined([], None)
        problems += [Problem(cut.id, *fault) for fault in audio.faults]
        facts.append(facts_of(cut, split, tokenizer, audio.level))
    return CheckReport(facts, problems)


def sample(splits: dict[str, CutSet], size: int) -> set[tuple[str, str]]:
    """Split and id of the cuts that are read whole: the same number of each split, always the same; 0: all cuts."""
    ids = {split: [cut.id for cut in cuts] for split, cuts in splits.items()}
    rng = random.Random(0)
    chosen = {split: rng.sample(part, min(size, len(part))) if size else part for split, part in ids.items()}
    return {(split, cut_id) for split, part in chosen.items() for cut_id in part}


def examine_audio(recording: Recording, known: dict[Any, recordings.Examined]) -> recordings.Examined:
    """Faults and level of a recording; it is read once, even if many cuts are parts of it."""
    name = recording.id, recording.sources[0].source
    if name not in known:
        known[name] = recordings.examine_recording(recording)
    return known[name]


def show(problems: list[Problem], max_shown: int) -> None:
    for problem in problems[:max_shown]:
        print(problem)
    if len(problems) > max_shown:
        print(f"... and {len(problems) - max_shown} more")


def drop_faulty(
    splits: dict[str, CutSet], problems: list[Problem], args: argparse.Namespace
) -> tuple[dict[str, CutSet], list[Problem]]:
    """Write the first split, the one that is trained on, without its faulty cuts; the splits, and what is left."""
    train = args.splits[0]
    faulty = {problem.cut_id for problem in problems}
    good = [cut for cut in splits[train] if cut.id not in faulty]
    dropped = {cut.id for cut in splits[train]} & faulty
    require(
        len(dropped) <= args.max_dropped_share * len(splits[train]),
        f"{len(dropped)} of {len(splits[train])} cuts of {train} are faulty, more than --max-dropped-share "
        f"{args.max_dropped_share:g}: look for the reason in {args.manifest_dir}/checks.txt",
    )
    if dropped:
        write_manifest(CutSet.from_cuts(good), cuts_path(args.manifest_dir, train))
        print(f"LEFT OUT of {train}: {len(dropped)} of {len(splits[train])} cuts: {', '.join(sorted(dropped))}")
    elsewhere = {cut.id for split in args.splits[1:] for cut in splits[split]}
    left = [problem for problem in problems if problem.cut_id not in dropped or problem.cut_id in elsewhere]
    return {**splits, train: CutSet.from_cuts(good)}, left


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument(
        "--manifest-dir", type=Path, default=Path("data/fbank"), help="Folder of cuts_<split>.jsonl.gz."
    )
    result.add_argument("--splits", nargs="+", default=["train", "dev", "test"], help="Splits; no two may overlap.")
    result.add_argument("--shared-texts", choices=("refused", "allowed"), default="refused",
                        help="Treatment of a text in two splits; official splits may have such texts.")  # fmt: skip
    result.add_argument("--lang-dir", type=Path, default=None, help="Folder of the tokenizer.")
    result.add_argument("--read-features", action="store_true", help="Read all features and look for NaN.")
    result.add_argument("--read-audio", action="store_true", help="Read all audio and look for damaged files.")
    result.add_argument(
        "--sample", type=int, default=0, help="How many cuts of each split to read, audio and features; 0: all."
    )
    result.add_argument("--min-duration", type=float, default=checks.MIN_DURATION, help="Shortest cut, in seconds.")
    result.add_argument("--whole-splits", nargs="*", default=[],
                        help="Splits with cuts of any length; other splits may hold their segments.")  # fmt: skip
    result.add_argument("--max-duration", type=float, default=checks.MAX_DURATION, help="Longest cut, in seconds.")
    result.add_argument("--drop-faulty", action="store_true",
                        help="Leave faulty cuts out of the first split, the training's, and name them.")  # fmt: skip
    result.add_argument("--max-dropped-share", type=float, default=0.1, help="Share of it that may be left out.")
    result.add_argument("--max-shown", type=int, default=20, help="Problems that are printed.")
    return result


if __name__ == "__main__":
    run_main(main)
