from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.kernels.recursion import mutual_information_recursion
from tests.alignments import sum_over_alignments


def random_lattice(batch: int, num_tokens: int, num_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    px = torch.randn(batch, num_tokens, num_frames + 1, dtype=torch.float64)
    py = torch.randn(batch, num_tokens + 1, num_frames, dtype=torch.float64)
    return px.requires_grad_(), py.requires_grad_()


@settings(max_examples=30, deadline=None)
@given(num_tokens=st.integers(0, 4), num_frames=st.integers(1, 4), data=st.data())
def test_equals_the_sum_over_all_alignments(num_tokens, num_frames, data) -> None:
    begin_u, begin_t = data.draw(st.integers(0, num_tokens)), data.draw(st.integers(0, num_frames - 1))
    end_u, end_t = data.draw(st.integers(begin_u, num_tokens)), data.draw(st.integers(begin_t + 1, num_frames))
    px, py = random_lattice(2, num_tokens, num_frames)
    boundary = torch.tensor([[0, 0, num_tokens, num_frames], [begin_u, begin_t, end_u, end_t]])

    found, (px_posterior, py_posterior) = mutual_information_recursion(px, py, boundary, return_grad=True)
    expected = torch.stack(
        [
            sum_over_alignments(px[0], py[0]),
            sum_over_alignments(px[1, begin_u:end_u, begin_t:end_t], py[1, begin_u : end_u + 1, begin_t:end_t]),
        ]
    )
    torch.testing.assert_close(found, expected)
    for posterior, gradient in zip(
        (px_posterior, py_posterior), torch.autograd.grad(expected.sum() + 0 * px.sum(), (px, py))
    ):
        torch.testing.assert_close(posterior, gradient)


def test_gradients_are_those_of_finite_differences() -> None:
    px, py = random_lattice(2, 3, 4)
    boundary = torch.tensor([[0, 0, 3, 4], [1, 0, 2, 3]])
    assert torch.autograd.gradcheck(lambda px, py: mutual_information_recursion(px, py, boundary), (px, py))


def test_second_derivatives_are_refused() -> None:
    """The gradient is computed outside of autograd: what it would give for them lacks the posteriors' part."""
    px, py = random_lattice(1, 2, 3)
    loss = mutual_information_recursion(px, py).square().sum()
    (gradient,) = torch.autograd.grad(loss, py, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_each_token_and_each_frame_is_passed_once() -> None:
    _, (px, py) = mutual_information_recursion(*random_lattice(3, 5, 9), return_grad=True)
    torch.testing.assert_close(px.sum(2), torch.ones(3, 5, dtype=torch.float64))
    torch.testing.assert_close(py.sum(1), torch.ones(3, 9, dtype=torch.float64))


def test_arcs_of_hopeless_alignments_have_no_posterior() -> None:
    """Their posteriors are smaller than the smallest number."""
    px, py = ((1000 * x.detach()).requires_grad_() for x in random_lattice(1, 3, 4))
    _, posteriors = mutual_information_recursion(px, py, return_grad=True)
    gradients = torch.autograd.grad(sum_over_alignments(px[0], py[0]), (px, py))
    assert any((posterior == 0).any() for posterior in posteriors)
    for posterior, gradient in zip(posteriors, gradients):
        torch.testing.assert_close(posterior, gradient)


def test_what_is_not_a_number_is_not_hidden() -> None:
    px, py = (x.detach() for x in random_lattice(2, 3, 4))
    py[0, 1, 1] = torch.nan
    found, posteriors = mutual_information_recursion(px, py, return_grad=True)
    assert found.isnan().tolist() == [True, False]
    assert all(posterior[0].isnan().any() and posterior[1].isfinite().all() for posterior in posteriors)


def test_arcs_outside_the_boundary_do_not_matter() -> None:
    px, py = (x.detach() for x in random_lattice(1, 3, 4))
    boundary = torch.tensor([[0, 0, 2, 3]])
    expected = mutual_information_recursion(px, py, boundary)
    px[:, 2:], px[:, :, 3:], py[:, 3:], py[:, :, 3:] = torch.nan, torch.nan, torch.nan, torch.nan
    torch.testing.assert_close(mutual_information_recursion(px, py, boundary), expected)


def test_without_an_alignment_the_log_probability_is_minus_infinity_and_nothing_has_a_gradient() -> None:
    px, py = random_lattice(2, 2, 3)
    blocked = px.masked_fill(torch.tensor([True, False]).reshape(2, 1, 1), -torch.inf)
    found, (px_posterior, py_posterior) = mutual_information_recursion(blocked, py, return_grad=True)
    assert found[0] == -torch.inf
    assert torch.isfinite(found[1])
    assert (px_posterior[0] == 0).all()
    assert (py_posterior[0] == 0).all()


@pytest.mark.parametrize("with_boundary", [False, True])
def test_equals_k2(with_boundary: bool) -> None:
    k2 = pytest.importorskip("k2")
    px, py = random_lattice(3, 6, 11)
    px = px.detach()
    boundary = torch.tensor([[0, 0, 6, 11], [1, 2, 5, 7], [0, 0, 0, 4]]) if with_boundary else None
    px[[0, 1, 2], :, [11, 7, 4] if with_boundary else 11] = -torch.inf  # k2 leaves it to its caller
    found, posteriors = mutual_information_recursion(px, py, boundary, return_grad=True)
    expected, expected_posteriors = k2.mutual_information_recursion(px, py.detach(), boundary, return_grad=True)
    torch.testing.assert_close(found, expected)
    for posterior, gradient in zip(posteriors, expected_posteriors):
        torch.testing.assert_close(posterior, gradient)
