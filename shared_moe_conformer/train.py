"""The verb that trains: from a named config and flags to an experiment's folder."""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import kaldialign
import torch

from shared_moe_conformer.cli import Parser, add_config_flag, add_flags, apply_flags, run_main
from shared_moe_conformer.config import Config, TrainingConfig, refuse_idle, require, to_dict
from shared_moe_conformer.data.batch import AsrBatch
from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.loaders import Part, largest_batches
from shared_moe_conformer.data.manifests import OpenFile, StoredCuts, change_of_cuts, record_cuts
from shared_moe_conformer.data.sources import Survey
from shared_moe_conformer.data.streamed import Loader
from shared_moe_conformer.data.tokenizer import Tokenizer, refuse_other_units, save_units
from shared_moe_conformer.decoding.ctc import CtcGreedySearch
from shared_moe_conformer.decoding.hypothesis import search_utterances
from shared_moe_conformer.device import choose_device, memory_in_use, tune_cpu
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.pretrained import begin_with, load_teacher
from shared_moe_conformer.release.manifest import package_commit
from shared_moe_conformer.text import counted, words_of
from shared_moe_conformer.training.distributed import connected, from_local_leader, world
from shared_moe_conformer.training.experiment import (
    Origin,
    RunOptions,
    Termination,
    find_origin,
    only_training_in,
    open_experiment,
    refuse_other_experiment,
)
from shared_moe_conformer.training.faults import prescan, seconds_a_batch
from shared_moe_conformer.training.folder import log_environment, logged, logger
from shared_moe_conformer.training.loop import Batches, fit, refuse_empty, seed_generators
from shared_moe_conformer.training.precision import compilable_parts, compile_parts, recompute_activations
from shared_moe_conformer.training.trainer import Trainer

Cuts = StoredCuts | Survey
DRY_BATCHES = 4
"""Batches that a dry run times."""


def main(configs: Mapping[str, Config], *, recipe_dir: Path, arguments: Sequence[str] | None = None) -> None:
    """The command line of a recipe's train.py."""
    args = _parser(configs, arguments).parse_args(arguments)
    exp_dir = args.exp_dir or recipe_dir / "exp" / args.config

    def body() -> None:
        config, options = apply_flags(configs[args.config], args), apply_flags(RunOptions(), args)
        refuse_idle(config, vars(args))
        with Termination() as termination:
            train(config, exp_dir, recipe_dir=recipe_dir, options=options, between_steps=termination.check)

    run_main(body)


def train(
    config: Config,
    exp_dir: Path,
    *,
    recipe_dir: Path,
    options: RunOptions,
    between_steps: Callable[[], None] = lambda: None,
) -> None:
    """Train a model: build everything, then loop.

    Nothing is written before data, model and checkpoint are known to be good.

    Args:
      recipe_dir: the folder that the config's paths are relative to.
      between_steps: called after each update; it may raise, to stop the training.

    Raises:
      FileNotFoundError: data, tokenizer or checkpoint are missing.
      FileExistsError: the folder holds a training and `options` do not resume it, or another process trains there.
      ValueError: folder, tokenizer or checkpoint belong to another config, or the training diverged.
    """
    tune_cpu(options.num_threads)
    device = _own_device(options.device)
    resume_from = recipe_dir / options.resume_from if options.resume_from else None
    with only_training_in(exp_dir) if world().rank == 0 else nullcontext(), connected(device):
        origin = find_origin(exp_dir, config, options, resume_from=resume_from)
        tokenizer = _load_tokenizer(config, recipe_dir)
        data = AsrDataModule(config, recipe_dir, tokenizer, part=Part(world().rank, world().size))
        model, told = _make_model(config, recipe_dir, tokenizer, begins=origin.checkpoint is None)
        trainer = _make_trainer(model, config, options, recipe_dir, device)
        cuts, train_loader = _training_data(data)
        dev_loader = data.dev_loader()
        _refuse_other_batches(train_loader, origin)
        if options.dry_run:
            _dry_run(trainer, data, cuts, train_loader)
            return
        word_errors = word_error_counter(model, tokenizer) if config.training.ctc_loss_scale else None
        with _opened(exp_dir, config, tokenizer.pieces, resuming=origin.checkpoint is not None):
            all_batches = config.training.num_steps * config.training.accumulate_batches or len(train_loader)
            _log_beginning(config, options, trainer, origin, min(len(train_loader), all_batches))
            if world().rank == 0 and not config.training.epoch_steps:
                _note_cuts(exp_dir, cuts, data, origin)
            for problem in data.left_out:
                logger.warning("left out of the training: %s", problem)
            if train_loader.dataset.conditions is not None:
                _note_unheard_conditions(config)
            if told:
                logger.info("%s", told)
            if options.prescan:
                _prescan(trainer, train_loader, config.data.max_duration)
            fit(
                trainer,
                Batches(train_loader, dev_loader, word_errors),
                exp_dir=exp_dir,
                config=config,
                options=options,
                checkpoint=origin.checkpoint,
                between_steps=between_steps,
            )
            logger.info("done: %s in %s", _amount(config.training), exp_dir)


