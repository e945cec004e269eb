from __future__ import annotations

from itertools import groupby, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared_moe_conformer.loss.per_frame import consistency, ctc_divergence, ctc_loss, hidden_distance

LENS = torch.tensor([5, 3])


def sum_over_labellings(log_probs: Tensor, y: list[int]) -> Tensor:
    """Log-probability of all sequences of one label a frame that collapse to the tokens."""
    num_frames, vocab_size = log_probs.shape
    paths = [
        log_probs[range(num_frames), path].sum()
        for path in product(range(vocab_size), repeat=num_frames)
        if [label for label, _ in groupby(path) if label != 0] == y
    ]
    return torch.stack([log_probs.new_tensor(-torch.inf), *paths]).logsumexp(0)


def random_logits(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@settings(max_examples=25, deadline=None)
@given(num_frames=st.integers(1, 5), y=st.lists(st.integers(1, 2), max_size=4))
def test_equals_the_sum_over_all_labellings(num_frames: int, y: list[int]) -> None:
    logits = random_logits(num_frames, 3)
    expected = -sum_over_labellings(logits.log_softmax(-1), y)
    expected = torch.where(expected.isinf(), torch.zeros_like(expected), expected)
    tokens = torch.tensor([y], dtype=torch.int64).reshape(1, -1)
    found = ctc_loss(logits.log_softmax(-1).unsqueeze(0), torch.tensor([num_frames]), tokens, torch.tensor([len(y)]))
    torch.testing.assert_close(found, expected)


def test_gradients_are_those_of_finite_differences() -> None:
    y, lens, y_lens = torch.tensor([[1, 2], [3, 0]]), torch.tensor([5, 3]), torch.tensor([2, 1])
    assert torch.autograd.gradcheck(lambda x: ctc_loss(x.log_softmax(-1), lens, y, y_lens), random_logits(2, 5, 4))


def test_too_few_frames_count_as_0_and_leave_batch_mates_alone() -> None:
    logits, y = random_logits(2, 4, 3), torch.tensor([[1, 2, 1], [1, 1, 1]])
    lens, y_lens = torch.tensor([4, 4]), torch.tensor([3, 3])  # three equal tokens need five frames
    loss = ctc_loss(logits.log_softmax(-1), lens, y, y_lens)
    (gradient,) = torch.autograd.grad(loss, logits)
    alone = ctc_loss(logits[:1].log_softmax(-1), lens[:1], y[:1], y_lens[:1])
    torch.testing.assert_close(loss, alone)
    assert (gradient[1] == 0).all()
    assert (gradient[0] != 0).all()


@pytest.mark.parametrize("num_tokens", [0, 2])
def test_an_utterance_without_frames_counts_as_0(num_tokens: int) -> None:
    """Torch 1.13 would read the memory before the table of such an utterance."""
    logits, y = random_logits(2, 4, 3), torch.tensor([[1, 2], [2, 1]])
    lens, y_lens = torch.tensor([4, 0]), torch.tensor([2, num_tokens])
    loss = ctc_loss(logits.log_softmax(-1), lens, y, y_lens)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, ctc_loss(logits[:1].log_softmax(-1), lens[:1], y[:1], y_lens[:1]))
    assert (gradient[1] == 0).all() and (gradient[0] != 0).all()


def test_padding_changes_nothing() -> None:
    log_probs, y = torch.randn(2, 6, 4).log_softmax(-1), torch.tensor([[1, 2, 3], [2, 0, 0]])
    lens, y_lens = torch.tensor([6, 4]), torch.tensor([3, 1])
    alone = sum(
        ctc_loss(log_probs[n : n + 1, : lens[n]], lens[n : n + 1], y[n : n + 1, : y_lens[n]], y_lens[n : n + 1])
        for n in range(2)
    )
    torch.testing.assert_close(ctc_loss(log_probs, lens, y, y_lens), alone)


def test_half_precision_is_computed_in_float32() -> None:
    log_probs = torch.randn(1, 6, 4).log_softmax(-1).bfloat16()
    arguments = torch.tensor([6]), torch.tensor([[1, 2]]), torch.tensor([2])
    loss = ctc_loss(log_probs, *arguments)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ctc_loss(log_probs.float(), *arguments))


def frames(seed: int) -> torch.Tensor:
    return torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("loss", [hidden_distance, ctc_divergence])
def test_a_model_like_its_teacher_has_nothing_to_learn(loss) -> None:
    student = frames(1).log_softmax(dim=-1).requires_grad_()
    value = loss(student, student.detach(), LENS)
    value.backward()
    assert value == 0
    if loss is hidden_distance:
        assert student.grad is not None and not student.grad.any()


def test_the_divergence_is_that_of_torch() -> None:
    student, teacher = (frames(seed).log_softmax(dim=-1) for seed in (1, 2))
    expected = sum(
        torch.nn.functional.kl_div(student[n, :length], teacher[n, :length], reduction="sum", log_target=True)
        for n, length in enumerate(LENS.tolist())
    )
    assert ctc_divergence(student, teacher, LENS) == pytest.approx(float(expected), rel=1e-5)
    assert expected > 0


def test_the_distance_is_a_mean_over_channels_and_a_sum_over_frames() -> None:
    student = torch.zeros(2, 5, 4)
    assert hidden_distance(student, student + 3, LENS) == 9 * 8


@pytest.mark.parametrize("loss", [hidden_distance, ctc_divergence])
def test_padding_changes_no_distance(loss) -> None:
    student, teacher = (frames(seed).log_softmax(dim=-1) for seed in (1, 2))
    before = loss(student, teacher, LENS)
    student[1, 3:] = float("nan")
    assert loss(student, teacher, LENS) == before


def test_equal_copies_are_consistent() -> None:
    logits = frames(1).repeat(2, 1, 1).requires_grad_()
    value = consistency(logits.log_softmax(dim=-1), LENS.repeat(2))
    value.backward()
    assert value == 0 and logits.grad is not None and logits.grad.abs().max() < 1e-6


def test_each_copy_learns_from_the_other_as_from_a_teacher() -> None:
    first, second = (frames(seed).log_softmax(dim=-1).requires_grad_() for seed in (1, 2))
    value = consistency(torch.cat([first, second]), LENS.repeat(2))
    value.backward()
    for ours, theirs in ((first, second), (second, first)):
        alone = ours.detach().clone().requires_grad_()
        ctc_divergence(alone, theirs.detach(), LENS).backward()
        assert torch.equal(ours.grad, alone.grad), "no gradient through the target"
    both = ctc_divergence(first, second, LENS) + ctc_divergence(second, first, LENS)
    assert value.item() == pytest.approx(both.item()) and value > 0
