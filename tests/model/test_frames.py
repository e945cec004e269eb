from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from shared_moe_conformer.model.encoder import Encoder
from shared_moe_conformer.model.frames import Frames


def test_unpack_restores_valid_frames_and_zeroes_padding() -> None:
    x, frames = torch.randn(3, 5, 2), Frames(torch.tensor([5, 0, 2]), 5, head_dim=2)
    packed = frames.pack(x)
    torch.testing.assert_close(packed, torch.cat([x[0], x[2, :2]]))
    torch.testing.assert_close(frames.unpack(packed), x.masked_fill(frames.padding_mask.unsqueeze(-1), 0.0))


def test_padding_is_not_attended_to_unless_there_is_nothing_else() -> None:
    assert Frames(torch.tensor([3, 0]), 4, head_dim=2).attended[:, 0, 0].tolist() == [
        [True, True, True, False],
        [True, False, False, False],
    ]


def test_valid_frames_and_rotations_are_computed_once_for_all_layers(encoder_config: Any) -> None:
    calls: list[str] = []

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.append(func.__name__.split(".")[0])
            return func(*args, **(kwargs or {}))

    encoder = Encoder(encoder_config(group_sizes=(6, 6)), num_mel_bins=20)
    with Counted():
        encoder(torch.randn(2, 60, 20), torch.tensor([60, 41])).encoder_out.sum().backward()
    assert calls.count("nonzero") == calls.count("cos") == calls.count("sin") == 1


def test_a_batch_without_padding_is_its_valid_frames() -> None:
    x, frames = torch.randn(2, 5, 3), Frames(torch.tensor([5, 5]), 5, head_dim=2)
    packed = frames.pack(x)
    assert packed.data_ptr() == frames.unpack(packed).data_ptr() == x.data_ptr(), "nothing is copied"
    assert torch.equal(packed, x.flatten(0, 1)) and torch.equal(frames.unpack(packed), x)
