"""Runs of an ablation's variants, one after the other, by the recipe's own train.py and decode.py."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from shared_moe_conformer.ablation.results import (
    Result,
    RunKey,
    add_result,
    config_digest,
    method_errors,
    read_results,
)
from shared_moe_conformer.ablation.variants import MAIN, Variant, config_of, variants_of
from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.config import Config, replace_fields, require
from shared_moe_conformer.decoding.scoring import characters_of, read_transcripts
from shared_moe_conformer.device import processor_name
from shared_moe_conformer.params import count_parameters
from shared_moe_conformer.release.manifest import package_commit
from shared_moe_conformer.text import words_of
from shared_moe_conformer.training.folder import epoch_path, load_checkpoint

SECONDS_FILE = "seconds.txt"
"""File with the wall-clock seconds of a run; those of a killed process are lost."""
METHODS = ("greedy_search", "modified_beam_search", "ctc_greedy_search")


@dataclass(frozen=True)
class Budget:
    """The budget of every run."""

    num_epochs: int
    """Epochs of training."""
    avg: int = 1
    """Epochs over which the weights are averaged."""
    num_threads: int = 1
    """Threads of torch."""

    def __post_init__(self) -> None:
        require(self.num_epochs >= 1, f"--num-epochs {self.num_epochs}: give 1 or more")
        require(1 <= self.avg <= self.num_epochs, f"--avg {self.avg}: give 1 to {self.num_epochs}, the epochs")
        require(self.num_threads >= 1, f"--num-threads {self.num_threads}: give 1 or more")


@dataclass(frozen=True)
class Ablation:
    """One config of one recipe, and where its runs and results go."""

    recipe_dir: Path
    """Folder of the recipe."""
    config_name: str
    """Named config that the ablation is about."""
    base: Config
    """The named config."""
    budget: Budget
    """The same for every run."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of every run that differ from that config's."""

    @property
    def config(self) -> Config:
        """The config that the variants change.

        Raises:
          ValueError: an unknown option, or an impossible value.
        """
        return replace_fields(self.base, self.options)

    @property
    def results_path(self) -> Path:
        """The file of results, committed with the recipe."""
        return self.recipe_dir / "results.jsonl"

    def exp_dir(self, variant: str, seed: int) -> Path:
        """A run's folder, relative to the recipe's; its name tells an unusual budget."""
        epochs, avg = self.budget.num_epochs, self.budget.avg
        name = f"{variant}-seed-{seed}"
        if epochs != self.base.training.num_epochs:
            name += f"-{epochs}-epochs"
        folder = f"{self.config_name}-{config_digest(self.config)}" if self.options else self.config_name
        return Path("exp/ablation") / folder / (f"{name}-avg-{avg}" if avg > 1 else name)

    def key(self, variant: Variant, seed: int) -> RunKey:
        """A run's name among the results."""
        budget = self.budget
        return RunKey(self.config_name, variant.name, seed, budget.num_epochs, budget.avg, config_digest(self.config))


def in_order(variants: Iterable[Variant], seeds: Sequence[int]) -> list[tuple[Variant, int]]:
    """The main rows seed by seed, then the others in the same way; teachers come before their pupils."""
    variants = list(variants)
    main = sorted((v for v in variants if v.name in MAIN), key=lambda v: MAIN.index(v.name))
    rest = [v for v in variants if v.name not in MAIN]
    return [(variant, seed) for part in (main, rest) for seed in seeds for variant in part]


def run_all(ablation: Ablation, variants: Sequence[Variant], seeds: Sequence[int]) -> None:
    """Run what has no result yet; after a kill at any point, the next call continues there.

    Raises:
      ValueError: a program failed.
    """
    done = {result.key for result in read_results(ablation.results_path)}
    runs = [run for run in in_order(variants, seeds) if ablation.key(*run) not in done]
    for number, (variant, seed) in enumerate(tqdm(runs, desc="ablation", unit="run"), start=1):
        print(f"\nrun {number} of {len(runs)}: {variant.name}, seed {seed}: {variant.title}", flush=True)
        add_result(ablation.results_path, run_one(ablation, variant, seed))


def run_one(ablation: Ablation, variant: Variant, seed: int) -> Result:
    """Train and decode one variant."""
    exp_dir = ablation.exp_dir(variant.name, seed)
    budget, folder = ablation.budget, ablation.recipe_dir / exp_dir
    processor = torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()
    with _timed(folder):
        _train(ablation, variant, seed)
        for method in METHODS:
            _call(_decode_command(ablation, exp_dir, method), ablation.recipe_dir)
    config = config_of(ablation.config, variant, seed=seed, num_epochs=budget.num_epochs)
    encoder = count_parameters(config.model, num_mel_bins=config.features.num_mel_bins)["encoder"]
    decoded = {method: read_transcripts(_transcripts(ablation, folder / method)) for method in METHODS}
    refs = [d.ref for d in decoded[METHODS[0]]]
    return Result(
        **ablation.key(variant, seed)._asdict(),
        options=flags_of(ablation, variant, seed),
        base_options=as_flags(ablation.options),
        encoder_unique=encoder.unique,
        encoder_active=encoder.active,
        updates=int(json.loads(load_checkpoint(epoch_path(folder, budget.num_epochs))["train_state"])["step"]),
        minutes=round(_seconds(folder) / 60, 1),
        hardware=f"{processor}, {budget.num_threads} threads",
        engine=_engine(),
        commit=_commit(folder),
        command=shlex.join(["./train.py", *train_command(ablation, variant, seed)[2:]]),
        words=tuple(len(words_of(ref)) for ref in refs),
        characters=tuple(len(characters_of(ref)) for ref in refs),
        methods=tuple(method_errors(method, results) for method, results in decoded.items()),
    )


