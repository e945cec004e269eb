from __future__ import annotations

import pytest
import torch

from shared_moe_conformer.loss.distillation import ctc_divergence, hidden_distance

LENS = torch.tensor([5, 3])


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
def test_padding_changes_nothing(loss) -> None:
    student, teacher = (frames(seed).log_softmax(dim=-1) for seed in (1, 2))
    before = loss(student, teacher, LENS)
    student[1, 3:] = float("nan")
    assert loss(student, teacher, LENS) == before
