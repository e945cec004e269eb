from __future__ import annotations

import torch

from benchmarks.plain_conformer import PlainConformer, turned


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    model = PlainConformer(16, num_layers=2, num_heads=2, hidden=24, kernel_size=5, dropout=0.1).eval()
    x = torch.randn(1, 12, 16)
    padding_mask = torch.arange(12)[None] >= 8
    alone = model(x[:, :8], padding_mask[:, :8])
    torch.testing.assert_close(model(x, padding_mask)[:, :8], alone)


def test_turned_products_depend_on_distance() -> None:
    query, key = (turned(torch.randn(8).expand(1, 1, 20, 8)) for _ in range(2))
    diagonal = (query @ key.transpose(-2, -1))[0, 0].diagonal(3)
    torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
