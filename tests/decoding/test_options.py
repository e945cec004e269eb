from __future__ import annotations

import dataclasses
from typing import get_args

from shared_moe_conformer.cli import field_docs
from shared_moe_conformer.decoding.methods import METHODS
from shared_moe_conformer.decoding.options import DecodingConfig, DecodingMethod


def test_every_option_has_help() -> None:
    assert field_docs(DecodingConfig).keys() == {f.name for f in dataclasses.fields(DecodingConfig)}


def test_every_method_can_be_chosen() -> None:
    assert set(get_args(DecodingMethod)) == METHODS.keys() | {"all"}
