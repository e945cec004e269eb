"""A trained model to begin with or to learn from: an experiment of a recipe, or a released bundle."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Literal, NamedTuple

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import Config, FeatureConfig, TrainingConfig, load_config, require
from shared_moe_conformer.data.tokenizer import Tokenizer, saved_units
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.release.manifest import CONFIG_FILE, MANIFEST_FILE, Manifest, read_manifest
from shared_moe_conformer.release.weights import copy_weights
from shared_moe_conformer.sizes import BEGINNING, FEW_HOURS, kind_of
from shared_moe_conformer.training.averaging import Selection
from shared_moe_conformer.training.initialise import initialise

NEWEST = Selection()
"""The weights of the last epoch."""
FEW_UNITS = 0.5
"""Share of units: a model that has fewer of them in common with a trained one begins with its encoder alone. Trained
rows of a few units among new ones, in the heads, keep the transducer from aligning (docs/own-corpus.md)."""
ENCODER_ALONE = ("encoder",)


class Pretrained(NamedTuple):
    """A trained model, in evaluation mode on the CPU."""

    config: Config
    model: AsrModel
    pieces: list[str]
    """Its units, as text."""


def load_experiment(exp_dir: Path, selection: Selection) -> tuple[Config, AsrModel]:
    """The config of an experiment and its model with the selected weights, in evaluation mode on the CPU.

    Raises:
      FileNotFoundError: no such experiment or checkpoint.
      ValueError: damaged files, or checkpoints of another model.
    """
    config = load_config(exp_dir / "config.json")
    model = AsrModel(config.model, num_mel_bins=config.features.num_mel_bins)
    copy_weights(model, selection.state(exp_dir), source=exp_dir)
    return config, model.eval()


def load_pretrained(folder: Path, *, recipe_dir: Path, selection: Selection = NEWEST) -> Pretrained:
    """The model of an experiment or a bundle.

    Args:
      folder: of the experiment or the bundle, relative to the recipe's.

    Raises:
      FileNotFoundError: no experiment or bundle there, or no such checkpoint.
      ValueError: damaged files, or a checkpoint is chosen, and a bundle has none.
    """
    folder = recipe_dir / folder
    if (folder / MANIFEST_FILE).is_file():
        require(
            selection == NEWEST,
            f"{folder} is a released model with one set of weights: leave out epoch, update and average",
        )
        bundle = Bundle.load(folder)
        return Pretrained(bundle.config, bundle.model, bundle.tokenizer.pieces)
    if not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"no experiment and no released model in {folder}: train first, or name another folder")
    config, model = load_experiment(folder, selection)
    return Pretrained(config, model, saved_units(folder) or Tokenizer.load(recipe_dir / config.data.lang_dir).pieces)


def load_teacher(config: Config, recipe_dir: Path) -> AsrModel:
    """The trained model that the config's model must imitate.

    Errors: those of `load_pretrained`, and `ValueError` if its frames or units are others.
    """
    exp_dir, training = recipe_dir / config.training.teacher, config.training
    selection = selection_of(training, "teacher")
    pretrained = load_pretrained(Path(training.teacher), recipe_dir=recipe_dir, selection=selection)
    its_config = pretrained.config
    require(
        pretrained.pieces == Tokenizer.load(recipe_dir / config.data.lang_dir).pieces,
        f"the teacher {exp_dir} has other units than {config.data.lang_dir}: train both with one --lang-dir",
    )
    require(
        its_config.features == config.features, f"the teacher {exp_dir} has other features: train both with the same"
    )
    sizes = its_config.model.encoder.encoder_dim, config.model.encoder.encoder_dim
    require(
        sizes[0] == sizes[1] or training.hidden_distillation_loss_scale == 0,
        f"the teacher's frames have {sizes[0]} channels, the model's {sizes[1]}: give both one --encoder-dim, or "
        "--hidden-distillation-loss-scale 0",
    )
    return pretrained.model


def begin_with(model: AsrModel, config: Config, tokenizer: Tokenizer, recipe_dir: Path) -> str:
    """Copy the weights of the trained model that the config names; return a line about what was copied.

    Errors: those of `load_pretrained`, and `ValueError` if it does not fit.
    """
    training = config.training
    selection = selection_of(training, "init")
    trained = load_pretrained(Path(training.init_from), recipe_dir=recipe_dir, selection=selection)
    require(trained.config.features == config.features, f"{training.init_from} has other features: give the same")
    rows = common_units(tokenizer.pieces, trained.pieces)
    modules = training.init_modules or (ENCODER_ALONE if len(rows) < FEW_UNITS * tokenizer.vocab_size else ())
    try:
        initialise(model, trained.model, rows=rows, noise=training.init_expert_noise, modules=modules)
    except ValueError as error:
        raise ValueError(f"--init-from {training.init_from}: {error}") from error
    what = f"with {', '.join(modules)} of" if modules else "with"
    return f"begins {what} {training.init_from}; {len(rows)} of {tokenizer.vocab_size} units are among its own"


def selection_of(training: TrainingConfig, whose: Literal["teacher", "init"]) -> Selection:
    """The weights that a config names: its teacher's (`--teacher-epoch` ...) or the first ones (`--init-epoch` ...)."""
    values = {f.name: getattr(training, f"{whose}_{f.name}") for f in dataclasses.fields(Selection)}
    return Selection(**{**values, "epoch": str(values["epoch"] or "")})


