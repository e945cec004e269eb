from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared_moe_conformer.config import Config, replace_fields
from shared_moe_conformer.sizes import (
    BEGUN,
    CODED_SHARE,
    CORPUS_SIZES,
    corpus_size,
    kind_of,
    named_sizes,
    narrower,
    recipe_configs,
    sizes_of,
    wider,
)

ROOT = Path(__file__).resolve().parent.parent
CALLS: dict[str, Any] = {"corpus": "calls", "language": "en", "licence": "CC0-1.0", "vocab_size": 50}
BASE = replace_fields(Config(), {"group_sizes": (3, 2), "experts_in": "both", "num_experts": 4})


def test_the_sizes_differ_in_what_they_are_compared_for() -> None:
    sizes = named_sizes(BASE, small={"encoder_dim": 64})
    assert list(sizes) == ["full", "shared", "base", "merged", "streaming", "small"]
    assert sizes["base"] == BASE
    assert sizes["shared"] == replace_fields(BASE, {"experts_in": "none"})
    assert sizes["full"].model.encoder.group_sizes == (1, 1, 1, 1, 1)
    assert replace_fields(sizes["full"], {"group_sizes": (3, 2)}) == sizes["shared"]
    levelled = named_sizes(replace_fields(BASE, {"loudness_norm": True}), small={})["streaming"]
    assert levelled == replace_fields(sizes["streaming"], {"gain_probability": 0.5})
    assert sizes["small"] == replace_fields(BASE, {"encoder_dim": 64})
    whole = {"chunk_sizes": (), "left_contexts": BASE.model.encoder.left_contexts}
    for live in ("base", "merged"):
        streaming = named_sizes(BASE, small={}, live=live)["streaming"]
        assert streaming.model.encoder.chunk_sizes and replace_fields(streaming, whole) == sizes[live]


@pytest.mark.parametrize(("hours", "layers"), [(0.01, 6), (1.9, 6), (2.0, 6), (9, 8), (100, 12), (50_000, 12)])
def test_hours_choose_the_sizes_of_a_recipe(hours: float, layers: int) -> None:
    base = recipe_configs(hours, **CALLS)["base"]
    assert (base.data.corpus, base.model.encoder.num_layers) == ("calls", layers)
    assert (base.model.vocab_size, base.data.lang_dir) == (50, "data/lang_bpe_50")
    assert base.training.num_epochs == corpus_size(hours).options["num_epochs"]


def test_more_hours_give_larger_models_and_batches() -> None:
    bases = [recipe_configs(hours, **CALLS)["base"] for hours in (1, 5, 20, 100, 1000)]
    assert [b.model.encoder.encoder_dim for b in bases] == [128, 144, 192, 256, 256]
    assert [b.data.max_duration for b in bases] == [15.0, 30.0, 60.0, 300.0, 300.0]
    assert corpus_size(2.0) is CORPUS_SIZES[1], "a corpus at a bound is of the larger size"


def test_options_of_a_recipe_win_over_those_of_its_size() -> None:
    configs = recipe_configs(
        1.0, **CALLS, changes={"num_epochs": 3, "num_experts": 5}, own={"small": {"num_experts": 1}}
    )
    assert {c.training.num_epochs for c in configs.values()} == {3}
    assert (configs["base"].model.encoder.num_experts, configs["small"].model.encoder.num_experts) == (5, 1)
    with pytest.raises(ValueError, match="no option is called encoder_dims"):
        recipe_configs(1.0, **CALLS, changes={"encoder_dims": 3})
    with pytest.raises(ValueError, match="a corpus of 0 hours"):
        recipe_configs(0, **CALLS)


@pytest.mark.parametrize("name", ["base", "merged"])
def test_options_of_one_config_are_in_no_other(name: str) -> None:
    begun = {"init_from": "zoo/a", **BEGUN}
    plain, changed = recipe_configs(1.0, **CALLS), recipe_configs(1.0, **CALLS, own={name: begun})
    assert changed.pop(name) == replace_fields(plain.pop(name), begun)
    assert list(changed.items()) == list(plain.items())
    with pytest.raises(ValueError, match="no config is called bases: there are full, shared"):
        recipe_configs(1.0, **CALLS, own={"bases": begun})
    with pytest.raises(ValueError, match="no config is called large: there are full, shared"):
        recipe_configs(1.0, **CALLS, recommended="large")


def test_the_recommended_config_is_the_first() -> None:
    first = [next(iter(recipe_configs(hours, **CALLS))) for hours in (0.1, 5, 9, 100, 1000)]
    assert first == ["merged", "merged", "base", "base", "base"]
    live = [recipe_configs(hours, **CALLS)["streaming"].model.encoder.merged_sets for hours in (0.1, 5, 9, 100, 1000)]
    assert live == [2, 2, 1, 1, 1], "streaming is the recommended config in chunks"
    assert list(recipe_configs(1.0, **CALLS, recommended="small")) == [
        "small", "full", "shared", "base", "merged", "streaming"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["base", "merged"])
def test_a_config_takes_the_sizes_of_the_model_that_it_begins_with(name: str) -> None:
    usual = recipe_configs(3.0, **CALLS)
    unlike = {"chunk_sizes": (0, 8), "vocab_size": 9, "dropout": 0.3} if name == "base" else {"dropout": 0.3}
    sizes = {"feed_forward_dim": 512, "encoder_dim": 128, "group_sizes": (3, 3), "joiner_dim": 96}
    trained = replace_fields(recipe_configs(3.0, **CALLS, changes=sizes)[name], unlike)
    assert kind_of(trained) == name
    assert sizes_of(trained, usual) == sizes
    assert (kind_of(usual["full"]), kind_of(usual["shared"])) == ("", "")


def test_wider_undoes_narrower() -> None:
    assert all(narrower(wider(channels)) == channels for channels in range(1, 3000))


@pytest.mark.parametrize("recipe", ["an4", "speechocean762"])
def test_small_recipes_have_as_many_cuts_coded_as_new_ones(recipe: str) -> None:
    assert f"\ncoded_share={CODED_SHARE}\n" in (ROOT / "egs" / recipe / "ASR/prepare.sh").read_text()
