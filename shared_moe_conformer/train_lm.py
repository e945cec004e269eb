"""The verb that trains a language model over tokens: from texts to a file beside the n-grams."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from shared_moe_conformer.cli import Parser, add_config_flag, add_flags, apply_flags, run_main
from shared_moe_conformer.config import (
    Config,
    LmConfig,
    LmDataConfig,
    TrainingConfig,
    refuse_idle,
    replace_fields,
    require,
    to_dict,
)
from shared_moe_conformer.data.batch import AsrBatch
from shared_moe_conformer.data.manifests import cuts_path
from shared_moe_conformer.data.texts import TextLoader, file_texts, known_sentences, split_texts
from shared_moe_conformer.data.tokenizer import Tokenizer, refuse_other_units, save_units
from shared_moe_conformer.decoding.neural_lm import LanguageModel, neural_lm_path, save_neural_lm
from shared_moe_conformer.decoding.options import token_ngram_path
from shared_moe_conformer.decoding.scorers import ngram_scorer
from shared_moe_conformer.device import choose_device, tune_cpu
from shared_moe_conformer.lattice.ngram import NgramModel
from shared_moe_conformer.release.manifest import package_commit
from shared_moe_conformer.training.distributed import world
from shared_moe_conformer.training.experiment import (
    RunOptions,
    Termination,
    find_origin,
    only_training_in,
    open_experiment,
)
from shared_moe_conformer.training.folder import BEST_LM_NAME, load_checkpoint, log_environment, logged, logger
from shared_moe_conformer.training.loop import Batches, fit, seed_generators
from shared_moe_conformer.training.metrics import LossScales, LossTotals
from shared_moe_conformer.training.trainer import ModelTrainer

SCHEDULE = (
    *("num_epochs", "learning_rate", "warmup_steps", "lr_schedule", "decay_epochs"),
    *("weight_decay", "max_grad_norm", "accumulate_batches", "seed"),
)
"""Options that a language model's training shares with a recogniser's."""
NOT_FOR_TEXTS = ("average_period", "prescan", "dry_run", "compile", "checkpoint_activations")
"""Options of a run that a language model's does not have."""
HIDDEN: Mapping[str, None] = dict.fromkeys(
    ("vocab_size", *NOT_FOR_TEXTS, *({f.name for f in dataclasses.fields(TrainingConfig)} - set(SCHEDULE)))
)


def main(configs: Mapping[str, Config], *, recipe_dir: Path, arguments: Sequence[str] | None = None) -> None:
    """The command line of a recipe's train_lm.py."""
    args = _parser(configs, arguments).parse_args(arguments)

    def body() -> None:
        config, options = apply_flags(_config_for(configs[args.config]), args), apply_flags(RunOptions(), args)
        refuse_idle(config, vars(args))
        exp_dir = args.exp_dir or recipe_dir / "exp" / f"{config.model.lm_type}_lm"
        with Termination() as termination:
            train_lm(config, exp_dir, recipe_dir=recipe_dir, options=options, between_steps=termination.check)

    run_main(body)


class LmTrainer(ModelTrainer[LanguageModel]):
    """Updates a language model; the loss is the negative log-likelihood per token, ends of sentences included."""

    best_name = BEST_LM_NAME

    def losses(self, model: nn.Module, batch: AsrBatch, scales: LossScales) -> tuple[Tensor, LossTotals]:
        """The loss of a batch's texts."""
        batch = batch.to(self.device)
        nll = model(batch.y, batch.y_lens).sum()
        num_tokens = int((batch.y_lens + 1).sum())
        return nll / num_tokens, LossTotals(num_tokens, {"nll": nll.item()})

    def value(self, totals: LossTotals, wer: float | None) -> float:
        """The perplexity."""
        return totals.averages()["perplexity"]


