from __future__ import annotations

import torch

from shared_moe_conformer.model.packing import pack, padding_after, unpack


def test_unpack_restores_valid_frames_and_zeroes_padding() -> None:
    x = torch.randn(3, 5, 2)
    padding_mask = padding_after(torch.tensor([5, 0, 2]), 5)
    frames = pack(x, padding_mask)
    torch.testing.assert_close(frames, torch.cat([x[0], x[2, :2]]))
    torch.testing.assert_close(unpack(frames, padding_mask), x.masked_fill(padding_mask.unsqueeze(-1), 0.0))
