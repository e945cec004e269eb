from __future__ import annotations

import torch

from shared_moe_conformer.model.feed_forward import FeedForward


def test_frames_are_computed_independently() -> None:
    module = FeedForward(4, 8)
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(module(x)[1, 3], module(x[1, 3]))
