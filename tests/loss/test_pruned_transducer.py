from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shared_moe_conformer.loss.pruned_transducer import (
    TeacherJoiner,
    TransducerFunctions,
    TransducerLosses,
    arc_divergence,
    pruned_transducer_loss,
    transducer_functions,
)
from shared_moe_conformer.loss.transducer import get_rnnt_prune_ranges, rnnt_loss_smoothed
from shared_moe_conformer.model.asr_model import Joiner
from tests.alignments import full_loss, full_transducer_loss


class Batch(NamedTuple):
    """The first arguments of `pruned_transducer_loss`."""

    am_simple: Tensor
    lm_simple: Tensor
    encoder_frames: Tensor
    decoder_frames: Tensor
    joiner: Joiner
    y: Tensor
    x_lens: Tensor
    y_lens: Tensor

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Those of the frames and of the joiner's output; None where the loss does not depend on one."""
        parameters = [*self[:4], *self.joiner.output.parameters()]
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    def boundary(self) -> Tensor:
        """[begin_symbol, begin_frame, end_symbol, end_frame] of each utterance, (N, 4)."""
        zeros = torch.zeros_like(self.x_lens)
        return torch.stack([zeros, zeros, self.y_lens, self.x_lens], dim=1)


def make_batch(x_lens: list[int], y_lens: list[int], *, dtype: torch.dtype = torch.float32) -> Batch:
    """Random frames, random at padding too, of 11 units and a joiner of 5 channels."""
    num_frames, num_tokens = max(x_lens), max(y_lens)
    y = torch.randint(1, 11, (len(x_lens), num_tokens))
    y *= torch.arange(num_tokens) < torch.tensor(y_lens).unsqueeze(1)
    shapes = (num_frames, 11), (num_tokens + 1, 11), (num_frames, 5), (num_tokens + 1, 5)
    frames = (torch.randn(len(x_lens), *shape, dtype=dtype, requires_grad=True) for shape in shapes)
    return Batch(*frames, Joiner(3, 3, 5, 11).to(dtype), y, torch.tensor(x_lens), torch.tensor(y_lens))  # type: ignore


def one_utterance(batch: Batch, n: int) -> Batch:
    """One utterance without its padding."""
    frames, tokens = int(batch.x_lens[n]), int(batch.y_lens[n])

    def alone(x: Tensor, length: int) -> Tensor:
        return x[n : n + 1, :length].detach().requires_grad_()

    return Batch(
        am_simple=alone(batch.am_simple, frames),
        lm_simple=alone(batch.lm_simple, tokens + 1),
        encoder_frames=alone(batch.encoder_frames, frames),
        decoder_frames=alone(batch.decoder_frames, tokens + 1),
        joiner=batch.joiner,
        y=batch.y[n : n + 1, :tokens],
        x_lens=batch.x_lens[n : n + 1],
        y_lens=batch.y_lens[n : n + 1],
    )


def by_definition(batch: Batch, prune_range: int) -> TransducerLosses:
    """The joiner at every position, where those that pruning leaves out are impossible."""
    boundary = batch.boundary()
    simple_loss, posteriors = rnnt_loss_smoothed(
        batch.lm_simple, batch.am_simple, batch.y, 0, 0.25, 0.0, boundary, reduction="sum", return_grad=True
    )
    ranges = get_rnnt_prune_ranges(*posteriors, boundary, prune_range)
    logits = batch.joiner(batch.encoder_frames.unsqueeze(2), batch.decoder_frames.unsqueeze(1))
    kept = torch.zeros(logits.shape[:3], dtype=torch.bool).scatter(2, ranges, True)
    log_probs = logits.log_softmax(-1).masked_fill(~kept.unsqueeze(3), -torch.inf)
    return TransducerLosses(simple_loss, full_loss(log_probs, batch.y, boundary).sum(), torch.zeros(()))


def losses_of(batch: Batch, functions: TransducerFunctions, prune_range: int = 4, **changes: Any) -> TransducerLosses:
    options = {"lm_only_scale": 0.25, "am_only_scale": 0.0, **changes}
    return pruned_transducer_loss(*batch, prune_range=prune_range, functions=functions, **options)


def assert_equal_with_gradients(batch: Batch, found: TransducerLosses, expected: TransducerLosses) -> None:
    for loss, expected_loss in zip(found[:2], expected):
        torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
        for gradient, expected_gradient in zip(batch.gradients(loss), batch.gradients(expected_loss)):
            if expected_gradient is None:
                assert gradient is None
            else:
                torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=2e-5)


def test_equals_the_four_functions_one_after_the_other() -> None:
    batch = make_batch([40, 31, 12], [12, 5, 9])
    found = losses_of(batch, transducer_functions("torch", "cpu"))
    assert_equal_with_gradients(batch, found, by_definition(batch, 4))


