"""The one tree of options: frozen dataclasses whose field docstrings are the help of the command-line flags.

Every field name is unique in the whole tree, so that `--num-experts 8` needs no prefix (`cli.py`).
A value that cannot be is refused here, where it enters.
"""

from shared_moe_conformer.config.data import DataConfig
from shared_moe_conformer.config.encoder import EncoderConfig
from shared_moe_conformer.config.experiment import Config, load_config, save_config
from shared_moe_conformer.config.features import FeatureConfig
from shared_moe_conformer.config.model import ModelConfig
from shared_moe_conformer.config.training import LrSchedule, SharedBlockLrScale, TrainingConfig
from shared_moe_conformer.config.tree import from_dict, options_by_name, replace_fields, to_dict, told_options
from shared_moe_conformer.config.values import ADDED_LATER, require, require_choice

__all__ = [
    "ADDED_LATER",
    "Config",
    "DataConfig",
    "EncoderConfig",
    "FeatureConfig",
    "LrSchedule",
    "ModelConfig",
    "SharedBlockLrScale",
    "TrainingConfig",
    "from_dict",
    "load_config",
    "options_by_name",
    "replace_fields",
    "require",
    "require_choice",
    "save_config",
    "to_dict",
    "told_options",
]
