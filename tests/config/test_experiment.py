from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from shared_moe_conformer.cli import field_docs
from shared_moe_conformer.config import (
    Config,
    LmConfig,
    TrainingConfig,
    load_config,
    refuse_idle,
    replace_fields,
    save_config,
)
from shared_moe_conformer.config.idle import DEPENDENT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"prune_range": 1}, "prune_range"),
        ({"shared_block_lr_scale": "half"}, "none, inverse_sqrt, inverse"),
        ({"accumulate_batches": 0}, "accumulate_batches"),
        ({"ctc_loss_scale": -0.3}, "ctc_loss_scale is -0.3: give 0 or more"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
        ({"lm_only_scale": 0.8, "am_only_scale": 0.5}, "lm_only_scale and am_only_scale are 1.3 together"),
    ],
)
def test_a_training_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**options)


MERGED = replace_fields(Config(), {"experts_in": "none", "merged_sets": 2})


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (MERGED, {"num_experts": 4, "top_k": 2}, "--num-experts, --top-k: .* experts_in is none: give --experts-in"),
        (Config(), {"merge_gates": "network"}, "--merge-gates: nothing .* merged_sets is 1: give --merged-sets too"),
        (Config(), {"decay_epochs": 3}, "--decay-epochs: .* lr_schedule is cosine: give --lr-schedule too"),
        (Config(), {"teacher_avg": 2, "clean_teacher": True}, "--teacher-avg, --clean-teacher: .* teacher is empty"),
        (Config(), {"left_contexts": (16,)}, "--left-contexts: .* chunk_sizes is empty: give --chunk-sizes too"),
        (Config(), {"made_noise_snr": (0.0, 9.0)}, "since made_noise_probability is 0.0 and noise_alone_probability"),
        (LmConfig(), {"num_heads": 2}, "--num-heads: .* lm_type is rnn: give --lm-type too"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(
    config: Config | LmConfig, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        refuse_idle(replace_fields(config, options), options)


def test_flags_that_do_something_are_not_refused() -> None:
    for config, options in (
        (MERGED, {"num_experts": 4, "experts_in": "first"}),
        (MERGED, {"merge_gates": "network", "dropout": 0.2}),
        (Config(), {"num_experts": 4, "merged_sets": 2, "merged_parts": ("attention",)}),
        (Config(), {"num_experts": 4, "experts_in": "none"}),  # as an ablation's options of all its variants
        (Config(), {"lr_schedule": "wsd", "decay_epochs": 3}),
        (Config(), {"noise_alone_probability": 0.1, "made_noises": ("hum",), "conditions_after": 2}),
    ):
        refuse_idle(replace_fields(config, options), options)


def test_options_that_depend_on_others_exist() -> None:
    names = {name for _, name in (*leaves(Config), *leaves(LmConfig))}
    assert {name for options, _, dependents in DEPENDENT for name in (*options, *dependents)} <= names


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
