from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared_moe_conformer.kernels.recursion import mutual_information_recursion
from shared_moe_conformer.loss import transducer
from shared_moe_conformer.loss.transducer import get_rnnt_prune_ranges, rnnt_loss_smoothed
from tests.alignments import full_transducer_loss, sum_over_alignments_of_logits

SCALES = [(0.0, 0.0), (0.25, 0.0), (0.1, 0.1), (0.0, 0.3)]
BOUNDARIES = [None, [[0, 0, 6, 17], [0, 0, 3, 9], [0, 0, 0, 5]], [[1, 2, 6, 17], [0, 3, 3, 9], [2, 0, 4, 12]]]


def simple_batch(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """lm (3, 7, 11), am (3, 17, 11) and symbols (3, 6)."""
    lm, am = scale * torch.randn(3, 7, 11, dtype=dtype), scale * torch.randn(3, 17, 11, dtype=dtype)
    return lm.requires_grad_(), am.requires_grad_(), torch.randint(1, 11, (3, 6))


def posteriors_of(
    num_tokens: int, num_frames: int, boundary: Tensor, scale: float, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    px = scale * torch.randn(len(boundary), num_tokens, num_frames + 1, dtype=dtype)
    py = scale * torch.randn(len(boundary), num_tokens + 1, num_frames, dtype=dtype)
    _, posteriors = mutual_information_recursion(px, py, boundary, return_grad=True)
    return posteriors


class TestSmoothed:
    def test_without_smoothing_the_joiner_is_a_sum(self) -> None:
        lm, am, y = simple_batch()
        boundary = torch.tensor(BOUNDARIES[1])
        loss = rnnt_loss_smoothed(lm, am, y, 0, 0.0, 0.0, boundary, reduction="none")
        full = full_transducer_loss(am.unsqueeze(2) + lm.unsqueeze(1), y, boundary)
        torch.testing.assert_close(loss, full)

    def test_smoothing_adds_the_log_probabilities_of_each_part_alone(self) -> None:
        lm, am, y = simple_batch(torch.float64)
        unigram = lm.softmax(-1).mean((0, 1)).log()
        summed = (am.unsqueeze(2) + lm.unsqueeze(1)).log_softmax(-1)
        lm_alone, am_alone = lm.log_softmax(-1).unsqueeze(1), (am + unigram).log_softmax(-1).unsqueeze(2)
        log_probs = 0.6 * summed + 0.3 * lm_alone + 0.1 * am_alone  # (N, T, U + 1, V)
        token = y.reshape(3, 1, 6, 1).expand(3, 17, 6, 1)
        px = log_probs[:, :, :6].gather(3, token).squeeze(3).transpose(1, 2)
        expected = -mutual_information_recursion(torch.nn.functional.pad(px, (0, 1)), log_probs[..., 0].transpose(1, 2))
        torch.testing.assert_close(rnnt_loss_smoothed(lm, am, y, 0, 0.3, 0.1, reduction="none"), expected)

    def test_gradients_are_those_of_finite_differences(self) -> None:
        lm, am = (torch.randn(2, length, 3, dtype=torch.float64, requires_grad=True) for length in (3, 4))
        y, boundary = torch.tensor([[1, 2], [2, 1]]), torch.tensor([[0, 0, 2, 4], [0, 0, 1, 3]])
        assert torch.autograd.gradcheck(lambda lm, am: rnnt_loss_smoothed(lm, am, y, 0, 0.2, 0.1, boundary), (lm, am))

    def test_half_precision_is_computed_in_float32(self) -> None:
        lm, am, y = simple_batch()
        loss = rnnt_loss_smoothed(lm.bfloat16(), am.bfloat16(), y, 0)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, rnnt_loss_smoothed(lm.bfloat16().float(), am.bfloat16().float(), y, 0))

    def test_far_logits_stay_finite(self) -> None:
        lm, am, y = simple_batch(scale=100.0)
        loss = rnnt_loss_smoothed(lm, am, y, 0)
        assert torch.isfinite(loss)
        assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(loss, (lm, am)))

    @pytest.mark.parametrize("scales", SCALES)
    @pytest.mark.parametrize("boundary", BOUNDARIES)
    @pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
    def test_equals_k2(self, scales: tuple[float, float], boundary: list | None, reduction: str) -> None:
        k2 = pytest.importorskip("k2")
        lm, am, y = simple_batch(scale=3.0)
        results = []
        for functions in (k2, transducer):
            loss, posteriors = functions.rnnt_loss_smoothed(
                lm=lm,
                am=am,
                symbols=y,
                termination_symbol=0,
                lm_only_scale=scales[0],
                am_only_scale=scales[1],
                boundary=None if boundary is None else torch.tensor(boundary),
                reduction=reduction,
                return_grad=True,
            )
            weighted = (loss * torch.arange(1, 1 + loss.numel())).sum()
            results.append((loss, *posteriors, *torch.autograd.grad(weighted, (lm, am))))
        for expected, found in zip(*results):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4, check_dtype=False)


