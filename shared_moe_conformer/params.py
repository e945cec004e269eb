"""Counts of the parameters that a model stores, unrolls and touches, and of the layers that use each.

`python -m shared_moe_conformer.params egs/asterisk/ASR/config.py` prints them.
"""

from __future__ import annotations

import argparse
import dataclasses
import runpy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from shared_moe_conformer.cli import program, run_main
from shared_moe_conformer.config import Config, ModelConfig, load_config, require
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import Encoder
from shared_moe_conformer.model.merging import Merged
from shared_moe_conformer.model.moe import MoeFeedForward


class ParameterCounts(NamedTuple):
    """Parameters of a part of the model."""

    unique: int
    """Stored."""
    unrolled: int
    """Counted once for each layer that uses them."""
    active: int
    """Unrolled, but only the `top_k` experts that compute a frame, and one of several merged sets."""


def count_parameters(config: ModelConfig, *, num_mel_bins: int = 80) -> dict[str, ParameterCounts]:
    """The counts of each part of the model; `total` has those of the whole."""
    return counts_of(AsrModel(config, num_mel_bins=num_mel_bins))


def counts_of(model: AsrModel) -> dict[str, ParameterCounts]:
    """The counts of a model, as `count_parameters` gives them."""
    counts = {"encoder": _encoder_counts(model.encoder)}
    others = {name: _size(part) for name, part in model.named_children() if name != "encoder"}
    counts |= {name: ParameterCounts(size, size, size) for name, size in others.items()}
    return counts | {"total": ParameterCounts(*map(sum, zip(*counts.values())))}


def layers_of(model: nn.Module) -> dict[nn.Parameter, int]:
    """The number of layers that use each parameter of the model's encoders; other parameters are left out.

    The gradient of a parameter is the sum of the layers' gradients.
    """
    encoders = [module for module in model.modules() if isinstance(module, Encoder)]
    layers = (layer for encoder in encoders for layer in encoder.layers())
    return Counter(parameter for layer in layers for module in layer.modules() for parameter in module.parameters())


def _encoder_counts(encoder: Encoder) -> ParameterCounts:
    gates = sum(_size(group.gates) for group in encoder.block_groups() if group.gates is not None)
    modules = [module for layer in encoder.layers() for module in layer.modules()]
    unrolled, active = gates + sum(map(_size, modules)), gates + sum(map(_active, modules))
    front_end = sum(_size(part) for name, part in encoder.named_children() if name not in ("groups", "mixers"))
    return ParameterCounts(_size(encoder), front_end + unrolled, front_end + active)


def _active(part: nn.Module) -> int:
    """Parameters of a block's part that compute a frame: `top_k` of E experts, or the mean of E merged sets."""
    if isinstance(part, Merged):
        return _size(part) // len(part.sets)
    if isinstance(part, MoeFeedForward):
        return _size(part) - _size(part.experts) // part.num_experts * (part.num_experts - part.top_k)
    return _size(part)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=program("params"),
        description="Count parameters: unique (stored), unrolled (counted once for each layer that uses them) and "
        "active (those that compute a frame, so only the chosen experts, and one of several merged sets).",
    )
    parser.add_argument("path", type=Path, help="a recipe's config.py, or an experiment's or a bundle's folder")
    parser.add_argument("--config", help="only this named config of a recipe [all]")
    args = parser.parse_args(arguments)

    def body() -> None:
        configs = read_configs(args.path)
        require(
            args.config in (None, *configs), f"--config {args.config}: {args.path} has {', '.join(map(repr, configs))}"
        )
        print("\n\n".join(table(name, configs[name]) for name in configs if args.config in (None, name)))

    run_main(body)


def read_configs(path: Path) -> dict[str, Config]:
    """The named configs of a recipe's config.py; or the one of an experiment or a bundle, by the folder's name.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file holds no config.
    """
    if path.suffix != ".py":
        file = path / "config.json" if path.is_dir() else path
        return {file.resolve().parent.name: load_config(file)}
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: give a recipe's config.py, or an experiment's folder")
    configs = runpy.run_path(str(path)).get("CONFIGS")
    if not isinstance(configs, dict) or not all(isinstance(config, Config) for config in configs.values()):
        raise ValueError(f"{path} has no CONFIGS = {{name: Config, ...}}: is it a recipe's config.py?")
    return configs


def table(name: str, config: Config) -> str:
    """The counts of every part, and the encoder's size against encoders that share nothing."""
    counts = _counts(config, config.model)
    lines = [f"{name:<12}" + "".join(f"{column:>14}" for column in ParameterCounts._fields)]
    lines += [f"  {part:<10}" + "".join(f"{count:>14,}" for count in row) for part, row in counts.items()]
    for title, peer in peers(config.model).items():
        lines.append(f"  encoder, unique, is {_ratio(counts, _counts(config, peer))} of {title}")
    return "\n".join(lines)


def peers(config: ModelConfig) -> dict[str, ModelConfig]:
    """Models to compare with: the same one unshared, and unshared without experts, unless they are the model itself."""
    alone = dataclasses.replace(config, encoder=config.encoder.unshared())
    dense = dataclasses.replace(alone, encoder=dataclasses.replace(alone.encoder, experts_in="none", expert_blocks=""))
    titles = {dense: "an unshared conformer without experts", alone: "the same model unshared"}
    return {title: peer for peer, title in titles.items() if peer != config}


def _counts(config: Config, model: ModelConfig) -> dict[str, ParameterCounts]:
    return count_parameters(model, num_mel_bins=config.features.num_mel_bins)


def _ratio(counts: dict[str, ParameterCounts], peer: dict[str, ParameterCounts]) -> str:
    unique, of = counts["encoder"].unique, peer["encoder"].unique
    return f"{unique / of:.3f} (1/{of / unique:.1f})"


if __name__ == "__main__":
    main()
