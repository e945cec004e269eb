from __future__ import annotations

import torch

from shared_moe_conformer.decoding.padding import only_blank_in_padding, valid_frames


def test_padding_is_certainly_blank_and_the_rest_as_it_was() -> None:
    log_probs = torch.randn(2, 3, 4).log_softmax(-1)
    valid = valid_frames(log_probs, torch.tensor([3, 1]))
    masked = only_blank_in_padding(log_probs, valid)
    assert valid.tolist() == [[True, True, True], [True, False, False]]
    assert torch.equal(masked[valid], log_probs[valid])
    assert masked[~valid].exp().tolist() == [[1, 0, 0, 0]] * 2
