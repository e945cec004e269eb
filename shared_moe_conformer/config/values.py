"""What a value may be: it is refused where it enters."""

from __future__ import annotations

from typing import Any

ADDED_LATER = {"may_be_missing": True}
"""Metadata of a field that older files lack; its default is what was done before it was there."""


def require(condition: bool, message: str) -> None:
    """Raise `ValueError(message)` unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_choice(name: str, value: str, choices: Any) -> None:
    """Refuse a value that is not one of a Literal's."""
    require(value in choices.__args__, f"{name} is {value!r}: give one of {', '.join(choices.__args__)}")
