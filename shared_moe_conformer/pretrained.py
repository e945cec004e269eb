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
from shared_moe_conformer.training.checkpoint import model_state, saved_epochs


class Pretrained(NamedTuple):
    """A trained model, in evaluation mode on the CPU."""

    config: Config
    model: AsrModel
    tokenizer: Tokenizer


def load_pretrained(folder: Path, *, recipe_dir: Path, epoch: int = 0, avg: int = 1) -> Pretrained:
    """The model of an experiment or a bundle.

    Args:
      folder: either's; relative to the recipe's folder.
      recipe_dir: the recipe's folder, where an experiment's tokenizer is too.
      epoch: of an experiment, the last epoch to average; 0: its last.
      avg: of an experiment, epochs to average.

    Raises:
      FileNotFoundError: no experiment or bundle there, or no such epoch.
      ValueError: damaged files, or a bundle of which an epoch is asked.
    """
    folder = recipe_dir / folder
    if (folder / MANIFEST_FILE).is_file():
        require(epoch == 0 and avg == 1, f"{folder} is a released model, which has no epochs: leave --*-epoch and -avg")
        bundle = Bundle.load(folder)
        return Pretrained(bundle.config, bundle.model, bundle.tokenizer)
    config = load_config(folder / "config.json")
    epochs = saved_epochs(folder)
    require(bool(epochs), f"{folder} has no checkpoint: train it first (./train.py), or give another folder")
    model = AsrModel(config.model, num_mel_bins=config.features.num_mel_bins)
    copy_weights(model, model_state(folder, epoch or epochs[-1], avg), source=folder)
    return Pretrained(config, model.eval(), Tokenizer.load(recipe_dir / config.data.lang_dir))


def common_units(pieces: list[str], its_pieces: list[str]) -> list[tuple[int, int]]:
    """(unit, the other tokenizer's unit) of each piece that both have."""
    numbers = {piece: number for number, piece in enumerate(its_pieces)}
    return [(number, numbers[piece]) for number, piece in enumerate(pieces) if piece in numbers]
