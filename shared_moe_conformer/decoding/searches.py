"""The searches that a config asks for, with tuned values and with the engines that are installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shared_moe_conformer.config import replace_fields, require
from shared_moe_conformer.decoding.methods import METHODS, OF_ENCODER, label, used
from shared_moe_conformer.decoding.options import LOADERS, DecodingConfig, Resources
from shared_moe_conformer.decoding.tuned_values import NO_VALUES, Values, flag, tuned_as, with_values
from shared_moe_conformer.lattice.decoding_graph import chosen_topology
from shared_moe_conformer.lattice.engine import lattice_engine, transducer_search

if TYPE_CHECKING:
    from shared_moe_conformer.data.tokenizer import Tokenizer

RESOLVED = ("decoding_method", "lattice_engine", "ctc_topology")
"""Options that `resolved` sets, whatever the method."""


def resolved(
    config: DecodingConfig, *, vocab_size: int, tuned: Mapping[str, Values] = NO_VALUES
) -> list[DecodingConfig]:
    """One config for each search that the given one asks for, without any "auto".

    "all" stands for every method that can run here, over each graph and by each installed lattice engine.

    Args:
      tuned: values by search (`tuned_as`), instead of the config's.

    Raises:
      ValueError: one of the given options does nothing; or one method is asked for, and the lattice engine that it
        needs is not installed, or it lacks one of the options.
    """
    _refuse_idle(config)
    config = replace_fields(config, {"ctc_topology": chosen_topology(config.ctc_topology, vocab_size)})
    if config.decoding_method == "all":
        require(config.graph == "HLG", "--decoding-method all searches over HLG and over H: leave --graph out")
        variants = [v for name in METHODS for v in _variants(replace_fields(config, {"decoding_method": name}))]
    else:
        _require_its_own_options(config)
        by_all = _by_engines(config) if config.lattice_engine == "all" else []
        variants = by_all or [_with_engine(config)]
    best = [with_values(variant, tuned.get(tuned_as(variant), {})) for variant in variants]
    return [at_scale for variant in best for at_scale in _at_each_scale(variant)]


IDLE: dict[str, tuple[Callable[[DecodingConfig], bool], str]] = {
    "hotwords_score": (lambda config: not config.hotwords and not config.hotwords_file, "without --hotwords"),
    "hlg_scale": (lambda config: config.graph == "H", "over --graph H"),
    "lm_order": (lambda config: config.lm_type != "ngram", "with a neural --lm-type"),
    "left_context_frames": (lambda config: config.chunk_size == 0, "without --chunk-size"),
}
"""Options that do nothing beside some others, and which these are."""


def _refuse_idle(config: DecodingConfig) -> None:
    """Refuse options that do nothing, since something else must be meant."""
    for name, (is_idle, why) in IDLE.items():
        is_given = getattr(config, name) != getattr(DecodingConfig(), name)
        require(not (is_given and is_idle(config)), f"--{flag(name)} does nothing {why}: leave it out")


def _require_its_own_options(config: DecodingConfig) -> None:
    """Refuse options that the method lacks, since another method must be meant."""
    method = config.decoding_method
    for f in fields(config):
        users = [name for name, m in METHODS.items() if f.name in m.options]
        require(
            method in users or f.name in (*RESOLVED, *OF_ENCODER) or getattr(config, f.name) == f.default,
            f"{method} has no --{flag(f.name)}, which is an option of {', '.join(users)}",
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
    """The method by each of its chosen and installed engines, or as it is if it needs none."""
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
    """Load what the searches need, each part once; if there are several, searches that lack a part are left out.

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
