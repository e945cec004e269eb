"""Groups of utterances by what their supervisions say: speaker, gender, age, language, corpus."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal, get_args

from lhotse import SupervisionSegment

from shared_moe_conformer.config import require

Grouping = Literal["speaker", "gender", "age", "language", "corpus"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)
AGE_GROUPS = (0, 13, 20)
"""Youngest age of each group."""
_CUSTOM = ("age", "corpus")
"""What Lhotse's supervisions have no field for, and recipes write as a custom one."""


def group_of(supervision: SupervisionSegment, by: Grouping, age_groups: Sequence[int] = AGE_GROUPS) -> str:
    """The group of an utterance.

    Raises:
      ValueError: the manifest does not say it.
    """
    value = (supervision.custom or {}).get(by) if by in _CUSTOM else getattr(supervision, by)
    if value is None:
        raise ValueError(f"{supervision.id} has no {by}: the corpus does not say it")
    return _age_group(int(value), age_groups, supervision.id) if by == "age" else str(value)


def _age_group(age: int, age_groups: Sequence[int], name: str) -> str:
    index = bisect_right(age_groups, age)
    require(index > 0, f"{name}: age {age} is below the first of --age-groups")
    youngest = age_groups[index - 1]
    return f"{youngest} to {age_groups[index] - 1}" if index < len(age_groups) else f"{youngest} on"
