from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from shared_moe_conformer.decoding import batches
from shared_moe_conformer.decoding.batches import decode_batches
from shared_moe_conformer.decoding.options import DecodingConfig


class Batch(NamedTuple):
    x: Tensor
    x_lens: Tensor
    cut_ids: list[str]
    texts: list[str]


def test_each_method_is_charged_with_the_encoder_and_its_own_search(make_model, monkeypatch) -> None:
    model = make_model(7)
    lens = torch.tensor([50, 30])
    batch = Batch(torch.randn(2, 50, 80), lens, ["a", "b"], ["A", "B"])
    clock = itertools.count()
    monkeypatch.setattr(batches, "_now", lambda device: float(next(clock)))  # each step takes a second
    methods = [DecodingConfig(decoding_method=name) for name in ("greedy_search", "ctc_greedy_search")]
    results = decode_batches(model, [batch, batch], methods, to_text=str)
    assert [result.real_time_factor for result in results] == [pytest.approx(2 * 2 / (2 * 0.8))] * 2
    assert [[decoded.cut_id for decoded in result.decoded] for result in results] == [["a", "b"] * 2] * 2
