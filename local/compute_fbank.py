#!/usr/bin/env python3
"""Compute the features of prepared cuts: data/manifests/cuts_*.jsonl.gz -> data/fbank/cuts_*.jsonl.gz.

Run it in the recipe's folder; the manifests then hold paths relative to it. Several machines that share the folder can
each compute a piece; a run without --num-pieces then writes the manifests. Files that are finished are not made again.
With --dask a Dask cluster computes them; each of its machines must have this folder at the same path.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lhotse import CutSet, combine

from shared_moe_conformer.cli import ShowDefaults, add_flags, apply_flags, run_main
from shared_moe_conformer.config import FeatureConfig, require
from shared_moe_conformer.data.feature_files import store_features
from shared_moe_conformer.data.manifests import cuts_path
from shared_moe_conformer.data.sources import Manifest


def main() -> None:
    args = parser().parse_args()
    require(args.num_jobs >= 1, f"num_jobs is {args.num_jobs}: give 1 or more")
    require(1 <= args.piece <= args.num_pieces, f"piece is {args.piece}: give 1 to {args.num_pieces}")
    require(0 <= args.coded_share <= 1, f"coded_share is {args.coded_share}: give 0 to 1")
    config = apply_flags(FeatureConfig(), args)
    with dask_cluster(args.dask, args.num_jobs) as executor:
        for split in args.splits:
            cuts = CutSet(Manifest(split, cuts_path(args.manifest_dir, split), recipe_dir=Path()))
            speeds, coded_share = (args.speeds, args.coded_share) if split in args.perturbed_splits else ([], 0.0)
            done = store_features(
                combine([cuts, *(cuts.perturb_speed(speed) for speed in speeds)]),
                split,
                directory=args.output_dir,
                config=config,
                num_jobs=args.num_jobs,
                exact=split in args.exact_splits,
                coded_share=coded_share,
                piece=args.piece - 1,
                num_pieces=args.num_pieces,
                executor=executor,
            )
            piece = f" of piece {args.piece} of {args.num_pieces}" if args.num_pieces > 1 else ""
            print(f"{split}: {len(done)} cuts{piece}, {sum(cut.duration for cut in done) / 60:.1f} minutes")


@contextmanager
def dask_cluster(address: str, num_jobs: int) -> Iterator[Executor | None]:
    """The executor of a Dask cluster; None where no address is given.

    Raises:
      ValueError: dask.distributed is not installed, or no scheduler answers there.
    """
    if not address:
        yield None
        return
    try:
        from dask.distributed import Client, LocalCluster
    except ImportError as error:
        raise ValueError("--dask needs dask.distributed: pip install 'dask[distributed]'") from error
    with ExitStack() as stack:
        if address == "local":
            options = {"n_workers": num_jobs, "threads_per_worker": 1, "dashboard_address": None}
            address = stack.enter_context(LocalCluster(**options))
        try:
            client = stack.enter_context(Client(address))
        except OSError as error:
            raise ValueError(f"--dask {address}: no scheduler answers there: start one, or give local") from error
        yield client.get_executor(pure=False)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--manifest-dir", type=Path, default=Path("data/manifests"), help="Folder of the raw cuts.")
    result.add_argument("--output-dir", type=Path, default=Path("data/fbank"), help="Folder of features and cuts.")
    result.add_argument("--splits", nargs="+", default=["train", "dev", "test"], help="Splits to compute.")
    result.add_argument(
        "--perturbed-splits", nargs="*", default=["train"], help="Splits that get other speeds and codecs."
    )
    result.add_argument("--speeds", nargs="*", type=float, default=[0.9, 1.1], help="Those speeds, as factors.")
    result.add_argument(
        "--coded-share",
        type=float,
        default=0.0,
        help="Share of those splits' cuts that are coded first, three in four by Opus, the others for a telephone.",
    )
    result.add_argument(
        "--exact-splits",
        nargs="*",
        default=["dev", "test"],
        help="Splits stored to 1e-5, so that decode.py hears what a released model hears; others: to 1/64.",
    )
    result.add_argument("--num-jobs", type=int, default=1, help="Processes.")
    result.add_argument(
        "--dask",
        default="",
        help="Dask scheduler with the workers that compute, as tcp://host:8786; local: --num-jobs new ones.",
    )
    result.add_argument("--num-pieces", type=int, default=1, help="Number of pieces; each machine computes one.")
    result.add_argument("--piece", type=int, default=1, help="Number of this machine's piece, from 1.")
    add_flags(result, FeatureConfig)
    return result


if __name__ == "__main__":
    run_main(main)
