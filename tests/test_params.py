from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from shared_moe_conformer import params
from shared_moe_conformer.config import Config, replace_fields, save_config
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.params import count_parameters, peers, read_configs, table
from tests.experts import WITH_ALL

SMALL = replace_fields(
    Config(),
    {
        "encoder_dim": 16,
        "num_attention_heads": 2,
        "feed_forward_dim": 24,
        "subsampling_channels": 4,
        "group_sizes": (3,),
        "num_experts": 4,
        "vocab_size": 11,
        "decoder_dim": 8,
        "joiner_dim": 12,
    },
)


def test_unique_counts_are_what_the_model_stores(model_config: Any) -> None:
    config = model_config(experts_in="both")
    stored = sum(parameter.numel() for parameter in AsrModel(config, num_mel_bins=20).parameters())
    counts = count_parameters(config, num_mel_bins=20)
    assert counts["total"].unique == stored == sum(counts[part].unique for part in counts if part != "total")


@pytest.mark.parametrize("individual", [True, False])
def test_unrolled_is_what_the_unshared_model_stores(model_config: Any, individual: bool) -> None:
    config = model_config(individual_norms=individual, individual_routers=individual)
    alone = dataclasses.replace(config, encoder=config.encoder.unshared())
    unrolled = count_parameters(config, num_mel_bins=20)["encoder"].unrolled
    assert unrolled == count_parameters(alone, num_mel_bins=20)["encoder"].unique


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_active_leaves_out_the_experts_that_are_not_chosen(model_config: Any, top_k: int) -> None:
    counts = count_parameters(model_config(top_k=top_k), num_mel_bins=20)["encoder"]
    expert = 16 * 24 + 24 + 24 * 16 + 16
    assert counts.unrolled - counts.active == 4 * (4 - top_k) * expert


def test_active_holds_the_common_expert_and_the_norm_of_every_layer(model_config: Any) -> None:
    """Four layers, whose second feed-forward has 4 experts of 5 channels, two of them active, and a common one of 7."""
    dense = count_parameters(model_config(experts_in="none"), num_mel_bins=20)["encoder"]
    counts = count_parameters(model_config(**WITH_ALL), num_mel_bins=20)["encoder"]
    sizes = {hidden: 2 * 16 * hidden + hidden + 16 for hidden in (5, 7, 24)}
    own = 2 * sizes[5] + sizes[7] + 2 * 16 + 4 * 16  # experts, norm, router
    assert counts.active - dense.active == 4 * (own - sizes[24])
    assert counts.unrolled - counts.active == 4 * 2 * sizes[5]


def test_unique_counts_follow_the_formula_of_the_readme(encoder_config: Any, model_config: Any) -> None:
    """Per group: attention 4C^2 + 4C, convolution 3C^2 + (k + 4)C, each feed-forward 2CH + C + H (times E where it
    carries experts); per layer: six norms of 2C and a router of CE."""
    config = encoder_config()
    c, h, e, k = config.encoder_dim, config.feed_forward_dim, config.num_experts, config.conv_kernel_size
    feed_forward = 2 * c * h + c + h
    group = 4 * c * c + 4 * c + 3 * c * c + (k + 4) * c + feed_forward * (1 + e)
    layer = 6 * 2 * c + c * e
    s = config.subsampling_channels
    front_end = 10 * s + 10 * s + s * s + s + s * 4 * c + c
    expected = front_end + 2 * group + 4 * layer
    assert count_parameters(model_config(), num_mel_bins=20)["encoder"].unique == expected


def test_merged_sets_follow_the_formula_too(encoder_config: Any, model_config: Any) -> None:
    """Each part without experts is stored M times, and each layer has M gates for it."""
    config = encoder_config()
    c, h, k = config.encoder_dim, config.feed_forward_dim, config.conv_kernel_size
    parts = 4 * c * c + 4 * c + 3 * c * c + (k + 4) * c + 2 * c * h + c + h
    plain, merged = (count_parameters(model_config(merged_sets=m))["encoder"] for m in (1, 3))
    assert merged.unique - plain.unique == 2 * 2 * parts + 4 * 3 * 3
    assert merged.active - plain.active == 4 * 3 * 3
    assert merged.unrolled - merged.active == plain.unrolled - plain.active + 4 * 2 * parts


def numbers(text: str, row: str) -> list[int]:
    (line,) = (line for line in text.splitlines() if line.split()[0] == row)
    return [int(number.replace(",", "")) for number in line.split()[1:]]


def size(config: Config) -> int:
    return sum(p.numel() for p in AsrModel(config.model).encoder.parameters())


def test_the_parts_add_up_to_the_model() -> None:
    text = table("small", SMALL)
    stored = sum(p.numel() for p in AsrModel(SMALL.model).parameters())
    parts = [name for name, _ in AsrModel(SMALL.model).named_children()]
    assert numbers(text, "total") == [sum(column) for column in zip(*(numbers(text, part) for part in parts))]
    unique, unrolled, active = numbers(text, "total")
    assert unique == stored and unique < active < unrolled


def test_ratios_are_to_the_unshared_models() -> None:
    text = table("small", SMALL)
    alone = replace_fields(SMALL, {"group_sizes": (1, 1, 1)})
    dense = replace_fields(alone, {"experts_in": "none"})
    assert f"{size(SMALL) / size(alone):.3f} (1/{size(alone) / size(SMALL):.1f}) of the same model unshared" in text
    assert f"{size(SMALL) / size(dense):.3f}" in text.splitlines()[-2] and "without experts" in text.splitlines()[-2]


def test_a_model_is_not_compared_with_itself() -> None:
    dense = replace_fields(SMALL, {"experts_in": "none"})
    assert list(peers(dense.model)) == ["the same model unshared"]
    assert peers(replace_fields(dense, {"group_sizes": (1, 1)}).model) == {}


def test_a_recipe_has_named_configs_and_an_experiment_one(tmp_path: Path) -> None:
    recipe = tmp_path / "config.py"
    recipe.write_text("from shared_moe_conformer.config import Config\nCONFIGS = {'a': Config(), 'b': Config()}\n")
    assert read_configs(recipe) == {"a": Config(), "b": Config()}
    (tmp_path / "exp").mkdir()
    save_config(SMALL, tmp_path / "exp" / "config.json")
    assert read_configs(tmp_path / "exp") == read_configs(tmp_path / "exp" / "config.json") == {"exp": SMALL}


def test_one_config_of_several_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_config(SMALL, tmp_path / "config.json")
    code = "from shared_moe_conformer.config import load_config\nfrom pathlib import Path\n"
    code += f"a = load_config(Path({str(tmp_path / 'config.json')!r}))\nCONFIGS = {{'one': a, 'two': a}}\n"
    (tmp_path / "config.py").write_text(code)
    params.main([str(tmp_path / "config.py"), "--config", "two"])
    shown = capsys.readouterr().out
    assert shown.startswith("two") and "one " not in shown


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        (None, [], "no file"),
        ("CONFIGS = 3\n", [], "has no CONFIGS"),
        ("CONFIGS = {}\n", ["--config", "base"], "--config base"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, flags: list[str], message: str
) -> None:
    path = tmp_path / "config.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit, match="1"):
        params.main([str(path), *flags])
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no config in"):
        read_configs(tmp_path)