def _own_device(name: str) -> torch.device:
    """The device of a name; of several processes each has its own GPU."""
    device = choose_device(name)
    return torch.device("cuda", world().local_rank) if device.type == "cuda" and device.index is None else device


def _load_tokenizer(config: Config, recipe_dir: Path) -> Tokenizer:
    tokenizer = Tokenizer.load(recipe_dir / config.data.lang_dir)
    require(
        tokenizer.vocab_size == config.model.vocab_size,
        f"{config.data.lang_dir} has {tokenizer.vocab_size} units, the config's vocab_size is "
        f"{config.model.vocab_size}: give --vocab-size {tokenizer.vocab_size}, or another --lang-dir",
    )
    return tokenizer


def _make_model(config: Config, recipe_dir: Path, tokenizer: Tokenizer, *, begins: bool) -> tuple[AsrModel, str]:
    """The model with its first weights, and a line about their origin, which may be empty."""
    seed_generators(config.training.seed, 0)
    model = AsrModel(config.model, num_mel_bins=config.features.num_mel_bins)
    if begins and config.training.init_from:
        return model, begin_with(model, config, tokenizer, recipe_dir)
    return model, ""


def _make_trainer(
    model: AsrModel, config: Config, options: RunOptions, recipe_dir: Path, device: torch.device
) -> Trainer:
    teacher = load_teacher(config, recipe_dir) if config.training.teacher else None
    if options.checkpoint_activations:
        recompute_activations(model)
    if options.compile:
        compile_parts(compilable_parts(model))
    return Trainer(model, config.training, device=device, teacher=teacher, average_period=options.average_period)


def _training_data(data: AsrDataModule) -> tuple[Cuts, Loader]:
    """The cuts to train on, as they are recorded, and their batches."""
    if data.config.data.train_cuts or data.config.training.epoch_steps:
        survey = from_local_leader(data.survey) if world().size > 1 else data.survey()
        return survey, data.stream_loader(survey)
    cuts = training_cuts(data)
    return cuts, data.train_loader(cuts)


def training_cuts(data: AsrDataModule) -> StoredCuts:
    """The training split, which one process of each machine stores and the others read.

    Raises:
      FileNotFoundError: the split has not been prepared.
      ValueError: more than a tenth of it cannot be trained on.
    """
    own: list[StoredCuts] = []

    def store() -> OpenFile:
        own.append(data.training_cuts())
        return own[0].file

    file = from_local_leader(store) if world().size > 1 else store()
    try:
        return own[0] if own else StoredCuts.opened(file)
    except (OSError, ValueError):  # a system without /proc, or processes that see different ones
        return data.training_cuts()


def word_error_counter(model: AsrModel, tokenizer: Tokenizer) -> Callable[[AsrBatch], tuple[int, int]]:
    """A function from a batch to the word errors of CTC greedy search on it, and its words."""
    search = CtcGreedySearch(model)

    def count(batch: AsrBatch) -> tuple[int, int]:
        device = next(model.parameters()).device
        encoder_out, lens, _ = model.encode(batch.x.to(device), batch.x_lens.to(device))
        hyps = [tokenizer.decode(hyp.tokens) for hyp in search_utterances(search, encoder_out, lens)]
        rate = kaldialign.batch_error_rate([words_of(text) for text in batch.texts], [words_of(hyp) for hyp in hyps])
        return int(rate["ins"] + rate["del"] + rate["sub"]), int(rate["ref_len"])

    return count


@contextmanager
def _opened(exp_dir: Path, config: Config, pieces: Sequence[str], *, resuming: bool) -> Iterator[None]:
    """The experiment's folder with its log; only the first process writes there."""
    refuse_other_units(exp_dir, pieces)
    if world().rank:
        refuse_other_experiment(exp_dir, config, resuming=resuming)
        yield
        return
    open_experiment(exp_dir, config, resuming=resuming)
    save_units(exp_dir, pieces)
    with logged(exp_dir, "train"):
        yield


