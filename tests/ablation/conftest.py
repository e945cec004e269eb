"""Results that nobody measured, for the tests of what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from shared_moe_conformer.ablation.results import MethodErrors, Result
from shared_moe_conformer.ablation.runs import METHODS

WORDS, CHARACTERS = (4, 2, 3, 1), (20, 10, 15, 5)


@pytest.fixture
def make_result() -> Callable[..., Result]:
    """A result whose every search made these word errors, and twice as many of characters."""

    def make(variant: str = "full", seed: int = 1, errors: tuple[int, ...] = (1, 1, 1, 0), **changes: Any) -> Result:
        found = MethodErrors("", 0, 0, sum(errors), errors, tuple(2 * count for count in errors))
        values: dict[str, Any] = {
            "config": "base",
            "variant": variant,
            "seed": seed,
            "num_epochs": 2,
            "avg": 1,
            "options": {"seed": str(seed)},
            "encoder_unique": {"full": 3000, "shared": 600}.get(variant, 1000),
            "encoder_active": 3000,
            "updates": 10,
            "minutes": 0.5,
            "hardware": "a CPU, 1 threads",
            "engine": "torch 2, no k2",
            "commit": "0123456789abcdef",
            "command": "./train.py",
            "words": WORDS,
            "characters": CHARACTERS,
            "methods": tuple(replace(found, method=method) for method in METHODS),
        }
        return Result(**{**values, **changes})

    return make
