from __future__ import annotations

import pytest
import torch

from shared_moe_conformer.config import replace_fields
from shared_moe_conformer.data.batch import AsrBatch, Example, collate
from shared_moe_conformer.decoding.expert_usage import frames_per_expert
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.subsampling import subsampled_length
from tests.conftest import TINY

LENS = [[40, 55], [31]]


def batches() -> list[AsrBatch]:
    torch.manual_seed(1)
    return [collate([Example(torch.randn(n, 80), [3], "a", "A") for n in lens]) for lens in LENS]


def model(**changes: object) -> AsrModel:
    torch.manual_seed(0)
    return AsrModel(replace_fields(TINY, changes).model).eval()


def test_every_valid_frame_is_counted_once_in_each_layer() -> None:
    counts = frames_per_expert(model(), batches())
    assert counts.shape == (3, 3)
    assert counts.sum(dim=1).tolist() == [sum(subsampled_length(n) for lens in LENS for n in lens)] * 3


def test_a_frame_counts_for_each_of_its_experts() -> None:
    once, twice = (frames_per_expert(model(top_k=k), batches()).sum() for k in (1, 2))
    assert twice == 2 * once


def test_a_model_without_experts_or_a_set_without_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="no experts"):
        frames_per_expert(model(experts_in="none"), batches())
    with pytest.raises(ValueError, match="no batch"):
        frames_per_expert(model(), [])
