from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from shared_moe_conformer.model import attention
from shared_moe_conformer.model.attention import SelfAttention, attend, attended_frames, rotate


def test_scores_depend_on_distance_only() -> None:
    """The product of a rotated query and a rotated key is the same for every pair of frames equally far apart."""
    query, key = torch.randn(8), torch.randn(8)
    heads = torch.stack([query, key]).expand(1, 20, 2, 8).unsqueeze(3)
    rotated_query, rotated_key = rotate(heads)[0, :, :, 0].unbind(1)
    scores = rotated_query @ rotated_key.T
    for distance in (-7, 0, 3):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert (scores.diagonal(3)[0] - scores.diagonal(-3)[0]).abs() > 1e-3


def test_rotation_keeps_lengths() -> None:
    heads = torch.randn(2, 9, 2, 3, 8)
    torch.testing.assert_close(rotate(heads).norm(dim=-1), heads.norm(dim=-1))


def test_attention_equals_its_definition() -> None:
    """The fused kernel against the softmax written out."""
    query, key, value = torch.randn(3, 2, 4, 6, 8).unbind(0)
    padding_mask = torch.arange(6) >= torch.tensor([[6], [4]])
    scores = torch.einsum("nhqd,nhkd->nhqk", query, key) / 8**0.5
    scores[1, :, :, 4:] = float("-inf")
    expected = torch.einsum("nhqk,nhkd->nhqd", scores.softmax(-1), value)
    torch.testing.assert_close(attend(query, key, value, attended_frames(padding_mask)), expected)


@pytest.mark.parametrize("queries", [4, 100])
def test_attention_without_the_fused_kernel(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether some queries are computed at once or all."""
    query, key, value = torch.randn(3, 2, 4, 11, 8).unbind(0)
    allowed = attended_frames(torch.arange(11) >= torch.tensor([[11], [7]]))
    expected = attend(query, key, value, allowed)
    monkeypatch.delattr(F, "scaled_dot_product_attention", raising=False)
    monkeypatch.setattr(attention, "QUERIES_AT_ONCE", queries)
    torch.testing.assert_close(attend(query, key, value, allowed), expected)


def test_padding_is_not_attended_to() -> None:
    module = SelfAttention(16, 2)
    x = torch.randn(1, 10, 16)
    padding_mask = torch.arange(10)[None] >= 6
    out = module(x, padding_mask)
    x[0, 6:] += 1.0
    torch.testing.assert_close(module(x, padding_mask)[0, :6], out[0, :6])


def test_an_empty_utterance_is_finite() -> None:
    out = SelfAttention(16, 2)(torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool))
    assert out.isfinite().all()
