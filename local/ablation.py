#!/usr/bin/env python3
"""Train and decode variants of a recipe's config with several seeds, and write the comparison into its comparisons.md.

    local/ablation.py --recipe fillets --config base-nl --seeds 3 --num-epochs 5
    local/ablation.py --recipe fillets --config base-nl --variants full base -- --dropout 0.1 --num-time-masks 2
    local/ablation.py --recipe fillets --report

Every run is one of the recipe's train.py and decode.py; it can be killed at any time, and the same command continues.
A run that has ended is a line in the recipe's results.jsonl, to which other machines can add.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from shared_moe_conformer.ablation.report import write_report
from shared_moe_conformer.ablation.results import read_results
from shared_moe_conformer.ablation.runs import Ablation, Budget, run_all
from shared_moe_conformer.ablation.variants import chosen, variants_of
from shared_moe_conformer.cli import add_flags, run_main
from shared_moe_conformer.config import Config, require
from shared_moe_conformer.params import read_configs

EGS = Path(__file__).resolve().parent.parent / "egs"
PAGE = "comparisons.md"


def main() -> None:
    args = parser().parse_args()
    recipe = args.recipe if args.recipe.is_dir() else EGS / args.recipe / "ASR"
    configs = read_configs(recipe / "config.py")
    if args.report:
        results = read_results(recipe / "results.jsonl")
        gone = sorted({result.config for result in results} - configs.keys())
        require(not gone, f"{recipe / 'results.jsonl'} has results of {', '.join(gone)}, which config.py lacks")
        variants = {result.config: variants_of(configs[result.config]) for result in results}
        write_report(recipe / PAGE, results, variants)
        print(f"wrote {recipe / PAGE}, of {len(results)} runs")
        return
    require(args.config in configs, f"--config {args.config}: {recipe} has {', '.join(configs)}")
    require(args.seeds >= 1, f"--seeds {args.seeds}: give 1 or more")
    base = configs[args.config]
    budget = Budget(args.num_epochs or base.training.num_epochs, args.avg, args.num_threads)
    ablation = Ablation(recipe.resolve(), args.config, base, budget, options_of(args.flags))
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    run_all(ablation, chosen(variants_of(ablation.config), args.variants), seeds)


def options_of(flags: list[str]) -> dict[str, Any]:
    """The options of a config that flags of train.py give."""
    parser = argparse.ArgumentParser(prog="local/ablation.py ... --", add_help=False)
    add_flags(parser, Config)
    options = vars(parser.parse_args(flags))
    for name, instead in (("seed", "--first-seed"), ("num_epochs", "--num-epochs")):
        require(name not in options, f"--{name.replace('_', '-')} after --: give {instead} before it")
    return options


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--recipe", type=Path, required=True, help="a recipe's name or its folder")
    result.add_argument("--config", default="base", help="named config that shares blocks and has experts [base]")
    result.add_argument("--variants", nargs="*", default=[], help="some of the table's [all]")
    result.add_argument("--seeds", type=int, default=3, help="seeds of each variant [3]")
    result.add_argument("--first-seed", type=int, default=1, help="[1]")
    result.add_argument("--num-epochs", type=int, default=0, help="epochs of each run [the config's]")
    result.add_argument("--avg", type=int, default=1, help="epochs over which weights are averaged [1]")
    result.add_argument("--num-threads", type=int, default=1, help="threads of each run [1]")
    result.add_argument("flags", nargs="*", metavar="-- FLAG ..", help="flags of train.py for all runs")
    result.add_argument("--report", action="store_true", help=f"run nothing; write the recipe's {PAGE}")
    return result


if __name__ == "__main__":
    run_main(main)
