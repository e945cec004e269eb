#!/usr/bin/env python3
"""Compare the error rates of models on one test set, each trained with one seed or several: a Markdown table.

    local/compare_rates.py full= exp/full-?/1best/recogs-test-*.txt base= exp/base-?/1best/recogs-test-*.txt

The files are what decode.py wrote, one for each seed. Intervals hold the number with a probability of 95 %, over
utterances, which are the same for all models, and over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shared_moe_conformer.ablation.results import method_errors, rates_of
from shared_moe_conformer.cli import run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.decoding.scoring import Decoded, characters_of, read_transcripts
from shared_moe_conformer.text import markdown_table, words_of


def main() -> None:
    models = by_name(parser().parse_args().models)
    print(table({name: [read_sorted(path) for path in paths] for name, paths in models.items()}))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("models", nargs="+", metavar="NAME= FILE..",
                        help="a model's name and its files recogs-*.txt; all are compared to the first")  # fmt: skip
    return result


def by_name(arguments: Sequence[str]) -> dict[str, list[Path]]:
    """The files of each model.

    Raises:
      ValueError: a file before the first name, a name twice, or a name without a file.
    """
    models: dict[str, list[Path]] = {}
    for argument in arguments:
        if argument.endswith("="):
            name = argument[:-1]
            require(name not in models, f"{argument}: two models have this name; give each a name of its own")
            models[name] = []
        else:
            require(bool(models), f"{argument}: write a name first, as in base= {argument}")
            models[name].append(Path(argument))
    without = [name for name, paths in models.items() if not paths]
    require(not without, f"{', '.join(without[:1])}= is followed by no file: give its recogs-*.txt")
    return models


def read_sorted(path: Path) -> list[Decoded]:
    """The utterances of a file, in the order of their ids."""
    return sorted(read_transcripts(path), key=lambda decoded: decoded.cut_id)


def table(models: dict[str, list[list[Decoded]]]) -> str:
    """A row for each model; the ratios are to the first.

    Raises:
      ValueError: the results are not of the same utterances.
    """
    references = {tuple((decoded.cut_id, decoded.ref) for decoded in its) for seeds in models.values() for its in seeds}
    require(len(references) == 1, "the files are not of the same utterances: decode the same split with all models")
    texts = [ref for _, ref in references.pop()]
    first, rows = next(iter(models)), {name: [name, str(len(seeds))] for name, seeds in models.items()}
    found = {name: [method_errors("", its) for its in seeds] for name, seeds in models.items()}
    for level, units in (("word", words_of), ("character", characters_of)):
        errors = {name: np.array([getattr(its, f"{level}_errors") for its in seeds]) for name, seeds in found.items()}
        lengths = np.array([len(units(text)) for text in texts])
        for name, (percent, ratio) in rates_of(errors, lengths, reference=first).items():
            by_seed = ", ".join(f"{100 * its.sum() / lengths.sum():.2f}" for its in errors[name])
            rows[name] += [f"{percent.mean:.2f} [{percent.low:.2f}, {percent.high:.2f}]", by_seed]
            rows[name] += [f"{ratio.mean:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"]
    head = [f"{unit}{what}" for unit in ("WER", "CER") for what in (" %", " % by seed", f" over {first}'s")]
    return markdown_table(["model", "seeds", *head], list(rows.values()))


if __name__ == "__main__":
    run_main(main)