def train_command(ablation: Ablation, variant: Variant, seed: int) -> list[str]:
    """The command that begins or continues a training."""
    flags = flags_of(ablation, variant, seed)
    return [
        sys.executable,
        "train.py",
        f"--config={ablation.config_name}",
        f"--exp-dir={ablation.exp_dir(variant.name, seed)}",
        "--resume=true",
        f"--num-threads={ablation.budget.num_threads}",
        f"--num-epochs={ablation.budget.num_epochs}",
        *(f"--{name.replace('_', '-')}={value}" for name, value in flags.items()),
    ]


def flags_of(ablation: Ablation, variant: Variant, seed: int) -> dict[str, str]:
    """Options of train.py that make the variant of the named config."""
    flags = as_flags({**ablation.options, **variant.options, "seed": seed})
    if variant.teacher:
        flags["teacher"] = str(ablation.exp_dir(variant.teacher, seed))
        flags["teacher_avg"] = str(ablation.budget.avg)
    if variant.begins_as:
        flags["init_from"] = str(ablation.exp_dir(variant.begins_as, seed))
        flags["init_avg"] = str(ablation.budget.avg)
    return flags


def as_flags(options: Mapping[str, Any]) -> dict[str, str]:
    """Options as train.py's flags take them."""
    texts = {name: ",".join(map(str, v)) if isinstance(v, tuple) else str(v) for name, v in options.items()}
    return {name: text.lower() if isinstance(options[name], bool) else text for name, text in texts.items()}


def _decode_command(ablation: Ablation, exp_dir: Path, method: str) -> list[str]:
    """The command that decodes a run's test set."""
    budget = ablation.budget
    where = [f"--config={ablation.config_name}", f"--exp-dir={exp_dir}", f"--epoch={budget.num_epochs}"]
    return [sys.executable, "decode.py", *where, f"--avg={budget.avg}", f"--decoding-method={method}"]


def _train(ablation: Ablation, variant: Variant, seed: int) -> None:
    """Train a run to its end, after the runs that it needs and that were not trained on this machine."""
    for name in filter(None, (variant.teacher, variant.begins_as)):
        before = ablation.recipe_dir / ablation.exp_dir(name, seed)
        if not epoch_path(before, ablation.budget.num_epochs).is_file():
            _train(ablation, variants_of(ablation.config)[name], seed)
    _commit(ablation.recipe_dir / ablation.exp_dir(variant.name, seed))
    _call(train_command(ablation, variant, seed), ablation.recipe_dir)


def _commit(exp_dir: Path) -> str | None:
    """The commit of the code with which a run began, kept in its folder."""
    file = exp_dir / "commit.txt"
    if not file.is_file():
        exp_dir.mkdir(parents=True, exist_ok=True)
        write_whole(file, package_commit() or "")
    return file.read_text() or None


def _call(command: Sequence[str], folder: Path) -> None:
    status = subprocess.run(command, cwd=folder, check=False).returncode
    require(status == 0, f"{shlex.join(command[1:])} failed in {folder} with status {status}: see above")


def _transcripts(ablation: Ablation, folder: Path) -> Path:
    budget = ablation.budget
    pattern = f"recogs-{ablation.config.data.test_splits[0]}-epoch-{budget.num_epochs}-avg-{budget.avg}-*.txt"
    found = sorted(folder.glob(pattern))
    require(len(found) == 1, f"{folder} has {len(found)} files {pattern}: one is expected")
    return found[0]


def _engine() -> str:
    try:
        k2 = f"k2 {metadata.version('k2')}"
    except metadata.PackageNotFoundError:
        k2 = "no k2"
    return f"torch {torch.__version__}, {k2}"


@contextmanager
def _timed(exp_dir: Path) -> Iterator[None]:
    """Add the seconds of a block to those in a run's folder, even if the block fails."""
    begin = time.monotonic()
    try:
        yield
    finally:
        if exp_dir.is_dir():
            seconds = _seconds(exp_dir) + time.monotonic() - begin
            write_whole(exp_dir / SECONDS_FILE, f"{seconds:.0f}\n")


def _seconds(exp_dir: Path) -> float:
    file = exp_dir / SECONDS_FILE
    return float(file.read_text()) if file.is_file() else 0.0
