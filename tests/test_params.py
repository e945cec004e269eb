from __future__ import annotations

from pathlib import Path

import pytest

from shared_moe_conformer import params
from shared_moe_conformer.config import Config, replace_fields, save_config
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.params import peers, read_configs, table

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
