from __future__ import annotations

from typing import Any

import pytest

from shared_moe_conformer.config import TrainingConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"prune_range": 1}, "prune_range"),
        ({"shared_block_lr_scale": "half"}, "none, inverse_sqrt, inverse"),
        ({"accumulate_batches": 0}, "accumulate_batches"),
        ({"ctc_loss_scale": -0.3}, "ctc_loss_scale is -0.3: give 0 or more"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
    ],
)
def test_a_training_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**options)
