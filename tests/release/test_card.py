from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared_moe_conformer.config import Config, load_config, replace_fields
from shared_moe_conformer.decoding.methods import METHODS, settings
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.release.card import MARK, card_header, model_card, zoo_card, zoo_header
from shared_moe_conformer.release.manifest import Manifest, read_manifest, without_defaults
from shared_moe_conformer.release.transfer import verify_files
from shared_moe_conformer.release.zoo_index import ZooEntry, read_index

from . import test_manifest

MANIFEST = dataclasses.replace(
    test_manifest.MANIFEST, unique_parameters=1_234_567, error_rates={"test": {"greedy_search": 12.5}}
)


ZOO = Path(__file__).resolve().parents[2] / "zoo"


def header(manifest: Manifest) -> dict[str, Any]:
    _, text, _ = model_card(manifest, Config()).split("---\n", 2)
    return yaml.safe_load(text)


def test_header_says_what_hugging_face_asks_for() -> None:
    values = header(MANIFEST)
    assert values["language"] == ["en"]
    assert values["license"] == "cc-by-sa-3.0"
    assert values["pipeline_tag"] == "automatic-speech-recognition"
    assert values["datasets"] == ["asterisk"]
    assert values["metrics"] == ["wer"]
    assert {"conformer", "mixture-of-experts", "transducer", "ctc"} <= set(values["tags"])
    (result,) = values["model-index"][0]["results"]
    assert result["dataset"] == {"type": "asterisk", "name": "asterisk", "split": "test"}
    assert result["metrics"] == [{"type": "wer", "name": "WER (greedy_search)", "value": 12.5}]


@pytest.mark.parametrize("method", METHODS)
def test_searches_are_named_without_their_defaults(method: str) -> None:
    decoding = DecodingConfig(method, lattice_engine="k2", ctc_topology="standard", lm_scales=(0.5,))  # type: ignore
    kept = {"graph": "-graph-HLG", "lm_scales": "-lm-scale-0.5", "lm_scale": "-lm-scale-0.3"}
    options = METHODS[method].options
    expected = method + "".join(text for option, text in kept.items() if option in options)
    assert list(without_defaults({settings(decoding): 5.0})) == [expected]


def test_engines_with_one_rate_are_one_search() -> None:
    by_k2, by_own = (f"1best-graph-H-lattice-engine-{engine}" for engine in ("k2", "embedded"))
    assert without_defaults({by_k2: 5.0, by_own: 5.0}) == {"1best-graph-H": 5.0}
    assert without_defaults({by_k2: 5.0, by_own: 6.0}) == {"1best-graph-H": 5.0, by_own: 6.0}


def test_hugging_faces_own_reader_finds_the_rates() -> None:
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(model_card(MANIFEST, Config())).data
    (result,) = data.eval_results
    assert (data.license, data.datasets, data.model_name) == ("cc-by-sa-3.0", ["asterisk"], "asterisk-base")
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("wer", 12.5, "test")


def test_no_metrics_where_none_were_measured() -> None:
    values = header(dataclasses.replace(MANIFEST, error_rates={}))
    assert not values.keys() & {"metrics", "model-index"}


def test_other_licences_and_several_languages() -> None:
    values = header(dataclasses.replace(MANIFEST, licence="LicenseRef-mine: 'all'", language="en,fr"))
    assert (values["license"], values["license_name"]) == ("other", "LicenseRef-mine: 'all'")
    assert values["language"] == ["en", "fr"]
    common_voice = header(dataclasses.replace(MANIFEST, licence="CC0-1.0"))
    assert common_voice["license"] == "cc0-1.0" and "license_name" not in common_voice


@pytest.mark.parametrize("part", ["1,234,567", "12.50 %", "--model asterisk-base", "CC-BY-SA-3.0", "8 experts"])
def test_page_for_people(part: str) -> None:
    assert part in model_card(MANIFEST, Config())


