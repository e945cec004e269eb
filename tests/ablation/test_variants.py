"""The table of variants."""

from __future__ import annotations

import pytest
import torch

from shared_moe_conformer.ablation.variants import MAIN, chosen, config_of, split, variants_of
from shared_moe_conformer.config import replace_fields
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.params import count_parameters
from tests.conftest import TINY

VARIANTS = variants_of(TINY)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_another_model_or_another_training(name: str) -> None:
    config = config_of(TINY, VARIANTS[name], seed=7, num_epochs=3)
    assert (config.training.seed, config.training.num_epochs) == (7, 3)
    assert config.model.encoder.num_layers == TINY.model.encoder.num_layers
    torch.manual_seed(0)
    AsrModel(config.model)
    variant = VARIANTS[name]
    others = [v[2:] for v in VARIANTS.values() if v.name != name]
    assert variant[2:] not in others
    for before in filter(None, (variant.teacher, variant.begins_as)):
        assert not (VARIANTS[before].teacher or VARIANTS[before].begins_as), "what it needs, needs nothing"


def test_the_main_rows_come_first_and_store_what_they_should() -> None:
    assert tuple(VARIANTS)[: len(MAIN)] == MAIN
    full, shared, base, distilled = (
        count_parameters(config_of(TINY, VARIANTS[name], seed=1, num_epochs=1).model)["encoder"].unique for name in MAIN
    )
    assert shared < base < full and distilled == base


def test_groups_hold_all_layers() -> None:
    assert split(6, 3) == (3, 3) and split(7, 3) == (3, 3, 1) and split(2, 3) == (2,)


def test_what_cannot_be_ablated_is_refused() -> None:
    for options in ({"experts_in": "none"}, {"group_sizes": (1, 1)}):
        with pytest.raises(ValueError, match="shares blocks and has experts"):
            variants_of(replace_fields(TINY, options))


def test_variants_are_chosen_by_name() -> None:
    assert [v.name for v in chosen(VARIANTS, ["base", "full"])] == ["base", "full"]
    assert [v.name for v in chosen(VARIANTS, [])] == list(VARIANTS)
    with pytest.raises(ValueError, match="no variant huge: give some of full, shared"):
        chosen(VARIANTS, ["huge", "full"])