def test_equals_k2s_four_functions_one_after_the_other() -> None:
    k2 = pytest.importorskip("k2")
    batch = make_batch([40, 31, 12], [12, 5, 9])
    common = {"symbols": batch.y, "termination_symbol": 0, "boundary": batch.boundary(), "reduction": "sum"}
    simple_loss, posteriors = k2.rnnt_loss_smoothed(
        lm=batch.lm_simple, am=batch.am_simple, return_grad=True, lm_only_scale=0.25, am_only_scale=0.0, **common
    )
    ranges = k2.get_rnnt_prune_ranges(*posteriors, batch.boundary(), 4)
    frames = k2.do_rnnt_pruning(batch.encoder_frames, batch.decoder_frames, ranges)
    pruned_loss = k2.rnnt_loss_pruned(logits=batch.joiner(*frames), ranges=ranges, **common)
    found = losses_of(batch, transducer_functions("k2", "cpu"))
    assert_equal_with_gradients(batch, found, TransducerLosses(simple_loss, pruned_loss, torch.zeros(())))


@pytest.mark.parametrize(
    ("num_frames", "num_tokens"), [([40, 31, 12, 3, 9], [12, 5, 9, 6, 0]), ([3, 2], [6, 1]), ([4], [0])]
)
def test_backends_agree(num_frames: list[int], num_tokens: list[int]) -> None:
    """Also on batches of more tokens than frames, and of no token, which k2 1.23.4 itself refuses."""
    pytest.importorskip("k2")
    batch = make_batch(num_frames, num_tokens)
    by_k2, by_torch = (losses_of(batch, transducer_functions(name, "cpu"), 13) for name in ("k2", "torch"))
    assert_equal_with_gradients(batch, by_torch, by_k2)


def test_without_pruning_it_is_the_full_loss(functions: TransducerFunctions) -> None:
    batch = make_batch([9, 7, 4], [5, 2, 4])
    logits = batch.joiner(batch.encoder_frames.unsqueeze(2), batch.decoder_frames.unsqueeze(1))
    full = full_transducer_loss(logits, batch.y, batch.boundary()).sum()
    expected_gradients = batch.gradients(full)[2:]
    for prune_range in (6, 20):
        found = losses_of(batch, functions, prune_range).pruned_loss
        torch.testing.assert_close(found, full)
        for gradient, expected in zip(batch.gradients(found)[2:], expected_gradients):
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_no_range_sums_more_than_all_of_it(functions: TransducerFunctions, seed: int) -> None:
    """The alignments that pruning leaves are some of all: the loss is never below that of the widest range."""
    torch.manual_seed(seed)
    batch = make_batch([15, 9, 12], [8, 3, 6])
    narrow = [float(losses_of(batch, functions, prune_range).pruned_loss) for prune_range in range(2, 9)]
    widest = float(losses_of(batch, functions, 9).pruned_loss)
    assert min(narrow) >= widest - 1e-3 and max(narrow) > widest + 1e-2


def test_gradients_are_those_of_finite_differences() -> None:
    batch = make_batch([5, 3], [3, 1], dtype=torch.float64)
    functions = transducer_functions("torch", "cpu")

    def total(*frames: Tensor) -> Tensor:
        losses = losses_of(Batch(*frames, *batch[4:]), functions, 2)  # type: ignore
        return losses.simple_loss + losses.pruned_loss

    assert torch.autograd.gradcheck(total, batch[:4])


def test_padding_and_batch_mates_change_nothing(functions: TransducerFunctions) -> None:
    batch = make_batch([20, 12, 30, 8], [6, 3, 10, 0])
    together = losses_of(batch, functions)
    utterances = [one_utterance(batch, n) for n in range(4)]
    alone = [losses_of(utterance, functions) for utterance in utterances]
    for i, inputs in ((0, slice(0, 2)), (1, slice(2, 4))):
        torch.testing.assert_close(together[i], torch.stack([losses[i] for losses in alone]).sum())
        gradients = batch.gradients(together[i])[inputs]
        for n, utterance in enumerate(utterances):
            for gradient, expected in zip(gradients, utterance.gradients(alone[n][i])[inputs]):
                length = expected.shape[1]
                torch.testing.assert_close(gradient[n, :length], expected[0], rtol=1e-4, atol=1e-5)
                assert (gradient[n, length:].abs() < 1e-12).all()  # k2 leaves 1e-20


@pytest.mark.parametrize("num_frames", [7, 1])
def test_an_empty_transcript_is_blank_everywhere(functions: TransducerFunctions, num_frames: int) -> None:
    batch = make_batch([num_frames, 1], [0, 0])
    found = losses_of(batch, functions, lm_only_scale=0.0)
    simple = (batch.am_simple + batch.lm_simple).log_softmax(-1)[:, :, 0]
    pruned = batch.joiner(batch.encoder_frames, batch.decoder_frames).log_softmax(-1)[:, :, 0]
    for loss, blank in zip(found, (simple, pruned)):
        torch.testing.assert_close(loss, -(blank[0].sum() + blank[1, 0]))
        assert all(gradient is None or gradient.isfinite().all() for gradient in batch.gradients(loss))