def test_the_models_that_training_began_with_are_named() -> None:
    earlier = {"an4-robust": {"corpus": "an4", "licence": "BSD-2-Clause"}, "lost": {}}
    card = model_card(dataclasses.replace(MANIFEST, begun_with=earlier), Config())
    told = "Its training began with the weights of *an4-robust* (an4), which began with *lost* (corpus unknown).\n"
    assert told in card
    licences = "Those of the models that it began with: BSD-2-Clause (an4-robust), unknown (lost).\n"
    assert f"Licence: CC-BY-SA-3.0, that of the corpus. {licences}" in card
    assert "began with" not in model_card(MANIFEST, Config())


def test_a_search_over_words_is_not_said_to_need_no_language_model() -> None:
    needs_none = "It needs no language model."
    assert needs_none in model_card(MANIFEST, Config())
    card = model_card(dataclasses.replace(MANIFEST, decoding_method="1best"), Config())
    assert needs_none not in card and "`1best`, finds words of its lexicon by an n-gram" in card


def test_plain_models_claim_neither_experts_nor_sharing() -> None:
    plain = replace_fields(Config(), {"experts_in": "none", "group_sizes": (1,) * 12})
    described = model_card(MANIFEST, plain).split("Source")[0]
    assert "a conformer of 12 layers,\nwith" in described
    assert "experts" not in described


def test_a_merged_model_claims_its_sets_and_their_source_and_no_experts() -> None:
    merged = replace_fields(Config(), {"experts_in": "none", "merged_sets": 2})
    card, source = model_card(MANIFEST, merged), "arxiv.org/abs/2610.12448"
    assert "1 block, stored 2 times and merged by gates of each layer" in card and source in card
    assert "mixture-of-experts" not in card and "experts each" not in card
    assert source not in model_card(MANIFEST, Config())


BASE = ZooEntry(
    name="base",
    corpus="asterisk",
    language="en",
    licence="CC-BY-SA-3.0",
    unique_parameters=810_912,
    unrolled_parameters=4_033_312,
    active_parameters=2_452_768,
    error_rates={"test": {"greedy_search": 58.16, "modified_beam_search": 56.38}},
    size=3_362_729,
    path="base",
    sha256="0" * 64,
)
OTHER = dataclasses.replace(
    BASE, name="nl", path="nl", corpus="fillets", language="nl,en", licence="MIT", error_rates={}
)


def test_the_header_speaks_for_all_models() -> None:
    one, both = zoo_header([BASE]), zoo_header([BASE, OTHER])
    assert (one["language"], one["license"], one["datasets"]) == (["en"], "cc-by-sa-3.0", ["asterisk"])
    assert (both["language"], both["license"], both["datasets"]) == (["en", "nl"], "other", ["asterisk", "fillets"])
    assert [model["name"] for model in both["model-index"]] == ["base"]
    assert "metrics" not in zoo_header([OTHER])
    assert "mixture-of-experts" not in both["tags"], "a zoo's index does not say which models have experts"


def test_the_page_lists_the_models_and_bears_the_mark() -> None:
    card = zoo_card([BASE, OTHER], location="hf://o/zoo")
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header) == zoo_header([BASE, OTHER])
    assert MARK in body
    assert "--model hf://o/zoo/base speech.wav" in body
    assert "| asterisk | en | CC-BY-SA-3.0 | 0.81 M, 2.45 M | 3.4 | 58.16 % (test, greedy_search) |" in body
    assert "| [nl](nl/README.md) | fillets | nl,en | MIT | 0.81 M, 2.45 M | 3.4 | not measured |" in body


def test_hugging_faces_own_reader_takes_the_zoos_header() -> None:
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(zoo_card([BASE, OTHER], location="hf://o/zoo")).data
    assert [result.metric_value for result in data.eval_results] == [58.16, 56.38]


@pytest.mark.parametrize("entry", read_index(ZOO), ids=lambda entry: entry.name)
def test_the_models_of_this_clone_are_whole_and_their_cards_say_what_cards_say_today(entry: ZooEntry) -> None:
    folder = ZOO / entry.path
    verify_files(entry, folder)
    _, values, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(values) == card_header(read_manifest(folder), load_config(folder / "config.json"))
