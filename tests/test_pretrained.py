from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shared_moe_conformer.config import Config, replace_fields, save_config
from shared_moe_conformer.data.tokenizer import Tokenizer, save_units
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.pretrained import begin_with, common_units, load_pretrained, origins
from shared_moe_conformer.training.averaging import Selection
from shared_moe_conformer.training.folder import save_checkpoint
from tests.conftest import TINY


@pytest.fixture
def recipe_dir(tmp_path: Path, lang_dir: Path) -> Path:
    """A recipe with an experiment of two epochs."""
    exp_dir = tmp_path / "exp" / "full"
    exp_dir.mkdir(parents=True)
    save_config(replace_fields(TINY, {"lang_dir": str(lang_dir)}), exp_dir / "config.json")
    for epoch in (1, 2):
        model = AsrModel(TINY.model)
        torch.nn.init.constant_(model.ctc_head.bias, float(epoch))
        save_checkpoint(exp_dir / f"epoch-{epoch}.pt", {"model": model.state_dict()})
    return tmp_path


@pytest.mark.parametrize(
    ("selection", "bias"), [(Selection(), 2.0), (Selection("1"), 1.0), (Selection(avg=2), 1.5)], ids=str
)
def test_an_experiment_gives_the_selected_weights(recipe_dir: Path, selection: Selection, bias: float) -> None:
    found = load_pretrained(Path("exp/full"), recipe_dir=recipe_dir, selection=selection)
    assert found.model.ctc_head.bias.eq(bias).all() and not found.model.training
    assert found.config.model == TINY.model and len(found.pieces) == TINY.model.vocab_size


def test_a_bundle_gives_its_model(tmp_path: Path, saved: Callable[..., Path], tiny_bundle) -> None:
    saved("tiny")
    found = load_pretrained(Path("zoo/tiny"), recipe_dir=tmp_path)
    state = tiny_bundle.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.model.state_dict().items())
    with pytest.raises(ValueError, match="one set of weights"):
        load_pretrained(Path("zoo/tiny"), recipe_dir=tmp_path, selection=Selection("3"))


def test_an_experiment_of_another_recipe_keeps_its_own_units(recipe_dir: Path) -> None:
    """Their lang folders may have one name, and as many units."""
    pieces = ["<blk>", *(f"other-{n}" for n in range(1, TINY.model.vocab_size))]
    save_units(recipe_dir / "exp/full", pieces)
    assert load_pretrained(Path("exp/full"), recipe_dir=recipe_dir).pieces == pieces


@pytest.mark.parametrize(
    ("num_own", "options", "modules"),
    [
        (-1, {}, None),
        (3, {}, ["encoder"]),
        (3, {"init_modules": ("encoder", "decoder")}, ["encoder", "decoder"]),
        (-1, {"init_modules": ("encoder",)}, ["encoder"]),
    ],
)
def test_a_model_of_other_units_begins_with_the_encoder_alone(
    recipe_dir: Path, lang_dir: Path, num_own: int, options: dict, modules: list[str] | None
) -> None:
    tokenizer = Tokenizer.load(lang_dir)
    pieces = tokenizer.pieces
    save_units(recipe_dir / "exp/full", [*pieces[:num_own], *(f"other-{n}" for n in range(len(pieces[num_own:])))])
    changes = {"lang_dir": str(lang_dir), "init_from": "exp/full", **options}
    old, model = (AsrModel(TINY.model) for _ in range(2))
    save_checkpoint(recipe_dir / "exp/full/epoch-2.pt", {"model": old.state_dict()})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    said = begin_with(model, replace_fields(TINY, changes), tokenizer, recipe_dir)
    assert said.startswith(f"begins with {', '.join(modules)} of exp/full" if modules else "begins with exp/full")
    for name, value in model.state_dict().items():
        kept = modules is not None and name.split(".")[0] not in modules
        source = (before if kept else old.state_dict())[name]
        assert torch.equal(value.reshape(-1)[:1], source.reshape(-1)[:1]), name


def test_what_is_not_there_is_named(recipe_dir: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no experiment and no released model in .*none: train first"):
        load_pretrained(Path("exp/none"), recipe_dir=recipe_dir)
    for path in (recipe_dir / "exp/full").glob("*.pt"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="no epoch-<N>.pt in .*full: train first"):
        load_pretrained(Path("exp/full"), recipe_dir=recipe_dir)


def test_the_models_that_weights_come_from_are_named_with_their_licences(
    recipe_dir: Path, saved: Callable[..., Path]
) -> None:
    def begins(folder: str) -> Config:
        return replace_fields(TINY, {"init_from": folder, "corpus": "numbers", "licence": "MIT"})

    assert origins(TINY, recipe_dir) == {}
    saved("tiny", begun_with={"older": {"corpus": "calls", "licence": "GPL-3.0-only"}})
    older = {"corpus": TINY.data.corpus, "licence": TINY.data.licence}
    first = {"tiny": older, "older": {"corpus": "calls", "licence": "GPL-3.0-only"}}
    assert origins(begins("zoo/tiny"), recipe_dir) == first
    save_config(begins("zoo/tiny"), recipe_dir / "exp/full/config.json")
    assert origins(begins("exp/full"), recipe_dir) == {"full": {"corpus": "numbers", "licence": "MIT"}, **first}
    save_config(begins("exp/full"), recipe_dir / "exp/full/config.json")  # trained again, with its own pupil
    assert list(origins(begins("exp/full"), recipe_dir)) == ["full"]
    assert origins(begins("exp/gone"), recipe_dir) == {"gone": {}}


def test_paths_in_another_recipes_config_are_relative_to_that_recipe(tmp_path: Path) -> None:
    own, other = tmp_path / "own/ASR", tmp_path / "other/ASR"

    def write(recipe: Path, name: str, corpus: str, init_from: str) -> None:
        (recipe / "exp" / name).mkdir(parents=True)
        config = replace_fields(TINY, {"corpus": corpus, "init_from": init_from})
        save_config(config, recipe / "exp" / name / "config.json")

    write(own, "base", "letters", "")
    write(other, "tuned", "numbers", "exp/base")
    write(other, "base", "calls", "../../own/ASR/exp/base")
    config = replace_fields(TINY, {"init_from": "../../other/ASR/exp/tuned"})
    found = origins(config, own)
    assert {name: its["corpus"] for name, its in found.items()} == {
        "tuned": "numbers",
        "base": "calls",
        "own/ASR/exp/base": "letters",
    }


def test_units_are_matched_by_their_pieces() -> None:
    assert common_units(["<blk>", "A", "B", "NEW"], ["<blk>", "X", "B", "A"]) == [(0, 0), (1, 3), (2, 2)]
