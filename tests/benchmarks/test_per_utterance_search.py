"""The yardstick finds what the searches of the package find."""

from __future__ import annotations

import pytest
import torch

from benchmarks.searches import BLANK_SHARE, make_frames, make_model, searches


@pytest.mark.parametrize("number", [0, 1])
def test_one_by_one_equals_batched(number: int) -> None:
    model = make_model(30)
    frames = make_frames(model, 4, 25)
    _, plain, batched = searches(model)[number]
    with torch.inference_mode():
        found = batched(frames)
        assert found == [plain(x) for x in frames]
    emitted = sum(map(len, found)) / (4 * 25)
    assert 0.02 < emitted < 2 * (1 - BLANK_SHARE) + 0.2
