from __future__ import annotations

from typing import Any

import pytest
import torch

from shared_moe_conformer.loss.per_frame import hidden_distance
from shared_moe_conformer.model.asr_model import VOCAB_LAYERS, AsrLosses, AsrModel

X, X_LENS = torch.randn(3, 60, 20, generator=torch.Generator().manual_seed(1)), torch.tensor([60, 48, 31])
Y, Y_LENS = torch.tensor([[4, 5, 6, 7], [3, 3, 0, 0], [9, 0, 0, 0]]), torch.tensor([4, 2, 1])


def losses_of(model: AsrModel) -> AsrLosses:
    return model(X, X_LENS, Y, Y_LENS)


def test_every_parameter_gets_a_gradient(model_config: Any) -> None:
    model = AsrModel(model_config(experts_in="both"), num_mel_bins=20)
    losses = losses_of(model)
    sum(loss for loss in losses[:5]).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert losses.num_frames == 14 + 11 + 7


@pytest.mark.parametrize("experts_in", ["none", "second"])
def test_summed_losses_are_the_sum_over_utterances(model_config: Any, experts_in: str) -> None:
    model = AsrModel(model_config(experts_in=experts_in), num_mel_bins=20).eval()
    together = losses_of(model)
    alone = [model(X[i : i + 1], X_LENS[i : i + 1], Y[i : i + 1], Y_LENS[i : i + 1]) for i in range(3)]
    for name in ("simple_loss", "pruned_loss", "ctc_loss", "num_frames"):
        summed = sum(getattr(losses, name) for losses in alone)
        torch.testing.assert_close(getattr(together, name), summed, rtol=1e-4, atol=1e-4)


def test_an_utterance_without_text_is_as_if_it_were_alone(model_config: Any) -> None:
    """Its losses say that all is blank, whatever the others' texts are."""
    model = AsrModel(model_config(), num_mel_bins=20).eval()
    silent = torch.tensor([4, 0, 1])
    together = model(X, X_LENS, Y, silent)
    alone = [model(X[i : i + 1], X_LENS[i : i + 1], Y[i : i + 1], silent[i : i + 1]) for i in range(3)]
    for name in ("simple_loss", "pruned_loss", "ctc_loss"):
        assert getattr(alone[1], name) > 0
        summed = sum(getattr(losses, name) for losses in alone)
        torch.testing.assert_close(getattr(together, name), summed, rtol=1e-4, atol=1e-4)
    (together.simple_loss + together.pruned_loss + together.ctc_loss).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_two_equal_copies_have_the_losses_of_one_per_frame_and_are_consistent(model_config: Any) -> None:
    model = AsrModel(model_config(), num_mel_bins=20).eval()
    one = losses_of(model)
    both = model(*(torch.cat([tensor, tensor]) for tensor in (X, X_LENS, Y, Y_LENS)), num_copies=2)
    assert one.cr_loss is None and both.cr_loss is not None and both.cr_loss.abs() < 1e-4
    for name in ("simple_loss", "pruned_loss", "ctc_loss"):
        expected = getattr(one, name) / one.num_frames
        torch.testing.assert_close(getattr(both, name) / both.num_frames, expected, rtol=1e-4, atol=1e-4)
    other = model(torch.cat([X, X + 1]), *(torch.cat([t, t]) for t in (X_LENS, Y, Y_LENS)), num_copies=2)
    assert other.cr_loss is not None and other.cr_loss > 0.01


def test_router_losses_are_zero_without_experts(model_config: Any) -> None:
    losses = losses_of(AsrModel(model_config(experts_in="none"), num_mel_bins=20))
    assert losses.load_balancing_loss == 0 and losses.router_z_loss == 0
    assert losses.frames_per_expert is None


def test_a_few_steps_lower_the_losses(model_config: Any) -> None:
    model = AsrModel(model_config(), num_mel_bins=20)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    totals = []
    for _ in range(15):
        losses = losses_of(model)
        total = losses.simple_loss + losses.pruned_loss + losses.ctc_loss
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.5 * totals[0]


def test_layers_with_one_row_for_each_unit_are_named(model_config: Any) -> None:
    """Against all tensors with 11 rows, a size that nothing else has."""
    state = AsrModel(model_config(), num_mel_bins=20).state_dict()
    found = {name for name, value in state.items() if value.dim() and value.size(0) == 11}
    assert found == {name for name in state if name.startswith(VOCAB_LAYERS)} and len(found) == 9


def test_a_teacher_is_imitated_at_the_ends_of_groups_that_both_have(model_config: Any) -> None:
    student = AsrModel(model_config(group_sizes=(2, 2)), num_mel_bins=20).eval()
    for sizes in ((1, 1, 1, 1), (4,), (3,)):
        teacher = AsrModel(model_config(group_sizes=sizes), num_mel_bins=20).eval()
        output = teacher.teach(X, X_LENS, Y)
        losses = student(X, X_LENS, Y, Y_LENS, teacher=output)
        (ours, lens, _), our_ends = student.encoder.forward_with_ends(X, X_LENS)
        assert list(our_ends) == [2, 4] and torch.equal(our_ends[4], ours)
        last = hidden_distance(ours, output.encoder_out, lens)
        assert losses.transducer_distillation_loss > 0
        first = hidden_distance(our_ends[2], output.group_ends.get(2, ours), lens)
        expected = (first + last) / 2 if sizes == (1, 1, 1, 1) else last
        torch.testing.assert_close(losses.hidden_distillation_loss, expected)
    without = student(X, X_LENS, Y, Y_LENS, teacher=teacher.teach(X, X_LENS))
    assert without.transducer_distillation_loss is None and without.ctc_distillation_loss > 0


def test_a_model_that_teaches_itself_has_nothing_to_learn(model_config: Any) -> None:
    model = AsrModel(model_config(), num_mel_bins=20).eval()
    losses = model(X, X_LENS, Y, Y_LENS, teacher=model.teach(X, X_LENS, Y))
    distilled = [value for name, value in losses._asdict().items() if "distillation" in name]
    assert len(distilled) == 3 and all(abs(value.item()) < 1e-4 for value in distilled)
