from __future__ import annotations

import dataclasses

import pytest
import yaml

from shared_moe_conformer.release.zoo_card import MARK, zoo_card, zoo_header
from shared_moe_conformer.release.zoo_index import ZooEntry

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


def test_the_page_lists_the_models_and_bears_the_mark() -> None:
    card = zoo_card([BASE, OTHER], location="hf://o/zoo")
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header) == zoo_header([BASE, OTHER])
    assert MARK in body
    assert "--model hf://o/zoo/base speech.wav" in body
    assert "| [base](base/README.md) | asterisk | en | CC-BY-SA-3.0 | 0.81 M, 2.45 M | 3.4 | 58.16 % (test) |" in body
    assert "| [nl](nl/README.md) | fillets | nl,en | MIT | 0.81 M, 2.45 M | 3.4 | not measured |" in body


def test_hugging_faces_own_reader_takes_the_header() -> None:
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(zoo_card([BASE, OTHER], location="hf://o/zoo")).data
    assert [result.metric_value for result in data.eval_results] == [58.16, 56.38]
