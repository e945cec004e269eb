"""The verb that counts parameters: `python -m shared_moe_conformer.params egs/asterisk/ASR/config.py`."""

from __future__ import annotations

import argparse
import dataclasses
import runpy
from collections.abc import Sequence
from pathlib import Path

from shared_moe_conformer.cli import program, run_main
from shared_moe_conformer.config import Config, ModelConfig, load_config, require
from shared_moe_conformer.parameters import ParameterCounts, count_parameters


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=program("params"),
        description="Count parameters: unique (stored), unrolled (counted once for each layer that uses them) and "
        "active (those that compute a frame: of the experts only the chosen ones).",
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
    """The counts of every part, and how the encoder compares with encoders that share nothing."""
    counts = _counts(config, config.model)
    lines = [f"{name:<12}" + "".join(f"{column:>14}" for column in ParameterCounts._fields)]
    lines += [f"  {part:<10}" + "".join(f"{count:>14,}" for count in row) for part, row in counts.items()]
    for title, peer in peers(config.model).items():
        lines.append(f"  encoder, unique, is {_ratio(counts, _counts(config, peer))} of {title}")
    return "\n".join(lines)


def peers(config: ModelConfig) -> dict[str, ModelConfig]:
    """Models to compare with: the same unshared, and unshared without experts, as far as they differ from it."""
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
