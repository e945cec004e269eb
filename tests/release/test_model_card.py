from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml

from shared_moe_conformer.config import Config, replace_fields
from shared_moe_conformer.release.manifest import Manifest
from shared_moe_conformer.release.model_card import model_card

MANIFEST = Manifest(
    name="asterisk-base",
    corpus="asterisk",
    language="en",
    licence="CC-BY-SA-3.0",
    unique_parameters=1_234_567,
    unrolled_parameters=30,
    active_parameters=20,
    decoding_method="greedy_search",
    error_rates={"test": {"greedy_search": 12.5}},
)


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


@pytest.mark.parametrize("part", ["1,234,567", "12.50 %", "--model asterisk-base", "CC-BY-SA-3.0", "8 experts"])
def test_page_for_people(part: str) -> None:
    assert part in model_card(MANIFEST, Config())


def test_plain_models_claim_neither_experts_nor_sharing() -> None:
    plain = replace_fields(Config(), {"experts_in": "none", "group_sizes": (1,) * 12})
    described = model_card(MANIFEST, plain).split("Source")[0]
    assert "a conformer of 12 layers,\nwith" in described
    assert "experts" not in described
