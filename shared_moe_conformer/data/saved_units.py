"""Which units an experiment was trained with: whoever goes on with it must number the same pieces alike.

The lang folder may be made anew meanwhile, with as many units as before.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from shared_moe_conformer.atomic import atomic_file
from shared_moe_conformer.config import require
from shared_moe_conformer.data.tokenizer import TOKENS_FILE, tokens_text


def save_units(exp_dir: Path, pieces: Sequence[str]) -> None:
    """Write the pieces of the units 0, 1, .. into an experiment's folder, in a file as the lang folder's."""
    with atomic_file(exp_dir / TOKENS_FILE) as file:
        file.write(tokens_text(pieces).encode())


def saved_units(exp_dir: Path) -> list[str] | None:
    """The pieces that `save_units` wrote; None if nobody has."""
    path = exp_dir / TOKENS_FILE
    if not path.is_file():
        return None
    return [line.rsplit(" ", 1)[0] for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def refuse_other_units(exp_dir: Path, pieces: Sequence[str]) -> None:
    """Raise `ValueError` unless these are the pieces with which the experiment in a folder, if any, was trained."""
    pairs = itertools.zip_longest(saved_units(exp_dir) or pieces, pieces)
    different = [(number, *pair) for number, pair in enumerate(pairs) if pair[0] != pair[1]]
    number, then, now = different[0] if different else (0, "", "")
    require(
        not different,
        f"{exp_dir} was trained with other units than those of the lang folder now: unit {number} was {then!r} and is "
        f"{now!r}; prepare the texts as they were then, or train anew in another --exp-dir",
    )
