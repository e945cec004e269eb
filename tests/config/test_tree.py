from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from shared_moe_conformer.config import (
    Config,
    EncoderConfig,
    from_dict,
    load_config,
    options_by_name,
    replace_fields,
    require,
    require_choices,
    require_least,
    require_positive,
    to_dict,
    with_options,
)


def test_unknown_and_missing_keys_are_named(tmp_path: Path) -> None:
    values = to_dict(Config())
    values["model"]["encoder"]["num_exprts"] = values["model"]["encoder"].pop("num_experts")
    with pytest.raises(ValueError, match="no option num_exprts"):
        from_dict(Config, values)
    del values["model"]["encoder"]["num_exprts"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="lacks the option num_experts"):
        load_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("data", "num_buckets", "8"),
        ("data", "num_buckets", True),
        ("data", "corpus", 3),
        ("data", "train_cuts", "a.jsonl.gz"),
        ("data", "noise_snr", 10),
        ("data", "noise_snr", ["10", "20"]),
        ("training", "seed", 1.5),
    ],
)
def test_a_value_of_another_type_is_refused(part: str, name: str, value: object) -> None:
    values = to_dict(Config())
    values[part][name] = value
    with pytest.raises(ValueError, match=f"^{name} is .*: it must be "):
        from_dict(Config, values)


def test_a_file_from_before_an_option_was_there_gives_its_default() -> None:
    values = to_dict(Config())
    del values["training"]["accumulate_batches"]
    assert from_dict(Config, values) == Config()


def test_replacing_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match="no option is called num_exprts"):
        replace_fields(Config(), {"num_exprts": 4})


def test_options_have_their_names_at_any_depth() -> None:
    values = {"a": 1, "b": {"c": (2, 3), "d": {"e": None}}}
    assert options_by_name(values) == {"a": 1, "c": (2, 3), "e": None}


def test_what_does_not_hold_is_a_user_s_mistake() -> None:
    require(True, "never said")
    with pytest.raises(ValueError, match="give one"):
        require(False, "give one")


@dataclass(frozen=True)
class Painted:
    colour: Literal["red", "blue"] = "red"
    layers: int = 1


def test_a_choice_is_one_of_its_literal() -> None:
    require_choices(Painted())
    with pytest.raises(ValueError, match="colour is 'green': give one of red, blue"):
        require_choices(Painted(colour="green"))  # type: ignore[arg-type]


def test_numbers_have_a_least_value() -> None:
    require_least(Painted(layers=2), 2, "layers")
    require_positive(Painted(), "layers")
    with pytest.raises(ValueError, match="layers is 1: give 2 or more"):
        require_least(Painted(), 2, "layers")
    with pytest.raises(ValueError, match="layers is 0: give a positive number"):
        require_positive(Painted(layers=0), "layers")


def test_some_options_replace_those_of_a_config() -> None:
    config = with_options(EncoderConfig(dropout=0.3), {"group_sizes": [2, 1], "encoder_dim": 64})
    assert config == EncoderConfig(dropout=0.3, group_sizes=(2, 1), encoder_dim=64)
    with pytest.raises(ValueError, match="EncoderConfig has no option depth"):
        with_options(config, {"depth": 3})
