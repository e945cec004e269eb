from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from shared_moe_conformer.cli import field_docs
from shared_moe_conformer.decoding.methods import METHODS
from shared_moe_conformer.decoding.options import (
    MISSING,
    NOTHING,
    DecodingConfig,
    DecodingMethod,
    Part,
    Resources,
    given,
)


def test_every_option_has_help() -> None:
    assert field_docs(DecodingConfig).keys() == {f.name for f in dataclasses.fields(DecodingConfig)}


def test_every_method_can_be_chosen() -> None:
    assert set(get_args(DecodingMethod)) == METHODS.keys() | {"all"}


def test_parts_are_named_in_one_way() -> None:
    names = {f.name for f in dataclasses.fields(Resources)}
    assert names == set(get_args(Part)) == MISSING.keys() | {"hotwords"}
    assert {name for method in METHODS.values() for name in method.uses} == names
    assert all(getattr(NOTHING, name) is None for name in names)


def test_a_part_that_is_missing_is_named_with_what_makes_it() -> None:
    assert given(0, "token_lm") == 0
    with pytest.raises(ValueError, match="no language model over tokens: run ./prepare.sh"):
        given(NOTHING.token_lm, "token_lm")
