from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import save_config, to_dict
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.forms.catalogue import write_form
from shared_moe_conformer.forms.transformers_folder import write_transformers
from shared_moe_conformer.release.manifest import CONFIG_FILE, expected_text, reference_text
from shared_moe_conformer.release.zoo_index import verify_sums, write_sums

Save = Callable[..., Path]


def test_the_folder_holds_encoder_and_ctc_head_and_names_its_classes(
    saved: Save, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    source, folder = saved(), tmp_path / "hf"
    assert [*write_form("transformers", source, folder)] == [f"{folder}: transformers form of tiny"]
    verify_sums(folder, required=["config.json", "model.safetensors", "bpe.model"])
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    expected = tiny_bundle.model.state_dict()
    for name, value in weights.items():
        assert torch.equal(value, expected[name.removeprefix("conformer.")])
    assert {name.split(".")[0] for name in weights} == {"conformer", "ctc_head"}
    assert len(weights) == sum(name.startswith(("encoder.", "ctc_head.")) for name in expected)
    config = json.loads((folder / "config.json").read_text())
    assert config["encoder"] == to_dict(tiny_bundle.config.model.encoder)
    assert (config["vocab_size"], config["inputs_to_logits_ratio"]) == (40, 640)
    code = (folder / "code_shared_moe_conformer.py").read_text()
    for file in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        for place in json.loads((folder / file).read_text())["auto_map"].values():
            module, name = (place if isinstance(place, str) else place[0]).split(".")
            assert module == "code_shared_moe_conformer" and f"        {name},\n" in code


def test_its_card_is_for_transformers_and_its_text_is_that_of_ctc(saved: Save, tmp_path: Path) -> None:
    rates = {"test": {"greedy_search": 9.0, "ctc_greedy_search": 5.5, "ctc_greedy_search-chunk-size-16": 7.0}}
    source, folder = saved(error_rates=rates, segment_seconds=5.0), tmp_path / "hf"
    write_transformers(source, folder)
    ctc = DecodingConfig(decoding_method="ctc_greedy_search")
    assert expected_text(folder) == Bundle.load(source).transcribe(source / "test.wav", decoding=ctc).text != ""
    assert reference_text(folder) == "ONE TWO THREE FOUR"
    _, header, page = (folder / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["library_name"] == "transformers"
    (result,) = card["model-index"][0]["results"]
    assert [metric["value"] for metric in result["metrics"]] == [5.5, 7.0]
    assert "| test | ctc_greedy_search-chunk-size-16 | 7.00 % |" in page and "chunk_length_s=5," in page


def test_a_model_without_ctc_is_refused_and_a_folder_is_not_replaced_unasked(saved: Save, tmp_path: Path) -> None:
    source, folder = saved(), tmp_path / "hf"
    write_transformers(source, folder)
    with pytest.raises(FileExistsError):
        write_transformers(source, folder)
    config = Bundle.load(source).config
    without = dataclasses.replace(config, training=dataclasses.replace(config.training, ctc_loss_scale=0.0))
    save_config(without, source / CONFIG_FILE)
    write_sums(source)
    with pytest.raises(ValueError, match=r"tiny was trained without CTC \(ctc_loss_scale 0\), and transformers"):
        write_transformers(source, tmp_path / "other")
    assert not (tmp_path / "other").exists()
