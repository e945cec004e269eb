"""The searches that a config asks for: their resources, the work that they share, and their names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shared_moe_conformer.config import replace_fields, require
from shared_moe_conformer.decoding.methods import HOTWORDS, METHODS, used
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.resources import LOADERS, Resources
from shared_moe_conformer.decoding.tuned import NO_VALUES, Values, with_values
from shared_moe_conformer.lattice.decoding_graph import chosen_topology
from shared_moe_conformer.lattice.engine import lattice_engine, transducer_search

if TYPE_CHECKING:
    from shared_moe_conformer.data.tokenizer import Tokenizer

RESOLVED = ("decoding_method", "lattice_engine", "ctc_topology")
"""Options that `resolved` sets, whatever the method."""
OF_ENCODER = ("chunk_size", "left_context_frames")
"""Options of the encoder, which every method has."""
UNNAMED_BY_DEFAULT = ("blank_penalty",)
"""Options that came after results had been named; file names leave them out where they have their defaults."""


def resolved(
    config: DecodingConfig, *, vocab_size: int, tuned: Mapping[str, Values] = NO_VALUES
) -> list[DecodingConfig]:
    """One config for each search that the given one asks for, without any "auto".

    For all methods these are all that can run here: over each graph, by each lattice engine that is installed.

    Args:
      tuned: values by method, instead of the config's.

    Raises:
      ValueError: one method is asked for, and the lattice engine that it needs is not installed, or it lacks one of
        the given options.
    """
    config = replace_fields(config, {"ctc_topology": chosen_topology(config.ctc_topology, vocab_size)})
    if config.decoding_method == "all":
        variants = [v for name in METHODS for v in _variants(replace_fields(config, {"decoding_method": name}))]
    else:
        _require_its_own_options(config)
        by_all = _by_engines(config) if config.lattice_engine == "all" else []
        variants = by_all or [_with_engine(config)]
    best = [with_values(variant, tuned.get(variant.decoding_method, {})) for variant in variants]
    return [at_scale for variant in best for at_scale in _at_each_scale(variant)]


def _require_its_own_options(config: DecodingConfig) -> None:
    """Refuse options that the method does not have: another method must have been meant."""
    method = config.decoding_method
    for f in fields(config):
        users = [name for name, m in METHODS.items() if f.name in m.options]
        require(
            method in users or f.name in (*RESOLVED, *OF_ENCODER) or getattr(config, f.name) == f.default,
            f"{method} has no --{f.name.replace('_', '-')}, which is an option of {', '.join(users)}",
        )


def _at_each_scale(config: DecodingConfig) -> list[DecodingConfig]:
    """The config at each of its LM scales."""
    if not METHODS[config.decoding_method].at_scales:
        return [config]
    return [replace_fields(config, {"lm_scales": (scale,)}) for scale in config.lm_scales]


def _with_engine(config: DecodingConfig) -> DecodingConfig:
    engines = METHODS[config.decoding_method].engines
    if not engines:
        return config
    require(
        config.lattice_engine in ("auto", *engines),
        f"{config.decoding_method} needs {engines[0]}: leave --lattice-engine {config.lattice_engine} out",
    )
    if engines == ("k2",):
        transducer_search()
        return replace_fields(config, {"lattice_engine": "k2"})
    return replace_fields(config, {"lattice_engine": lattice_engine(config.lattice_engine).name})


def _variants(config: DecodingConfig) -> list[DecodingConfig]:
    """The method over each of its graphs, by each of its engines."""
    graphs = ("H", "HLG") if "graph" in METHODS[config.decoding_method].options else (config.graph,)
    return [variant for graph in graphs for variant in _by_engines(replace_fields(config, {"graph": graph}))]


def _by_engines(config: DecodingConfig) -> list[DecodingConfig]:
    """The method by each of its engines that is chosen and installed; as it is, if it needs none."""
    engines = METHODS[config.decoding_method].engines
    chosen = [name for name in engines if config.lattice_engine in ("auto", "all", name) and _is_installed(name)]
    return [replace_fields(config, {"lattice_engine": name}) for name in chosen] if engines else [config]


def _is_installed(engine: Any) -> bool:
    try:
        lattice_engine(engine)
    except ValueError:
        return False
    return True


class Loaded(NamedTuple):
    """Searches and what they need."""

    configs: list[DecodingConfig]
    resources: Resources
    left_out: dict[str, str]
    """Searches whose resources are missing, and why."""


def load_resources(configs: Sequence[DecodingConfig], lang_dir: Path, tokenizer: Tokenizer) -> Loaded:
    """Load what the searches need, each part once; of several searches, those that lack a part are left out.

    Args:
      configs: as `resolved` gives them.

    Raises:
      FileNotFoundError: the only method needs a file that is not there.
      ValueError: it needs one that is damaged or stale.
    """
    parts: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, config in {name: c for c in configs for name in used(c) if name in LOADERS}.items():
        try:
            parts[name] = LOADERS[name](config, lang_dir, tokenizer)
        except (FileNotFoundError, ValueError, ImportError) as error:
            if len({c.decoding_method for c in configs}) == 1:
                raise
            problems[name] = " ".join(str(error).split())
    left_out = {label(c): problems[n] for c in configs for n in used(c) if n in problems}
    kept = [config for config in configs if label(config) not in left_out]
    return Loaded(kept, Resources(**parts, to_text=tokenizer.decode), left_out)


def grouped(configs: Sequence[DecodingConfig]) -> list[list[DecodingConfig]]:
    """The configs in lists of those for which one search serves."""

    def search_of(config: DecodingConfig) -> DecodingConfig:
        return replace_fields(config, {"lm_scales": (0.0,)}) if METHODS[config.decoding_method].at_scales else config

    return [list(group) for _, group in itertools.groupby(configs, key=search_of)]


def settings(config: DecodingConfig) -> str:
    """The method and every option that changes its result, as file names carry them: greedy_search-max-sym-.."""
    method = METHODS[config.decoding_method]
    left_out = set() if config.hotwords or config.hotwords_file else set(HOTWORDS)
    left_out |= {
        f.name for f in fields(config) if f.name in UNNAMED_BY_DEFAULT and getattr(config, f.name) == f.default
    }
    values = {name: getattr(config, name) for name in method.options if name not in left_out}
    if config.chunk_size:
        values |= {name: getattr(config, name) for name in OF_ENCODER}
    if "hotwords" in values:
        values["hotwords"] = re.sub(r"\W+", "_", "+".join(config.hotwords))
    if "lm_scales" in values:
        values["lm_scale"] = "+".join(map(str, values.pop("lm_scales")))
    values |= {name: Path(values[name]).stem for name in ("hotwords_file", "rescoring_ngram") if name in values}
    return "-".join(
        [
            config.decoding_method,
            *(f"{name.replace('_', '-')}-{value}" for name, value in values.items() if value != ""),
        ]
    )


def label(config: DecodingConfig) -> str:
    """The method, with its graph and its engine if it has them, as tables name it."""
    method = METHODS[config.decoding_method]
    graph = config.graph if "graph" in method.options else "HLG"
    over = f" over {graph}" if "word_graph" in method.uses else ""
    by = f" ({config.lattice_engine})" if len(method.engines) > 1 else ""
    at = f" at {'+'.join(map(str, config.lm_scales))}" if method.at_scales else ""
    return f"{config.decoding_method}{over}{by}{at}"
