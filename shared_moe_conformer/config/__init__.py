"""The one tree of options: frozen dataclasses whose field docstrings are the help of the command-line flags.

Every field name is unique in the whole tree, so that `--num-experts 8` needs no prefix (`cli.py`).
An impossible value is refused here, where it enters.
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
    LmConfig,
    LmDataConfig,
    LmModelConfig,
    LrSchedule,
    NeuralLmType,
    SharedBlockLrScale,
    TrainingConfig,
    load_config,
    load_config_of,
    save_config,
)
from shared_moe_conformer.config.idle import refuse_idle
from shared_moe_conformer.config.model import (
    BLOCK_PARTS,
    MIXING_PARTS,
    Chunking,
    EncoderConfig,
    MergeGates,
    ModelConfig,
    RouterGates,
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

AnyConfig = Config | LmConfig
"""The options of a training of either kind."""