class TestPruneRanges:
    @settings(max_examples=60, deadline=None)
    @given(
        num_tokens=st.integers(1, 12),
        num_frames=st.integers(1, 12),
        s_range=st.integers(2, 14),
        scale=st.sampled_from([1.0, 10.0]),
        data=st.data(),
    )
    def test_windows_never_fall_overlap_and_reach_the_end(self, num_tokens, num_frames, s_range, scale, data) -> None:
        end_u, end_t = data.draw(st.integers(0, num_tokens)), data.draw(st.integers(1, num_frames))
        boundary = torch.tensor([[0, 0, num_tokens, num_frames], [0, 0, end_u, end_t]])
        ranges = get_rnnt_prune_ranges(*posteriors_of(num_tokens, num_frames, boundary, scale), boundary, s_range)

        assert ranges.shape == (2, num_frames, min(s_range, num_tokens + 1))
        assert (ranges >= 0).all()
        assert (ranges <= num_tokens).all()
        assert (ranges.diff(dim=2) == 1).all()
        assert (ranges[:, 0, 0] == 0).all()
        rise = ranges[:, :, 0].diff(dim=1)
        assert (rise >= 0).all()
        assert (rise < ranges.shape[2]).all()
        for (_, _, tokens, frames), windows in zip(boundary.tolist(), ranges):
            fits = tokens <= frames * (s_range - 1)
            assert (windows[frames - 1, -1] >= tokens) == fits

    def test_a_clear_alignment_stays_within_the_windows(self) -> None:
        num_frames, num_tokens = 30, 20
        frame_of_token = torch.randint(0, num_frames, (4, num_tokens)).sort(1).values
        emitted = (frame_of_token.unsqueeze(1) <= torch.arange(num_frames).reshape(1, -1, 1)).sum(2)
        px = torch.full((4, num_tokens, num_frames + 1), -50.0, dtype=torch.float64)
        px.scatter_(2, frame_of_token.unsqueeze(2), 0.0)
        py = torch.full((4, num_tokens + 1, num_frames), -50.0, dtype=torch.float64)
        py.scatter_(1, emitted.unsqueeze(1), 0.0)
        _, posteriors = mutual_information_recursion(px, py, return_grad=True)
        boundary = torch.tensor([[0, 0, num_tokens, num_frames]] * 4)
        emitted_before = torch.nn.functional.pad(emitted, (1, 0))[:, :-1]
        s_range = 1 + int((emitted - emitted_before).max())
        ranges = get_rnnt_prune_ranges(posteriors[0], posteriors[1], boundary, s_range)
        assert (ranges[:, :, 0] <= emitted_before).all()
        assert (ranges[:, :, -1] >= emitted).all()

    def test_too_narrow_a_window_is_refused(self) -> None:
        boundary = torch.tensor([[0, 0, 3, 5]])
        with pytest.raises(ValueError, match="s_range is 1: give 2 or more"):
            get_rnnt_prune_ranges(*posteriors_of(3, 5, boundary, 1.0), boundary, 1)

    @pytest.mark.parametrize("scale", [1.0, 5.0])
    @pytest.mark.parametrize("s_range", [2, 4, 5, 12])
    def test_equals_k2_for_the_same_posteriors(self, s_range: int, scale: float) -> None:
        k2 = pytest.importorskip("k2")
        boundary = torch.tensor([[0, 0, 9, 17], [0, 0, 3, 9], [0, 0, 0, 5], [0, 0, 9, 10]])
        for _ in range(10):
            posteriors = posteriors_of(9, 17, boundary, scale)
            found = get_rnnt_prune_ranges(*posteriors, boundary, s_range)
            assert torch.equal(found, k2.get_rnnt_prune_ranges(*posteriors, boundary, s_range))

    def test_equals_k2_from_the_logits_where_no_windows_nearly_tie(self) -> None:
        k2 = pytest.importorskip("k2")
        compared = 0
        for seed in range(40):
            torch.manual_seed(seed)
            lm, am, y = simple_batch()
            boundary = torch.tensor([[0, 0, 6, 17]] * 3)
            options: dict[str, Any] = {"boundary": boundary, "return_grad": True}
            _, (px, py) = rnnt_loss_smoothed(lm, am, y, 0, **options)
            kept = py.unfold(1, 4, 1).sum(-1)
            kept[:, 1:] -= px[:, : kept.shape[1] - 1, :-1]
            best, second = kept.topk(2, dim=1).values.unbind(1)
            if (best - second)[:, :-1].min() < 1e-5:
                continue
            compared += 1
            _, expected = k2.rnnt_loss_smoothed(lm, am, y, 0, **options)
            expected = k2.get_rnnt_prune_ranges(*expected, boundary, 4)
            assert torch.equal(get_rnnt_prune_ranges(px, py, boundary, 4), expected)
        assert compared >= 10


@settings(max_examples=25, deadline=None)
@given(num_tokens=st.integers(0, 3), num_frames=st.integers(1, 4), vocab_size=st.integers(2, 4))
def test_the_full_loss_is_the_sum_over_all_alignments(num_tokens, num_frames, vocab_size) -> None:
    logits = torch.randn(1, num_frames, num_tokens + 1, vocab_size, dtype=torch.float64, requires_grad=True)
    y = torch.randint(1, vocab_size, (1, num_tokens))
    loss = full_transducer_loss(logits, y).sum()
    expected = -sum_over_alignments_of_logits(logits[0], y[0])
    torch.testing.assert_close(loss, expected)
    gradients = (torch.autograd.grad(x, logits)[0] for x in (loss, expected))
    torch.testing.assert_close(*gradients)


def test_other_types_and_reductions_are_refused() -> None:
    lm, am, y = simple_batch()
    with pytest.raises(ValueError, match="rnnt_type is 'modified': give 'regular'"):
        rnnt_loss_smoothed(lm, am, y, 0, rnnt_type="modified")
    with pytest.raises(ValueError, match="reduction is 'max': give none, mean or sum"):
        rnnt_loss_smoothed(lm, am, y, 0, reduction="max")
