"""All options of an experiment, and their file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from shared_moe_conformer.config.data import DataConfig
from shared_moe_conformer.config.features import FeatureConfig
from shared_moe_conformer.config.model import ModelConfig
from shared_moe_conformer.config.training import TrainingConfig
from shared_moe_conformer.config.tree import from_dict, to_dict


@dataclass(frozen=True)
class Config:
    """Everything that defines an experiment; `exp/config.json` once training has begun."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    """From audio to features."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """Cut sets and batches."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Schedule and losses."""


def save_config(config: Config, path: Path) -> None:
    """Write the config as JSON."""
    path.write_text(json.dumps(to_dict(config), indent=2) + "\n")


def load_config(path: Path) -> Config:
    """The config that `save_config` wrote.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not JSON, or not this version's options.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no config in {path}: train first (./train.py), or name another --exp-dir")
    try:
        values = json.loads(path.read_text())
        return from_dict(Config, values)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
