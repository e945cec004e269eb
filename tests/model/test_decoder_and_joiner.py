from __future__ import annotations

import pytest
import torch

from shared_moe_conformer.model.asr_model import Decoder, Joiner


@pytest.mark.parametrize("context_size", [1, 2, 3])
def test_a_step_from_the_start_context_is_the_first_frame(context_size: int) -> None:
    decoder = Decoder(11, 8, context_size)
    y = torch.tensor([[0, 5, 7, 2]])
    out = decoder(y)
    torch.testing.assert_close(decoder.step(torch.tensor([decoder.start_context])), out[:, 0])
    context = (decoder.start_context + [5, 7])[-context_size:]
    torch.testing.assert_close(decoder.step(torch.tensor([context])), out[:, 2])


def test_only_the_last_tokens_matter() -> None:
    decoder = Decoder(11, 8, 2)
    a, b = decoder(torch.tensor([[0, 5, 7, 2]])), decoder(torch.tensor([[0, 9, 7, 2]]))
    torch.testing.assert_close(a[:, 3], b[:, 3])
    assert not torch.allclose(a[:, 2], b[:, 2])


def test_channels_that_cannot_be_grouped_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        Decoder(11, 10, 2)


def test_leading_axes_broadcast() -> None:
    joiner = Joiner(6, 4, 5, 11)
    frames, tokens = torch.randn(2, 7, 1, 5), torch.randn(2, 1, 3, 5)
    logits = joiner(frames, tokens)
    assert logits.shape == (2, 7, 3, 11)
    torch.testing.assert_close(logits[1, 4, 2], joiner(frames[1, 4, 0], tokens[1, 0, 2]))
