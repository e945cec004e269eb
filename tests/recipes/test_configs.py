"""What holds for the configs of every recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared_moe_conformer.config import Config, ModelConfig
from shared_moe_conformer.params import count_parameters, read_configs

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {path.parent.parent.name: path.parent for path in sorted(ROOT.glob("egs/*/ASR/config.py"))}
CONFIGS = {
    (name, config): c for name, folder in RECIPES.items() for config, c in read_configs(folder / "config.py").items()
}
PAIRS = [(recipe, name.replace("base", "full"), name) for recipe, name in CONFIGS if name.startswith("base")]


def test_every_recipe_has_a_base() -> None:
    assert {recipe for recipe, _, _ in PAIRS} == set(RECIPES) and len(RECIPES) >= 4


@pytest.mark.parametrize(("recipe", "full", "base"), PAIRS)
def test_base_stores_at_most_a_third_of_fulls_encoder_and_computes_as_much(recipe: str, full: str, base: str) -> None:
    models = {name: CONFIGS[recipe, name].model for name in (full, base)}
    counts = {name: count_parameters(model)["encoder"] for name, model in models.items()}
    assert 3 * counts[base].unique <= counts[full].unique
    encoder = models[base].encoder
    routers = encoder.num_layers * encoder.encoder_dim * encoder.num_experts
    assert counts[base].active - counts[full].active == routers
    assert encoder.num_layers == models[full].encoder.num_layers
    assert set(models[full].encoder.group_sizes) == {1} and models[full].encoder.experts_in == "none"


@pytest.mark.parametrize(("recipe", "full", "base"), PAIRS)
def test_merged_stores_at_most_a_third_of_fulls_encoder_too(recipe: str, full: str, base: str) -> None:
    merged = CONFIGS[recipe, base.replace("base", "merged")].model
    encoders = [count_parameters(model)["encoder"].unique for model in (merged, CONFIGS[recipe, full].model)]
    assert 3 * encoders[0] <= encoders[1]


@pytest.mark.parametrize(("recipe", "name"), CONFIGS)
def test_the_units_are_those_of_the_lang_folder(recipe: str, name: str) -> None:
    config: Config = CONFIGS[recipe, name]
    folder = config.data.lang_dir.rsplit("/", 1)[-1]
    assert folder in (f"lang_bpe_{config.model.vocab_size}", "lang_char")
    assert config.data.language != "und" and "unknown" not in (config.data.corpus, config.data.licence)


@pytest.mark.parametrize(("recipe", "name"), [key for key in CONFIGS if key[1].startswith("small")])
def test_small_is_smaller(recipe: str, name: str) -> None:
    small, base = (_stored(CONFIGS[recipe, n].model) for n in (name, name.replace("small", "base")))
    assert small < 0.7 * base


@pytest.mark.parametrize("recipe", ["librispeech", "aishell", "yesno", "an4", "uqm", "speechocean762"])
def test_the_readme_says_how_large_the_configs_are(recipe: str) -> None:
    readme = (RECIPES[recipe] / "README.md").read_text()
    for (its_recipe, name), config in CONFIGS.items():
        if its_recipe == recipe and not name.endswith("-100"):
            counts = count_parameters(config.model)["encoder"]
            assert f"| `{name}` | {counts.unique / 1e6:.2f} M | {counts.active / 1e6:.2f} M |" in readme


def _stored(model: ModelConfig) -> int:
    return count_parameters(model)["total"].unique
