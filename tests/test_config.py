from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from shared_moe_conformer.cli import field_docs
from shared_moe_conformer.config import (
    Config,
    DataConfig,
    EncoderConfig,
    FeatureConfig,
    ModelConfig,
    TrainingConfig,
    from_dict,
    load_config,
    options_by_name,
    replace_fields,
    save_config,
    to_dict,
)


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (EncoderConfig, {"top_k": 9, "num_experts": 8}, "top_k is 9 of num_experts 8"),
        (EncoderConfig, {"top_k": 0}, "1 <= top_k"),
        (EncoderConfig, {"group_sizes": ()}, "group_sizes"),
        (EncoderConfig, {"group_sizes": (6, 0)}, "group_sizes"),
        (EncoderConfig, {"encoder_dim": 100, "num_attention_heads": 3}, "encoder_dim 100"),
        (EncoderConfig, {"conv_kernel_size": 4}, "odd"),
        (EncoderConfig, {"experts_in": "third"}, "none, first, second, both"),
        (EncoderConfig, {"dropout": 1.0}, "dropout"),
        (EncoderConfig, {"balancing_bias_rate": -0.1}, "balancing_bias_rate"),
        (EncoderConfig, {"low_rank_delta": 300}, "0 to encoder_dim, 256"),
        (ModelConfig, {"vocab_size": 1}, "vocab_size"),
        (ModelConfig, {"transducer_backend": "cuda"}, "auto, k2, torch"),
        (ModelConfig, {"decoder_dim": 0}, "decoder_dim is 0"),
        (ModelConfig, {"joiner_dim": 0}, "joiner_dim is 0"),
        (DataConfig, {"max_freq_mask_bins": -1}, "max_freq_mask_bins is -1"),
        (DataConfig, {"max_duration": 0.0}, "max_duration"),
        (TrainingConfig, {"learning_rate": -1.0}, "learning_rate"),
        (TrainingConfig, {"prune_range": 1}, "prune_range"),
        (TrainingConfig, {"shared_block_lr_scale": "half"}, "none, inverse_sqrt, inverse"),
        (TrainingConfig, {"accumulate_batches": 0}, "accumulate_batches"),
        (FeatureConfig, {"sampling_rate": 16}, "sampling_rate"),
        (FeatureConfig, {"sampling_rate": 10**9}, "sampling_rate"),
        (FeatureConfig, {"feature_extractor": "sox"}, "feature_extractor"),
    ],
)
def test_a_config_that_cannot_be_is_refused(cls: type, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**options)


def test_json_round_trip(tmp_path: Path) -> None:
    config = replace_fields(Config(), {"group_sizes": (3, 3), "max_duration": 55.5, "experts_in": "both"})
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config != Config()


def test_unknown_and_missing_keys_are_named(tmp_path: Path) -> None:
    values = to_dict(Config())
    values["model"]["encoder"]["num_exprts"] = values["model"]["encoder"].pop("num_experts")
    with pytest.raises(ValueError, match="no option num_exprts"):
        from_dict(Config, values)
    del values["model"]["encoder"]["num_exprts"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="lacks the option num_experts"):
        load_config(tmp_path / "config.json")


def test_a_file_from_before_an_option_was_there_gives_its_default() -> None:
    values = to_dict(Config())
    del values["training"]["accumulate_batches"]
    assert from_dict(Config, values) == Config()


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train first"):
        load_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json"):
        load_config(tmp_path / "config.json")


def test_replacing_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match="no option is called num_exprts"):
        replace_fields(Config(), {"num_exprts": 4})


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


def test_options_have_their_names_at_any_depth() -> None:
    values = {"a": 1, "b": {"c": (2, 3), "d": {"e": None}}}
    assert options_by_name(values) == {"a": 1, "c": (2, 3), "e": None}
