from __future__ import annotations

import torch

from shared_moe_conformer.model.joiner import Joiner


def test_leading_axes_broadcast() -> None:
    joiner = Joiner(6, 4, 5, 11)
    frames, tokens = torch.randn(2, 7, 1, 5), torch.randn(2, 1, 3, 5)
    logits = joiner(frames, tokens)
    assert logits.shape == (2, 7, 3, 11)
    torch.testing.assert_close(logits[1, 4, 2], joiner(frames[1, 4, 0], tokens[1, 0, 2]))
