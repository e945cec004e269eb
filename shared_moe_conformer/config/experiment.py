"""All options of an experiment, those of its model, and their file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from shared_moe_conformer.config.data import DataConfig
from shared_moe_conformer.config.encoder import EncoderConfig
from shared_moe_conformer.config.features import FeatureConfig
from shared_moe_conformer.config.training import TrainingConfig
from shared_moe_conformer.config.tree import from_dict, require, require_choices, require_least, to_dict

TransducerBackend = Literal["auto", "k2", "torch"]


@dataclass(frozen=True)
class ModelConfig:
    """Encoder, stateless decoder, joiner and CTC head."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder."""
    vocab_size: int = 500
    """Output units, blank included (V); must be the tokenizer's."""
    decoder_dim: int = 256
    """Channels of the decoder, the prediction network."""
    context_size: int = 2
    """Previous tokens that the decoder sees."""
    joiner_dim: int = 256
    """Channels in which encoder and decoder frames are added."""
    transducer_backend: TransducerBackend = "auto"
    """Engine of the transducer loss; auto: k2 on a GPU where it is installed, otherwise torch (faster on a CPU)."""

    def __post_init__(self) -> None:
        require(self.vocab_size >= 2, f"vocab_size is {self.vocab_size}: give 2 or more (unit 0 is blank)")
        require_least(self, 1, "decoder_dim", "context_size", "joiner_dim")
        require_choices(self)


@dataclass(frozen=True)
class Config:
    """Everything that defines an experiment; `exp/config.json` once training has begun."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    """Features of the audio."""
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
