"""The one tree of options: frozen dataclasses whose field docstrings are the help of the command-line flags.

Every field name is unique in the whole tree, so that `--num-experts 8` needs no prefix (`cli.py`).
A value that cannot be is refused here, where it enters.
"""

from shared_moe_conformer.config.data import (
    ENCODER_FRAME_SHIFT,
    FRAME_LENGTH,
    FRAME_SHIFT,
    FRAMES_PER_SECOND,
    MIN_NUM_FRAMES,
    SUBSAMPLING_FACTOR,
    DataConfig,
    FeatureConfig,
    frame_centre,
    subsampled_length,
)
from shared_moe_conformer.config.experiment import (
    Config,
    LrSchedule,
    SharedBlockLrScale,
    TrainingConfig,
    load_config,
    save_config,
)
from shared_moe_conformer.config.model import (
    BLOCK_PARTS,
    MIXING_PARTS,
    Chunking,
    EncoderConfig,
    MergeGates,
    ModelConfig,
)
from shared_moe_conformer.config.tree import (
    ADDED_LATER,
    from_dict,
    options_by_name,
    replace_fields,
    require,
    require_choices,
    require_least,
    require_positive,
    to_dict,
    told_options,
    with_options,
)

__all__ = [
    "ADDED_LATER",
    "BLOCK_PARTS",
    "ENCODER_FRAME_SHIFT",
    "FRAMES_PER_SECOND",
    "FRAME_LENGTH",
    "FRAME_SHIFT",
    "MIN_NUM_FRAMES",
    "MIXING_PARTS",
    "SUBSAMPLING_FACTOR",
    "Chunking",
    "Config",
    "DataConfig",
    "EncoderConfig",
    "FeatureConfig",
    "LrSchedule",
    "MergeGates",
    "ModelConfig",
    "SharedBlockLrScale",
    "TrainingConfig",
    "frame_centre",
    "from_dict",
    "load_config",
    "options_by_name",
    "replace_fields",
    "require",
    "require_choices",
    "require_least",
    "require_positive",
    "save_config",
    "subsampled_length",
    "to_dict",
    "told_options",
    "with_options",
]
