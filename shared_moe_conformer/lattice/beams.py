"""How wide a search is, and how one says that it could not be that wide."""

from __future__ import annotations

import functools
import logging
from typing import NamedTuple

MIN_ACTIVE = 30
"""What is kept on a frame even outside of the search beam. Source: icefall's min_active_states."""

logger = logging.getLogger("shared_moe_conformer")


class Beams(NamedTuple):
    """How wide a search is. Source of the names: icefall's get_lattice."""

    search_beam: float
    """Ways this much (nats) worse than a frame's best are dropped."""
    output_beam: float
    """Paths this much (nats) worse than the utterance's best are no part of its lattice."""
    max_active: int
    """States that are kept on a frame at most, 2 or more."""


@functools.cache
def warn_once(message: str) -> None:
    """Say something, the first time only."""
    logger.warning(message)
