from __future__ import annotations

import torch

from shared_moe_conformer.data.augment import Example
from shared_moe_conformer.data.batch import collate


def test_utterances_are_padded_behind() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(5, 4), torch.randn(3, 4)
    batch = collate([Example(first, [3], "a", "ONE"), Example(second, [6, 7, 8], "b", "THREE")])
    assert batch.x.shape == (2, 5, 4)
    assert batch.x_lens.tolist() == [5, 3] and batch.x_lens.dtype == torch.int64
    assert torch.equal(batch.x[0], first) and torch.equal(batch.x[1, :3], second)
    assert (batch.x[1, 3:] < -20).all(), "padding is as quiet as a logarithm can be"
    assert batch.y.tolist() == [[3, 0, 0], [6, 7, 8]] and batch.y.dtype == torch.int64
    assert batch.y_lens.tolist() == [1, 3]


def test_an_empty_transcript_has_no_tokens() -> None:
    batch = collate([Example(torch.randn(5, 4), [], "a", "")])
    assert batch.y.shape == (1, 0) and batch.y.dtype == torch.int64
    assert batch.y_lens.tolist() == [0]
