"""The values of searches that were tuned on a split, and the file in an experiment's folder that keeps them."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.config import from_dict, replace_fields, require, to_dict
from shared_moe_conformer.decoding.methods import METHODS
from shared_moe_conformer.decoding.options import DecodingConfig

TUNED_FILE = "decoding.json"
"""The file of tuned values, in an experiment's folder."""
GRIDS: dict[str, tuple[float, ...]] = {
    "hlg_scale": (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5),
    "lm_scales": (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5),
    "ngram_lm_scale": (0.01, 0.03, 0.1, 0.2, 0.3, 0.5),
    "lm_scale": (0.0, 0.1, 0.2, 0.3, 0.5, 0.7),
    "lodr_scale": (0.0, 0.05, 0.1, 0.2, 0.3),
    "hotwords_score": (0.5, 1.0, 1.5, 2.0, 3.0),
    "blank_penalty": (0.0, 0.5, 1.0, 1.5, 2.0, 3.0),
    "beam_size": (4, 8, 16),
}
"""The options that are tuned and the values that are tried, defaults included."""
Values = Mapping[str, float]
"""Options of one method; `lm_scales` has one scale here."""
NO_VALUES: Mapping[str, Values] = MappingProxyType({})


@dataclass(frozen=True)
class Tuned:
    """The best values for one decoding method."""

    options: dict[str, float]
    """Values by option, including those that stayed at their defaults."""
    split: str
    """The split on which they are best."""
    checkpoint: str
    """Name of the weights, e.g. epoch-30-avg-9."""
    wer: float
    """Word error rate (%) on the split."""
    default_wer: float
    """Word error rate (%) at the defaults."""


def tuned_as(config: DecodingConfig) -> str:
    """The name of a search among tuned values: its method, and other options on which its scales depend.

    `nbest_lm_rescore:rnn:H` has a neural language model, and lattices over the CTC topology.
    """
    options, default = METHODS[config.decoding_method].options, DecodingConfig()
    values = [(getattr(config, name), getattr(default, name)) for name in ("lm_type", "graph") if name in options]
    return ":".join([config.decoding_method, *(value for value, usual in values if value != usual)])


def search_named(name: str) -> DecodingConfig:
    """The search with a name that `tuned_as` gave, otherwise with defaults.

    Raises:
      ValueError: there is no such search.
    """
    method, *others = name.split(":")
    require(method in METHODS, f"no decoding method is called {method!r}")
    options = {"graph" if other == "H" else "lm_type": other for other in others}
    config = replace_fields(DecodingConfig(), {"decoding_method": method, **options})
    require(tuned_as(config) == name, f"no search is called {name!r}")
    return config


def tunable(config: DecodingConfig) -> list[str]:
    """The options in `GRIDS` that change this search's result."""
    useless = set() if config.hotwords or config.hotwords_file else {"hotwords_score"}
    options = METHODS[config.decoding_method].options
    if "graph" in options and config.graph == "H":
        useless.add("hlg_scale")
    return [name for name in GRIDS if name in options and name not in useless]


def with_values(config: DecodingConfig, values: Values) -> DecodingConfig:
    """The search with the values that change its result."""
    used = {name: values[name] for name in tunable(config) if name in values}
    return replace_fields(config, {name: (v,) if name == "lm_scales" else v for name, v in used.items()})


def value_of(config: DecodingConfig, name: str) -> float:
    """The value of a tunable option; the first of several `lm_scales`."""
    value: Any = getattr(config, name)
    return value[0] if name == "lm_scales" else value


def require_values(name: str, values: Values) -> None:
    """Refuse values that this version cannot have tuned.

    Args:
      name: the search's name, see `tuned_as`.

    Raises:
      ValueError: an unknown search, an option that it lacks or that is not tuned, or a value that cannot be.
    """
    method = search_named(name).decoding_method
    for option, value in values.items():
        require(
            option in GRIDS and option in METHODS[method].options,
            f"{method} has no option {option!r} that can be tuned",
        )
        require(math.isfinite(value), f"{option} of {method} is {value}: it must be a finite number")
        require(
            isinstance(value, int) or not isinstance(GRIDS[option][0], int),
            f"{option} of {method} is {value}: it must be a whole number",
        )
        replace_fields(DecodingConfig(), {option: (value,) if option == "lm_scales" else value})


def read_tuned(exp_dir: Path) -> dict[str, Tuned]:
    """The tuned values of each method; empty where none were tuned.

    Raises:
      ValueError: the file is damaged, or a newer version's.
    """
    path = exp_dir / TUNED_FILE
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        require(isinstance(values, dict), "not a JSON object")
        found = {method: from_dict(Tuned, of_method) for method, of_method in values.items()}
        for method, tuned in found.items():
            require_values(method, tuned.options)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}; delete it and tune again (./decode.py --tune)") from error
    return found


def write_tuned(exp_dir: Path, found: Mapping[str, Tuned]) -> Path:
    """Write the tuned values of each method into an experiment's folder and return the file."""
    text = json.dumps({method: to_dict(tuned) for method, tuned in found.items()}, indent=2)
    write_whole(exp_dir / TUNED_FILE, f"{text}\n")
    return exp_dir / TUNED_FILE


def not_given(values: Mapping[str, Values], given: Container[str]) -> dict[str, Values]:
    """The values of each method without the options given on the command line, which win."""
    return {method: {n: v for n, v in of_method.items() if n not in given} for method, of_method in values.items()}


def difference(config: DecodingConfig, values: Values) -> str:
    """The changes that values make to a search: `hlg-scale 0.3, beam-size 8`; empty if none."""
    changed = with_values(config, values)
    names = [name for name in tunable(config) if getattr(changed, name) != getattr(DecodingConfig(), name)]
    return ", ".join(f"{flag(name)} {value_of(changed, name):g}" for name in names if name in values)


def differences(configs: Sequence[DecodingConfig], values: Mapping[str, Values]) -> str:
    """The changes to several searches, each method once: `greedy_search blank-penalty 1; 1best hlg-scale 0.3`."""
    changes = {tuned_as(config): difference(config, values.get(tuned_as(config), {})) for config in configs}
    return "; ".join(f"{method} {changed}" for method, changed in changes.items() if changed)


def tuned_note(
    configs: Sequence[DecodingConfig], tuned: Mapping[str, Tuned], *, given: Container[str] = (), checkpoint: str
) -> str:
    """A line about the tuned values that searches use; empty if there are none.

    Args:
      tuned: as `read_tuned` gives it.
      checkpoint: the name of the weights.
    """
    changes = differences(configs, not_given(values_of(tuned), given))
    if not changes:
        return ""
    used = [tuned[method] for method in dict.fromkeys(map(tuned_as, configs)) if method in tuned]
    splits = ", ".join(dict.fromkeys(t.split for t in used))
    others = ", ".join(dict.fromkeys(t.checkpoint for t in used if t.checkpoint != checkpoint))
    by_others = f" by {others}, not {checkpoint}" if others else ""
    return f"values tuned on {splits}{by_others} ({TUNED_FILE}): {changes}"


def values_of(tuned: Mapping[str, Tuned]) -> dict[str, dict[str, float]]:
    """The best values by method."""
    return {method: of_method.options for method, of_method in tuned.items()}


def flag(name: str) -> str:
    """An option as the command line spells it, without the leading dashes."""
    return name.replace("_", "-")
