from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from shared_moe_conformer.cli import field_docs
from shared_moe_conformer.config import Config, TrainingConfig, load_config, refuse_idle, replace_fields, save_config


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


def test_flags_that_would_do_nothing_are_refused() -> None:
    base, merged = Config(), replace_fields(Config(), {"experts_in": "none", "merged_sets": 2})
    with pytest.raises(
        ValueError, match="^--num-experts, --top-k: nothing .* experts_in is none: give --experts-in too"
    ):
        refuse_idle(replace_fields(merged, {"num_experts": 4, "top_k": 2}), merged)
    with pytest.raises(ValueError, match="^--merge-gates: nothing .* merged_sets is 1: give --merged-sets too"):
        refuse_idle(replace_fields(base, {"merge_gates": "network"}), base)
    for named, options in (
        (merged, {"num_experts": 4, "experts_in": "first"}),
        (merged, {"merge_gates": "network", "dropout": 0.2}),
        (base, {"num_experts": 4, "merged_sets": 2, "merged_parts": ("attention",)}),
        (base, {"num_experts": 4, "experts_in": "none"}),  # as an ablation's options of all its variants
    ):
        refuse_idle(replace_fields(named, options), named)


def test_json_round_trip(tmp_path: Path) -> None:
    config = replace_fields(Config(), {"group_sizes": (3, 3), "max_duration": 55.5, "experts_in": "both"})
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config != Config()


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train first"):
        load_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json"):
        load_config(tmp_path / "config.json")


def leaves(cls: type) -> list[tuple[type, str]]:
    """Every field of a dataclass tree that is not itself a dataclass, with its class."""
    found = []
    for f in dataclasses.fields(cls):
        nested = f.default_factory if f.default_factory is not dataclasses.MISSING else None
        found += leaves(nested) if dataclasses.is_dataclass(nested) else [(cls, f.name)]
    return found


def test_field_names_are_unique_and_each_field_has_a_docstring() -> None:
    names = [name for _, name in leaves(Config)]
    assert len(set(names)) == len(names)
    assert [name for cls, name in leaves(Config) if not field_docs(cls).get(name)] == []