def common_units(pieces: list[str], its_pieces: list[str]) -> list[tuple[int, int]]:
    """(unit, the other tokenizer's unit) of each piece that both have."""
    numbers = {piece: number for number, piece in enumerate(its_pieces)}
    return [(number, numbers[piece]) for number, piece in enumerate(pieces) if piece in numbers]


def origins(config: Config, recipe_dir: Path) -> dict[str, dict[str, str]]:
    """The trained models that a config's first weights come from, nearest first, each with its corpus and licence.

    One that is no longer there has neither.
    """
    found: dict[str, dict[str, str]] = {}
    seen: set[Path] = set()
    while config.training.init_from:
        folder = Path(os.path.abspath(recipe_dir / config.training.init_from))
        if folder in seen:
            break
        seen.add(folder)
        name = folder.name if folder.name not in found else "/".join(folder.parts[-4:])  # recipe/ASR/exp/name
        found[name] = {}
        if not (folder / CONFIG_FILE).is_file():
            break
        config = load_config(folder / CONFIG_FILE)
        found[name] = {"corpus": config.data.corpus, "licence": config.data.licence}
        if (folder / MANIFEST_FILE).is_file():
            before = Path(config.training.init_from).name  # where that is, a released model does not tell
            return found | (read_manifest(folder).begun_with or ({before: {}} if before else {}))
        recipe_dir = next((path.parent for path in folder.parents if path.name == "exp"), recipe_dir)
    return found


class Beginning(NamedTuple):
    """A released model with whose weights a new recipe begins."""

    manifest: Manifest
    config: Config


def choose_beginning(
    asked: str, *, hours: float, features: FeatureConfig, zoo_dir: Path
) -> tuple[Beginning | None, str]:
    """The model of a zoo that a new recipe begins with; if there is none, the reason.

    Args:
      asked: its name; "none" for random weights; empty for `BEGINNING`, if it fits a corpus of less than `FEW_HOURS`,
        in whatever language.
      hours: speech for training.
      features: those of the corpus; the recipe's are the model's, whose rate may be higher.

    Raises:
      ValueError: the zoo has no model of the name that was asked for, or it does not fit.
    """
    if asked == "none":
        return None, "--begin-with none was given"
    if not asked and hours >= FEW_HOURS:
        return None, f"the corpus has {FEW_HOURS:g} hours for training or more"
    name, names = asked or BEGINNING, sorted(path.parent.name for path in zoo_dir.glob(f"*/{MANIFEST_FILE}"))
    if name in names:
        found = Beginning(read_manifest(zoo_dir / name), load_config(zoo_dir / name / CONFIG_FILE))
        problem = _misfit(found.config, features)
    else:
        found, problem = None, f"is not in the zoo, which has {', '.join(names) or 'no model'}"
    require(not (asked and problem), f"--begin-with {name}: it {problem}; give another model, or none")
    return (None, f"the model {name} {problem}") if problem else (found, "")


def _misfit(trained: Config, features: FeatureConfig) -> str:
    """The reason why a recipe cannot begin with all weights of a trained model; empty: it can.

    The model's rate may be higher than the corpus's: what it knows of higher bands stays (egs/asterisk/ASR/README.md).
    """
    its, ours = trained.features, features
    if its.sampling_rate < ours.sampling_rate:
        return f"has features at {its.sampling_rate} Hz, the corpus has them at {ours.sampling_rate} Hz"
    if its != dataclasses.replace(ours, sampling_rate=its.sampling_rate):
        return "has other features than the corpus"
    return "" if kind_of(trained) else "shares its layers neither as base nor as merged does"
