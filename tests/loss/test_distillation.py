from __future__ import annotations

import pytest
import torch

from shared_moe_conformer.loss.distillation import arc_divergence, consistency, ctc_divergence, hidden_distance

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


def test_the_joiners_divergence_is_that_of_three_choices() -> None:
    ours, theirs = (frames(seed)[0].log_softmax(dim=-1) for seed in (1, 2))
    tokens = torch.tensor([1, 3, 2, 2, 0])
    columns = [torch.stack([x[torch.arange(5), tokens], x[:, 0]], dim=1) for x in (ours, theirs)]
    expected = []
    for row, token in enumerate(tokens.tolist()):
        p, q = theirs[row].exp(), ours[row].exp()
        parts = [[0], [token], [v for v in range(4) if v not in (0, token)]] if token else [[0], [1, 2, 3]]
        expected.append(sum(p[part].sum() * (p[part].sum() / q[part].sum()).log() for part in parts))
    assert arc_divergence(*columns, tokens) == pytest.approx(float(sum(expected)) / 5, rel=1e-4)
    assert arc_divergence(columns[1], columns[1], tokens) == 0


def test_certain_choices_have_finite_gradients() -> None:
    logits = (frames(1)[0] * 100).requires_grad_()
    columns = logits.log_softmax(dim=-1)[:, [1, 0]]
    arc_divergence(columns, columns.detach().flip(0), torch.ones(5, dtype=torch.int64)).backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad.any()
