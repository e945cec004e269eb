"""The verb that shows an experiment: `python -m shared_moe_conformer.report exp/base`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.cli import add_flags, apply_flags, program, run_main
from shared_moe_conformer.config import load_config, require
from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.loaders import EvalLoader
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.data.utterances import GROUPINGS, Grouping, group_of
from shared_moe_conformer.device import tune_cpu
from shared_moe_conformer.params import count_parameters
from shared_moe_conformer.pretrained import load_experiment
from shared_moe_conformer.reporting.experiment import experiment_page, read_experiment
from shared_moe_conformer.reporting.experts import (
    ExpertUsage,
    expert_layer_names,
    groups_map,
    groups_table,
    usage_map,
    usage_table,
)
from shared_moe_conformer.reporting.page import standalone
from shared_moe_conformer.routing import frames_per_expert
from shared_moe_conformer.training.averaging import Selection

PAGE = "report.html"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    args = _parser().parse_args(arguments)
    run_main(lambda: _show(args))


def count_usage(
    exp_dir: Path, *, recipe_dir: Path, split: str, selection: Selection, by: Grouping | None = None
) -> dict[str, ExpertUsage]:
    """The number of frames that each expert computes, of each group of a split, or of all of it under its name.

    Raises:
      FileNotFoundError: no such experiment, checkpoint or split.
      ValueError: a model without experts, or cuts that do not say their group.
    """
    config = load_config(exp_dir / "config.json")
    require(config.model.encoder.experts_in != "none", f"the model of {exp_dir} has no experts (--experts-in none)")
    _, model = load_experiment(exp_dir, selection)
    data = AsrDataModule(config, recipe_dir, Tokenizer.load(recipe_dir / config.data.lang_dir))
    cuts, names, usages = data.cuts(split), expert_layer_names(config.model.encoder), {}
    groups = {cut.id: group_of(cut.supervisions[0], by) if by else split for cut in cuts}
    for group in sorted(set(groups.values())):
        loader = EvalLoader(cuts.filter(lambda cut, group=group: groups[cut.id] == group), data.dataset)
        batches = tqdm(loader, desc=f"expert usage on {group}", unit="batch")
        usages[group] = ExpertUsage(names, frames_per_expert(model, batches).tolist())
    return usages


def _show(args: argparse.Namespace) -> None:
    """Write the page or draw the usage, and refuse options that would change nothing."""
    if args.expert_usage:
        require(args.output is None, "--output is for the page: leave it or --expert-usage out")
        return _draw_usage(args)
    given = {name for name, value in vars(args).items() if value is not None} - {"exp_dir", "output"}
    named = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(given))
    require(not given, f"the page shows the whole training: {named} only with --expert-usage FILE.svg")
    return _write_page(args)


def _write_page(args: argparse.Namespace) -> None:
    """Write the report of an experiment, or of a training that still runs."""
    experiment = read_experiment(args.exp_dir)
    features = experiment.config.features
    counts = count_parameters(experiment.config.model, num_mel_bins=features.num_mel_bins)["total"]
    parameters = [(f"{kind} parameters", count) for kind, count in counts._asdict().items()]
    path = args.output or args.exp_dir / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, experiment_page(experiment, parameters=parameters))
    print(f"wrote {path}")


def _draw_usage(args: argparse.Namespace) -> None:
    """Write the picture that --expert-usage asks for, and print the table."""
    tune_cpu()
    recipe_dir = args.recipe_dir or args.exp_dir.resolve().parent.parent
    split = args.split or load_config(args.exp_dir / "config.json").data.test_splits[0]
    selection = apply_flags(Selection(), args)
    usages = count_usage(args.exp_dir, recipe_dir=recipe_dir, split=split, selection=selection, by=args.by)
    what = f"{args.exp_dir.resolve().name}, {split}"
    if args.by:
        picture = groups_map(usages, title=f"Frames by expert, in percent, and by {args.by}: {what}")
        table = groups_table(usages, by=args.by)
    else:
        picture = usage_map(usages[split], title=f"Frames by expert: {what}")
        table = usage_table(usages[split])
    args.expert_usage.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.expert_usage, standalone(picture))
    print(f"{table}wrote {args.expert_usage}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("report"), description="Show an experiment in one page, or a part of it."
    )
    parser.add_argument("exp_dir", type=Path, help="experiment that ./train.py wrote, e.g. egs/asterisk/ASR/exp/base")
    parser.add_argument(
        "--output", type=Path, metavar="FILE.html", help=f"the page [{PAGE} in the experiment's folder]"
    )
    usage = parser.add_argument_group("the experts' usage on a split")
    usage.add_argument(
        "--expert-usage", type=Path, metavar="FILE.svg", help="draw how many frames each expert computes"
    )
    usage.add_argument("--split", help="split of the prepared cuts [the first test split]")
    usage.add_argument("--by", choices=GROUPINGS, help="what to group by; each group gets a row [one group]")
    usage.add_argument("--recipe-dir", type=Path, help="the recipe's folder [two above the experiment's]")
    add_flags(parser, Selection)
    return parser


if __name__ == "__main__":
    main()
