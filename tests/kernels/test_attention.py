from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from shared_moe_conformer.kernels import attention
from shared_moe_conformer.kernels.attention import attend
from shared_moe_conformer.model.frames import Frames


def test_attention_equals_its_definition() -> None:
    """The fused kernel against the softmax written out."""
    query, key, value = torch.randn(3, 2, 4, 6, 8).unbind(0)
    frames = Frames(torch.tensor([6, 4]), 6, head_dim=8)
    scores = torch.einsum("nhqd,nhkd->nhqk", query, key) / 8**0.5
    scores[1, :, :, 4:] = float("-inf")
    expected = torch.einsum("nhqk,nhkd->nhqd", scores.softmax(-1), value)
    torch.testing.assert_close(attend(query, key, value, frames.attended), expected)


@pytest.mark.skipif(not hasattr(F, "scaled_dot_product_attention"), reason="this torch has no float16 on a CPU")
def test_loud_frames_do_not_overflow_float16() -> None:
    """Their products with themselves do, before they are scaled."""
    loud = torch.full((1, 1, 3, 64), 40.0, dtype=torch.float16)
    found = attention.softmax_attention(loud, loud, loud, torch.ones(1, 1, 1, 3, dtype=torch.bool))
    torch.testing.assert_close(found, loud)


@pytest.mark.parametrize("queries", [4, 100])
def test_attention_without_the_fused_kernel(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether some queries are computed at once or all."""
    query, key, value = torch.randn(3, 2, 4, 11, 8).unbind(0)
    allowed = Frames(torch.tensor([11, 7]), 11, head_dim=8).attended
    expected = attend(query, key, value, allowed)
    monkeypatch.delattr(F, "scaled_dot_product_attention", raising=False)
    monkeypatch.setattr(attention, "QUERIES_AT_ONCE", queries)
    torch.testing.assert_close(attend(query, key, value, allowed), expected)
