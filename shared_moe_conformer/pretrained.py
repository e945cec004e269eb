"""A trained model to begin with or to learn from: an experiment of a recipe, or a released bundle."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import Config, load_config, require
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.release.manifest import MANIFEST_FILE
from shared_moe_conformer.release.weights import copy_weights
from shared_moe_conformer.training.selection import Selection

NEWEST = Selection()
"""The weights of the last epoch."""


class Pretrained(NamedTuple):
    """A trained model, in evaluation mode on the CPU."""

    config: Config
    model: AsrModel
    tokenizer: Tokenizer


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
      folder: either's; relative to the recipe's folder.
      recipe_dir: the recipe's folder, where an experiment's tokenizer is too.
      selection: which of an experiment's weights.

    Raises:
      FileNotFoundError: no experiment or bundle there, or no such checkpoint.
      ValueError: damaged files, or a bundle of which a checkpoint is asked.
    """
    folder = recipe_dir / folder
    if (folder / MANIFEST_FILE).is_file():
        require(
            selection == NEWEST,
            f"{folder} is a released model, which has one set of weights: name no epoch, update or average of it",
        )
        bundle = Bundle.load(folder)
        return Pretrained(bundle.config, bundle.model, bundle.tokenizer)
    config, model = load_experiment(folder, selection)
    return Pretrained(config, model, Tokenizer.load(recipe_dir / config.data.lang_dir))


def common_units(pieces: list[str], its_pieces: list[str]) -> list[tuple[int, int]]:
    """(unit, the other tokenizer's unit) of each piece that both have."""
    numbers = {piece: number for number, piece in enumerate(its_pieces)}
    return [(number, numbers[piece]) for number, piece in enumerate(pieces) if piece in numbers]