def _log_beginning(config: Config, options: RunOptions, trainer: Trainer, origin: Origin, num_batches: int) -> None:
    if origin.damaged:
        logger.warning("%s is damaged: going on from the checkpoint before it, %s", origin.damaged, origin.path)
    logger.debug("config: %s", json.dumps(to_dict(config)))
    logger.debug("options: %s", options)
    log_environment(trainer.device, commit=package_commit())
    num_parameters = sum(p.numel() for p in trainer.model.parameters())
    logger.info(
        "%s: %.2f million parameters, %d batches an epoch, processes: %d, device: %s, threads: %d, torch %s",
        "beginning" if origin.path is None else f"going on from {origin.path}",
        num_parameters / 1e6,
        num_batches,
        world().size,
        trainer.device,
        torch.get_num_threads(),
        torch.__version__,
    )


def _refuse_other_batches(loader: Loader, origin: Origin) -> None:
    """Raise `ValueError` if a training cannot continue inside its epoch, because its batches have changed."""
    if origin.checkpoint and "train_loader" in origin.checkpoint:
        loader.load_state_dict(json.loads(origin.checkpoint["train_loader"]))


def _note_cuts(exp_dir: Path, cuts: Cuts, data: AsrDataModule, origin: Origin) -> None:
    """Warn if a training continues with other cuts than before, and record those it has now."""
    audio = "" if isinstance(cuts, Survey) else data.audio_digest
    if origin.path and (change := change_of_cuts(origin.path.parent, len(cuts), cuts.content_digest, audio)):
        logger.warning("%s", change)
    record_cuts(exp_dir, len(cuts), cuts.content_digest, audio)


def _note_unheard_conditions(config: Config) -> None:
    """Warn if a training ends before the gains, made noises, rooms and band limits that it asks for begin."""
    after = config.data.conditions_after
    if config.training.length <= after:
        logger.warning(
            "this training of %s never hears gains, made noises, rooms or band limits, since conditions_after is %d: "
            "give a smaller --conditions-after, or train longer",
            _amount(config.training),
            after,
        )


def _amount(training: TrainingConfig) -> str:
    """How much is trained, for reading."""
    return counted(training.num_steps, "step") if training.num_steps else counted(training.num_epochs, "epoch")


def _dry_run(trainer: Trainer, data: AsrDataModule, cuts: Cuts, loader: Loader) -> None:
    """Print what a training will read, need and take."""
    config, num_parameters = data.config, sum(p.numel() for p in trainer.model.parameters())
    _prescan(trainer, loader, config.data.max_duration)
    start = time.perf_counter()
    batches = list(itertools.islice(loader, DRY_BATCHES))
    refuse_empty(loader)
    read, seconds = (time.perf_counter() - start) / len(batches), seconds_a_batch(trainer, batches)
    hours = len(loader) * config.training.length * seconds / 3600
    lines = [
        *data.described(cuts),
        f"needs {16 * num_parameters / 1e6:,.0f} MB for {num_parameters / 1e6:.2f} million parameters in training and "
        f"{12 * num_parameters / 1e6:,.0f} MB of disk a checkpoint; with the largest batches, "
        + ", ".join(f"{name} {value:,.0f}" for name, value in memory_in_use().items()),
        f"takes {_amount(config.training)}, {len(loader):,} batches an epoch of each of {world().size} processes, "
        f"{seconds:.2g} s a batch, about {hours:.2g} hours without validations",
        f"a batch is read in {read:.2g} s beside that; nothing was written",
    ]
    if world().rank == 0:
        print("\n".join(lines))


def _prescan(trainer: Trainer, loader: Loader, max_duration: float) -> None:
    largest = functools.partial(largest_batches, loader.cuts, loader.dataset)
    prescan(trainer, lambda seconds: largest(max_duration=seconds), max_duration=max_duration)


def _parser(configs: Mapping[str, Config], arguments: Sequence[str] | None) -> argparse.ArgumentParser:
    """The parser; its help shows the values of the config that the arguments name."""
    parser = Parser()
    name = add_config_flag(parser, configs, "named config", arguments)
    parser.description = f"Train a named config. Every option of it is a flag; in brackets stand the values of {name}."
    parser.add_argument("--exp-dir", type=Path, help="folder of the experiment [exp/<config> beside train.py]")
    add_flags(parser, RunOptions)
    add_flags(parser, configs[name])
    return parser
