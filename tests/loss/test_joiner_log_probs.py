from __future__ import annotations

import torch
from torch import Tensor

from shared_moe_conformer.loss import joiner_log_probs as module
from shared_moe_conformer.loss.joiner_log_probs import Rows, joiner_log_probs
from shared_moe_conformer.model.joiner import Joiner


def make_joiner(dtype: torch.dtype = torch.float64) -> Joiner:
    return Joiner(6, 4, 5, 7).to(dtype)


def frames_and_rows(num_rows: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Rows]:
    """Frames (2, 8, 5) and (2, 3, 5), and rows of them."""
    encoder_frames, decoder_frames = (torch.randn(2, n, 5, dtype=dtype, requires_grad=True) for n in (8, 3))
    rows = Rows(torch.randint(16, (num_rows,)), torch.randint(6, (num_rows,)), torch.randint(7, (num_rows,)))
    return encoder_frames, decoder_frames, rows


def by_autograd(joiner: Joiner, encoder_frames: Tensor, decoder_frames: Tensor, rows: Rows) -> Tensor:
    logits = joiner(encoder_frames.flatten(0, 1)[rows.encoder_frame], decoder_frames.flatten(0, 1)[rows.decoder_frame])
    log_probs = logits.log_softmax(-1)
    return torch.stack([log_probs.gather(1, rows.token.unsqueeze(1)).squeeze(1), log_probs[:, 0]], dim=1)


def values_and_gradients(function, joiner, encoder_frames, decoder_frames, rows, weight) -> list[Tensor]:
    log_probs = function(joiner, encoder_frames, decoder_frames, rows)
    inputs = [encoder_frames, decoder_frames, joiner.output.weight, joiner.output.bias]
    return [log_probs, *torch.autograd.grad((weight * log_probs).sum(), inputs)]


def test_equals_the_joiner_by_autograd(monkeypatch) -> None:
    monkeypatch.setattr(module, "ROWS_PER_BLOCK", 16)
    joiner, arguments, weight = make_joiner(), frames_and_rows(50), torch.randn(50, 2, dtype=torch.float64)
    found = values_and_gradients(joiner_log_probs, joiner, *arguments, weight)
    for x, expected in zip(found, values_and_gradients(by_autograd, joiner, *arguments, weight)):
        torch.testing.assert_close(x, expected)


def test_gradients_are_those_of_finite_differences() -> None:
    joiner = make_joiner()
    encoder_frames, decoder_frames, rows = frames_and_rows(9)

    def function(encoder_frames: Tensor, decoder_frames: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rest = (encoder_frames.flatten(0, 1), decoder_frames.flatten(0, 1), weight, bias)
        return module._JoinerLogProbs.apply(*rest, *rows)

    inputs = (encoder_frames, decoder_frames, joiner.output.weight, joiner.output.bias)
    assert torch.autograd.gradcheck(function, inputs)


def test_rows_of_next_to_no_gradient_are_left_out() -> None:
    joiner = make_joiner()
    encoder_frames, decoder_frames, rows = frames_and_rows(16)
    rows = rows._replace(encoder_frame=torch.arange(16))
    weight = torch.rand(16, 2, dtype=torch.float64) + 0.1
    weight[4:] *= 1e-8
    gradient = values_and_gradients(joiner_log_probs, joiner, encoder_frames, decoder_frames, rows, weight)[1]
    by_row = gradient.flatten(0, 1).abs().sum(1)
    assert (by_row[:4] > 0).all()
    assert (by_row[4:] == 0).all()


def test_a_gradient_that_is_not_a_number_is_not_hidden() -> None:
    joiner = make_joiner()
    weight = torch.ones(4, 2, dtype=torch.float64)
    weight[2, 0] = torch.nan
    gradients = values_and_gradients(joiner_log_probs, joiner, *frames_and_rows(4), weight)[1:]
    assert all(gradient.isnan().any() for gradient in gradients)


def test_half_precision_frames_give_float32_log_probabilities_and_their_own_type_of_gradient() -> None:
    joiner, weight = make_joiner(torch.bfloat16), torch.randn(30, 2)
    encoder_frames, decoder_frames, rows = frames_and_rows(30, torch.bfloat16)
    found = values_and_gradients(joiner_log_probs, joiner, encoder_frames, decoder_frames, rows, weight)
    assert [x.dtype for x in found] == [torch.float32] + [torch.bfloat16] * 4
    encoder_frames, decoder_frames = (x.detach().float().requires_grad_() for x in (encoder_frames, decoder_frames))
    expected_ones = values_and_gradients(by_autograd, joiner.float(), encoder_frames, decoder_frames, rows, weight)
    for x, expected in zip(found, expected_ones):
        torch.testing.assert_close(x.float(), expected, rtol=0.05, atol=0.1)
