from __future__ import annotations

import dataclasses

from shared_moe_conformer.decoding.methods import METHODS
from shared_moe_conformer.decoding.resources import NOTHING, Resources


def test_methods_use_what_there_is() -> None:
    names = {f.name for f in dataclasses.fields(Resources)}
    assert {name for method in METHODS.values() for name in method.uses} <= names
    assert all(getattr(NOTHING, name) is None for name in names)