def test_an_utterance_that_needs_a_wide_range_does_not_widen_its_batch_mates(functions: TransducerFunctions) -> None:
    batch = make_batch([40, 7], [12, 28])
    together = losses_of(batch, functions, 2).pruned_loss
    alone = [losses_of(one_utterance(batch, n), functions, 2).pruned_loss for n in range(2)]
    torch.testing.assert_close(together, sum(alone))


def test_more_tokens_than_the_windows_hold_widen_them(functions: TransducerFunctions) -> None:
    batch = make_batch([2, 9], [8, 3])  # 2 frames of a range of 3 hold 4 tokens
    found = losses_of(batch, functions, 3)
    wide, narrow = (losses_of(one_utterance(batch, n), functions, width) for n, width in enumerate((5, 3)))
    torch.testing.assert_close(found.pruned_loss, wide.pruned_loss + narrow.pruned_loss)
    assert torch.isfinite(found.pruned_loss)


def test_autocast_changes_the_joiner_alone(functions: TransducerFunctions) -> None:
    batch = make_batch([20, 12], [6, 3])
    plain = losses_of(batch, functions, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses_of(batch, functions, 7)
    assert found.simple_loss == plain.simple_loss
    assert found.pruned_loss.dtype == torch.float32
    torch.testing.assert_close(found.pruned_loss, plain.pruned_loss, rtol=0.02, atol=0.0)
    gradients = zip(batch.gradients(found.pruned_loss)[2:], batch.gradients(plain.pruned_loss)[2:])
    assert all(F.cosine_similarity(x.flatten(), y.flatten(), dim=0) > 0.99 for x, y in gradients)


def test_half_precision_frames_give_float32_losses(functions: TransducerFunctions) -> None:
    batch = make_batch([20, 12], [6, 3], dtype=torch.bfloat16)
    found = losses_of(batch, functions, 7)
    assert found.simple_loss.dtype == found.pruned_loss.dtype == torch.float32
    assert [x.dtype for x in batch.gradients(found.pruned_loss)[2:]] == [torch.bfloat16] * 4


def test_nothing_is_kept_for_a_backward_that_will_not_come(functions: TransducerFunctions) -> None:
    batch = make_batch([20, 12], [6, 3])
    with torch.no_grad():
        found = losses_of(batch, functions)
    assert not found.pruned_loss.requires_grad
    torch.testing.assert_close(found, losses_of(batch, functions))


def test_the_joiner_computes_all_rows_without_gradient_and_few_with(functions: TransducerFunctions) -> None:
    batch, num_rows = make_batch([400, 310], [12, 5]), 5 * (400 + 310)
    rows: dict[bool, int] = {False: 0, True: 0}

    def joiner(encoder_rows: Tensor, decoder_rows: Tensor) -> Tensor:
        rows[torch.is_grad_enabled()] += len(encoder_rows)
        return batch.joiner(encoder_rows, decoder_rows)

    losses_of(batch._replace(joiner=joiner), functions, 5)  # type: ignore[arg-type]
    assert rows[False] == num_rows and 0 < rows[True] < 0.9 * num_rows


def test_a_teachers_joiner_is_imitated_where_positions_are_kept() -> None:
    """Learning from it alone brings the joiner to it; other losses and a joiner like the teacher's stay as they are."""
    torch.manual_seed(0)
    functions = transducer_functions("torch", "cpu")
    batch, other = make_batch([9, 6], [4, 2]), make_batch([9, 6], [4, 2])
    teacher = TeacherJoiner(other.joiner, other.encoder_frames.detach(), other.decoder_frames.detach())
    itself = TeacherJoiner(batch.joiner, batch.encoder_frames.detach(), batch.decoder_frames.detach())
    plain, taught, same = (losses_of(batch, functions, teacher=of) for of in (None, teacher, itself))
    assert plain[:2] == taught[:2] == same[:2] and plain.distillation_loss == 0
    assert taught.distillation_loss > 0.1 and same.distillation_loss < 1e-5
    parameters = [batch.encoder_frames, batch.decoder_frames, *batch.joiner.output.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        losses_of(batch, functions, teacher=teacher).distillation_loss.backward()
        optimizer.step()
    assert losses_of(batch, functions, teacher=teacher).distillation_loss < 0.3 * taught.distillation_loss


def frames(seed: int) -> torch.Tensor:
    return torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(seed))


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


def test_without_lattice_positions_nothing_diverges() -> None:
    assert arc_divergence(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)) == 0


def test_certain_choices_have_finite_gradients() -> None:
    logits = (frames(1)[0] * 100).requires_grad_()
    columns = logits.log_softmax(dim=-1)[:, [1, 0]]
    arc_divergence(columns, columns.detach().flip(0), torch.ones(5, dtype=torch.int64)).backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad.any()
