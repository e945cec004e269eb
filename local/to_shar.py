#!/usr/bin/env python3
"""Write prepared cuts into Lhotse's Shar, shard by shard: data/manifests/cuts_train.jsonl.gz -> data/shar/train/.

The cuts are shuffled first. Shards that are there already are not written again; all are read whole. Run it in the
recipe's folder; `./train.py --train-cuts data/shar/train` then trains on them.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from lhotse.cut import Cut
from tqdm import tqdm

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.data.manifests import StoredCuts, cuts_path, iterate_cut_file
from shared_moe_conformer.data.shar import write_shard
from shared_moe_conformer.device import in_order, processes

FORMATS = {"recording": ("none", "flac", "opus", "wav", "mp3"), "features": ("none", "lilcom", "numpy")}
Task = tuple[int, Sequence[Cut]]
"""The number of a shard, and its cuts."""


def main() -> None:
    args = parser().parse_args()
    fields = {field: getattr(args, field) for field in FORMATS if getattr(args, field) != "none"}
    require(bool(fields), "nothing to write: give --recording or --features a format")
    for name in ("num_jobs", "cuts_per_shard", "num_pieces"):
        require(getattr(args, name) >= 1, f"{name} is {getattr(args, name)}: give 1 or more")
    require(1 <= args.piece <= args.num_pieces, f"piece is {args.piece}: give 1 to {args.num_pieces}")
    for split in args.splits:
        convert(split, fields, args)


def convert(split: str, fields: Mapping[str, str], args: argparse.Namespace) -> None:
    """Write the shards of a split that belong to this piece, and check them."""
    cuts = StoredCuts(iterate_cut_file(cuts_path(args.manifest_dir, split), recipe_dir=Path()))
    order = np.random.default_rng(args.seed).permutation(len(cuts)).tolist()
    shards = [order[begin : begin + args.cuts_per_shard] for begin in range(0, len(order), args.cuts_per_shard)]
    numbers = range(args.piece - 1, len(shards), args.num_pieces)
    directory = args.output_dir / split
    directory.mkdir(parents=True, exist_ok=True)
    tasks = ((number, [cuts[index] for index in shards[number]]) for number in numbers)
    write = functools.partial(write_task, directory=directory, fields=fields)
    with processes(args.num_jobs) as workers:
        shards_written = in_order(write, tasks, workers, ahead=2 * args.num_jobs)
        written = list(tqdm(shards_written, desc=f"shards of {split}", total=len(numbers), unit="shard"))
    its = [index for number in numbers for index in shards[number]]
    print(
        f"{split}: {len(its)} cuts, {cuts.durations[its].sum() / 60:.1f} minutes, in {len(numbers)} of {len(shards)} "
        f"shards in {directory}; {written.count(False)} were there"
    )


def write_task(task: Task, *, directory: Path, fields: Mapping[str, str]) -> bool:
    number, cuts = task
    torch.set_num_threads(1)
    return write_shard(cuts, directory, number, fields)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--manifest-dir", type=Path, default=Path("data/manifests"), help="Folder of the cuts.")
    result.add_argument("--output-dir", type=Path, default=Path("data/shar"), help="Folder of the splits' folders.")
    result.add_argument("--splits", nargs="+", default=["train"], help="Splits to write.")
    result.add_argument(
        "--recording", choices=FORMATS["recording"], default="flac", help="Format of audio; opus and mp3 lose some."
    )
    result.add_argument(
        "--features", choices=FORMATS["features"], default="none", help="Format of the cuts' stored features."
    )
    result.add_argument("--cuts-per-shard", type=int, default=1000, help="Cuts in a shard.")
    result.add_argument("--seed", type=int, default=42, help="Seed of the order of the cuts.")
    result.add_argument("--num-jobs", type=int, default=1, help="Processes.")
    result.add_argument("--num-pieces", type=int, default=1, help="Number of machines; each writes its own shards.")
    result.add_argument("--piece", type=int, default=1, help="Number of this machine, from 1.")
    return result


if __name__ == "__main__":
    run_main(main)