def train_lm(
    config: LmConfig,
    exp_dir: Path,
    *,
    recipe_dir: Path,
    options: RunOptions,
    between_steps: Callable[[], None] = lambda: None,
) -> None:
    """Train a language model; the one of the epoch with the lowest perplexity on dev goes into the lang folder.

    The arguments and errors are those of `train.train`.

    Args:
      config: the tokenizer's number of units replaces its own.
    """
    require(world().size == 1, f"a language model is trained by one process, not {world().size}: leave torchrun out")
    tune_cpu(options.num_threads)
    device = choose_device(options.device)
    with only_training_in(exp_dir):
        lang_dir = recipe_dir / config.data.lang_dir
        tokenizer = Tokenizer.load(lang_dir)
        config = replace_fields(config, {"vocab_size": tokenizer.vocab_size})
        resume_from = recipe_dir / options.resume_from if options.resume_from else None
        origin = find_origin(exp_dir, config, options, resume_from=resume_from)
        train, dev = _loaders(config, recipe_dir, tokenizer)
        if origin.checkpoint and "train_loader" in origin.checkpoint:
            train.load_state_dict(json.loads(origin.checkpoint["train_loader"]))
        seed_generators(config.training.seed, 0)
        trainer = LmTrainer(LanguageModel(config.model), config.training, device=device)
        refuse_other_units(exp_dir, tokenizer.pieces)
        open_experiment(exp_dir, config, resuming=origin.checkpoint is not None)
        save_units(exp_dir, tokenizer.pieces)
        with logged(exp_dir, "train"):
            logger.debug("config: %s", json.dumps(to_dict(config)))
            log_environment(device, commit=package_commit())
            logger.info(
                "%s: %s language model of %.2f million parameters, %s tokens to train on, %s of dev, device: %s",
                "beginning" if origin.path is None else f"going on from {origin.path}",
                config.model.lm_type,
                sum(p.numel() for p in trainer.model.parameters()) / 1e6,
                f"{train.num_tokens:,}",
                f"{dev.num_tokens:,}",
                device,
            )
            fit(
                trainer,
                Batches(train, dev),
                exp_dir=exp_dir,
                config=config,
                options=options,
                checkpoint=origin.checkpoint,
                between_steps=between_steps,
            )
            _finish(trainer.model, dev, exp_dir, lang_dir, tokenizer)


def _config_for(config: Config) -> LmConfig:
    """The options of a language model for a recogniser of this config."""
    data = config.data
    manifest_dir = Path(data.manifest_dir).with_name("manifests")  # without copies at other speeds
    return LmConfig(data=LmDataConfig(manifest_dir.as_posix(), data.lang_dir, data.train_split, data.dev_split))


def _loaders(config: LmConfig, recipe_dir: Path, tokenizer: Tokenizer) -> tuple[TextLoader, TextLoader]:
    """The batches to train on, and those of dev."""
    data, manifest_dir = config.data, recipe_dir / config.data.manifest_dir
    texts = file_texts(recipe_dir / data.text) if data.text else split_texts(cuts_path(manifest_dir, data.train_split))
    own = known_sentences(texts, tokenizer, name=data.text or data.train_split)
    dev = known_sentences(split_texts(cuts_path(manifest_dir, data.dev_split)), tokenizer, name=data.dev_split)
    return (
        TextLoader(own, name="text", max_tokens=data.max_tokens, seed=config.training.seed),
        TextLoader(dev, name="dev text", max_tokens=data.max_tokens),
    )


def _finish(model: LanguageModel, dev: TextLoader, exp_dir: Path, lang_dir: Path, tokenizer: Tokenizer) -> None:
    """Write the best weights into the lang folder, and log their perplexity beside those of its n-grams."""
    best = load_checkpoint(exp_dir / BEST_LM_NAME)
    model.load_state_dict(best["model"])
    path = save_neural_lm(model.cpu().eval(), neural_lm_path(lang_dir, model.config.lm_type), tokenizer.pieces)
    perplexity, epoch = (json.loads(best[name]) for name in ("valid_perplexity", "epoch"))
    others = [f"{name} {value:.2f}" for name, value in ngram_perplexities(dev, lang_dir, tokenizer).items()]
    logger.info(
        "done: %s has the weights of epoch %d, with a perplexity of %.2f per token on dev%s",
        path,
        epoch,
        perplexity,
        f" ({', '.join(others)})" if others else "",
    )


def ngram_perplexities(dev: TextLoader, lang_dir: Path, tokenizer: Tokenizer) -> dict[str, float]:
    """The perplexity per token, ends of sentences included, of each n-gram over tokens of the lang folder, by file.

    n-grams that no search can use are left out.
    """
    found = {}
    sentences = [y[:length].tolist() for batch in dev for y, length in zip(batch.y, batch.y_lens)]
    for path in (token_ngram_path(lang_dir, order) for order in range(1, 10)):
        with contextlib.suppress(FileNotFoundError, ValueError):
            scorer = ngram_scorer(NgramModel.load(path), tokenizer.pieces)
            found[path.name] = math.exp(-sum(scorer.sentence_scores(sentences)) / dev.num_tokens)
    return found


def _parser(configs: Mapping[str, Config], arguments: Sequence[str] | None) -> argparse.ArgumentParser:
    """The parser; its help shows the values for the config that the arguments name."""
    parser = Parser(
        description="Train a neural language model over tokens on the texts of the training split, or on others; "
        "./decode.py --lm-type uses it."
    )
    name = add_config_flag(parser, configs, "named config whose units and splits are used", arguments)
    parser.add_argument("--exp-dir", type=Path, help="folder of the training [exp/<lm-type>_lm beside train_lm.py]")
    add_flags(parser, RunOptions, instead=HIDDEN)
    add_flags(parser, _config_for(configs[name]), instead=HIDDEN)
    return parser
