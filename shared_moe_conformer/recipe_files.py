"""The files of a recipe that is made for a corpus of one's own: templates, filled with what suits its size."""

from __future__ import annotations

import json
import math
import os
import shlex
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from shared_moe_conformer.data.checks import FASTEST, MAX_DURATION, MIN_DURATION, SLOWEST
from shared_moe_conformer.sizes import CONDITIONS, FEW_HOURS

THOROUGH_HOURS = 20.0
"""Above, reading all recordings and features once more for checks takes too long to be the default."""

RATES = (8000, 16000)
"""Lowest and highest sampling rate of features, in Hz."""


class NewRecipe(NamedTuple):
    """The values that the templates need."""

    name: str
    language: str
    licence: str
    audio_dir: Path
    num_utterances: int
    hours: float
    vocab_size: int
    """Units, special ones included."""
    characters_are_units: bool
    texts_are_shared: bool
    """Whether the splits, which the user gave, have texts in common."""
    min_duration: float
    """Seconds of the shortest utterances that are kept."""
    max_duration: float
    """Seconds of the longest."""
    sampling_rate: int = 16000
    """Of the features, in Hz."""


def feature_rate(lowest_sampling_rate: int) -> int:
    """The sampling rate of features for a corpus: its recordings' lowest, but 8000 to 16000 Hz.

    Mel bins above a recording's own band would hold nothing in training, and the hiss of any microphone afterwards.
    """
    lowest, highest = RATES
    return min(max(lowest_sampling_rate, lowest), highest)


def fill_templates(templates: Path, new: Path, recipe: NewRecipe, *, target: Path, local: Path) -> None:
    """Write the files of a recipe.

    Args:
      templates: folder of NAME.in files, in which @word stands for a value.
      new: folder to write into.
      recipe: what it is about.
      target: where the folder will be in the end.
      local: the folder of the programs that all recipes share.
    """
    values = _values(recipe, target=target, local=local)
    for template in sorted(templates.glob("*.in")):
        path = new / template.stem
        path.write_text(_Template(template.read_text(encoding="utf-8")).substitute(values), encoding="utf-8")
        if path.suffix == ".sh":
            path.chmod(0o755)


class _Template(string.Template):
    delimiter = "@"


def _values(recipe: NewRecipe, *, target: Path, local: Path) -> Mapping[str, Any]:
    conditions = CONDITIONS if recipe.hours < FEW_HOURS else {}
    lang_dir = "data/lang_char" if recipe.characters_are_units else f"data/lang_bpe_{recipe.vocab_size}"
    return {
        **_shell_values(recipe, target=target, local=local),
        "conditions": "".join(f'        "{name}": {value},\n' for name, value in conditions.items()),
        "name": recipe.name,
        "corpus": json.dumps(recipe.name),
        "language": json.dumps(recipe.language),
        "licence": json.dumps(recipe.licence),
        "language_name": recipe.language,
        "licence_name": recipe.licence,
        "lang_dir": json.dumps(lang_dir),
        "num_utterances": recipe.num_utterances,
        "hours": max(round(recipe.hours, 2), 0.01),
        "size": f"{recipe.hours:.1f} hours" if recipe.hours >= 1 else f"{60 * recipe.hours:.1f} minutes",
        "sampling_rate": recipe.sampling_rate,
        "band": recipe.sampling_rate // 2,
        "vocab_size": recipe.vocab_size,
        "zoo": _seen_from(target, local.parent / "zoo", clone=local.parent),
    }


def _shell_values(recipe: NewRecipe, *, target: Path, local: Path) -> dict[str, str]:
    """Parts of prepare.sh."""
    size = f"  --vocab-size V     SentencePiece units, in data/lang_bpe_V ({recipe.vocab_size})"
    defaults = [] if recipe.characters_are_units else [f"vocab_size={recipe.vocab_size}"]
    defaults += ["thorough=false"] if recipe.hours > THOROUGH_HOURS else []
    settings = ["unit=char"] if recipe.characters_are_units else []
    settings += [f"sampling_rate={recipe.sampling_rate}"] if recipe.sampling_rate != RATES[1] else []
    allowed = _allowed(recipe)
    settings += [f"allowed=({' '.join(allowed)})"] if allowed else []
    return {
        "vocab_help": "" if recipe.characters_are_units else f"# {size}\n#\n",
        "defaults": "".join(f"{line}\n" for line in defaults),
        "settings": "".join(f"{line}\n" for line in settings),
        "audio_dir": shlex.quote(str(recipe.audio_dir)),
        "stages": _stages(target, local),
    }


def _allowed(recipe: NewRecipe) -> list[str]:
    """Options of validate_cuts.py without which it would refuse what was kept, or copies of it at other speeds."""
    shortest, longest = recipe.min_duration / FASTEST, recipe.max_duration / SLOWEST
    options = ["--shared-texts allowed"] if recipe.texts_are_shared else []
    options += [f"--min-duration {math.floor(100 * shortest) / 100:g}"] if shortest < MIN_DURATION else []
    return options + ([f"--max-duration {math.ceil(longest)}"] if longest > MAX_DURATION else [])


def _stages(target: Path, local: Path) -> str:
    """Path of the stages as a shell finds it, wherever it is started."""
    seen = _seen_from(target, local / "corpus_stages.sh", clone=local.parent)
    return shlex.quote(seen) if Path(seen).is_absolute() else f'"$(dirname "${{BASH_SOURCE[0]}}")/{seen}"'


def _seen_from(target: Path, path: Path, *, clone: Path) -> str:
    """The way to a path from a recipe's folder in the same clone; from elsewhere the whole path."""
    if target.resolve().is_relative_to(clone.resolve()):
        return os.path.relpath(path.resolve(), target.resolve())
    return str(path.resolve())
