from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from shared_moe_conformer.config import Config
from shared_moe_conformer.data.batch import AsrBatch
from shared_moe_conformer.training import optim
from shared_moe_conformer.training.folder import load_checkpoint, save_checkpoint
from shared_moe_conformer.training.trainer import Trainer, suspects


@pytest.fixture
def trainer(tiny_model: Callable[[], Any], config: Config) -> Trainer:
    return Trainer(tiny_model(), config.training)


def test_steps_reduce_the_loss(trainer: Trainer, batch: Callable[..., Any]) -> None:
    before = trainer.validate([batch(1)]).averages()["loss"]
    for _ in range(10):
        report = trainer.train_step(batch(1), progress=0.1)
    assert trainer.validate([batch(1)]).averages()["loss"] < 0.7 * before
    assert trainer.state.step == trainer.state.num_batches == 10
    assert report.num_feature_frames == int(batch(1).x_lens.sum())


def test_learning_rate_peaks_after_the_warmup_and_ends_at_one_percent(trainer: Trainer, batch: Any) -> None:
    rates = [trainer.train_step(batch(n), progress=(n + 1) / 12).learning_rate for n in range(12)]
    warmup = trainer.config.warmup_steps
    assert max(rates) == rates[warmup - 1] == pytest.approx(trainer.config.learning_rate)
    assert all(a > b for a, b in zip(rates[warmup - 1 :], rates[warmup:]))
    assert rates[-1] == pytest.approx(0.01 * trainer.config.learning_rate)


def test_gradients_are_clipped_to_the_norm(tiny_model: Callable[[], Any], config: Config, batch: Any) -> None:
    training = dataclasses.replace(config.training, max_grad_norm=1e-3)
    trainer = Trainer(tiny_model(), training)
    report = trainer.train_step(batch(1), progress=0.1)
    assert report.grad_norm > 1e-2 and report.clipped
    norm = torch.stack([p.grad.norm() for p in trainer.model.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_experts_are_balanced_by_the_frames_of_a_whole_update(trainer: Trainer, batch: Callable[..., Any]) -> None:
    report = trainer.train_step(batch(1), batch(2), progress=0.1)
    (frames,) = trainer.model.encoder.balanced  # type: ignore[operator, misc]
    assert torch.equal(frames, report.totals.frames_per_expert)
    assert report.frames_to_balance is not None and torch.equal(report.frames_to_balance, frames)
    assert frames.sum() == batch(1).x_lens.sum() + batch(2).x_lens.sum()


def test_batches_are_on_the_device_before_their_features_are_counted(
    trainer: Trainer, batch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[Any] = []
    monkeypatch.setattr(AsrBatch, "to", lambda self, device: moved.append(device) or self._replace(texts=["moved"]))
    monkeypatch.setattr(trainer, "_before_update", lambda batches: counted.extend(batches))
    counted: list[Any] = []
    trainer.train_step(batch(1), batch(2), progress=0.1)
    assert [each.texts for each in counted] == [["moved"]] * 2 and set(moved) == {trainer.device}


def test_features_of_a_whole_update_are_counted_before_any_are_normalised(
    trainer: Trainer, batch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    losses = trainer.losses
    monkeypatch.setattr(trainer.model.encoder, "count", lambda totals: done.append(int(totals)))
    monkeypatch.setattr(trainer, "losses", lambda *args: done.append("losses") or losses(*args))
    trainer.train_step(batch(1), batch(2), progress=0.1)
    assert done == [int(batch(1).x_lens.sum() + batch(2).x_lens.sum()), "losses", "losses"]


def poisoned(batch: Any, value: float = float("nan")) -> Any:
    batch.x[0, 0, 0] = value
    return batch


def complete_state(trainer: Trainer) -> dict[str, Any]:
    return copy.deepcopy({**trainer.checkpoint(), "train_state": None})


def assert_equal(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        [assert_equal(value, b[key]) for key, value in a.items()]
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_change_nothing_and_are_named(trainer: Trainer, batch: Any, value: float) -> None:
    trainer.model.train()
    trainer.train_step(batch(1), progress=0.1)
    before, peak = complete_state(trainer), trainer.state.progress_at_peak
    report = trainer.train_step(poisoned(batch(2), value), progress=0.2)
    assert report.skipped.startswith("step 2: loss is nan, simple_loss is nan") and report.suspects == ("cut-2-0",)
    assert_equal(before, complete_state(trainer))
    assert before["model"]["norm.num_batches_tracked"] == 1 and trainer.state.progress_at_peak == peak
    state = trainer.state
    assert (state.step, state.num_batches, state.num_skipped, state.skipped_in_a_row) == (1, 2, 1, 1)


def test_after_a_skipped_update_all_goes_on_as_if_it_had_not_been(
    tiny_model: Callable[[], Any], config: Config, batch: Callable[..., Any]
) -> None:
    weights = []
    for numbers in ((1, 2, 3), (1, None, None, 2, 3)):
        trainer = Trainer(tiny_model().eval(), config.training)
        trainer.model.norm.train()  # type: ignore[operator, union-attr]
        for number in numbers:
            trainer.train_step(poisoned(batch(9)) if number is None else batch(number), progress=0.1)
        weights.append(complete_state(trainer))
        assert trainer.state.skipped_in_a_row == 0 and trainer.state.step == 3
    assert_equal(*weights)


def test_a_gradient_that_is_not_finite_is_skipped(trainer: Trainer, batch: Callable[..., Any]) -> None:
    weight = trainer.model.hidden_weight
    weight.register_hook(lambda grad: grad * float("inf"))  # type: ignore[operator, union-attr]
    before = weight.detach().clone()  # type: ignore[operator, union-attr]
    report = trainer.train_step(batch(1), progress=0.1)
    assert report.skipped.startswith("step 1: gradient norm is") and not report.clipped
    assert report.suspects == ("cut-1-0", "cut-1-1", "cut-1-2")
    assert torch.equal(before, weight)  # type: ignore[arg-type]


def test_validation_changes_nothing_and_depends_on_no_order(trainer: Trainer, batch: Callable[..., Any]) -> None:
    before = copy.deepcopy(trainer.model.state_dict())
    seen: list[Any] = []
    first = trainer.validate([batch(1), batch(2)], seen.append)
    second = trainer.validate([batch(2), batch(1)])
    assert first.averages() == pytest.approx(second.averages())
    assert len(seen) == 2 and trainer.model.training
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_a_restored_trainer_goes_on_as_the_first(
    tiny_model: Callable[[], Any], config: Config, batch: Callable[..., Any], tmp_path: Any
) -> None:
    first = Trainer(tiny_model(), config.training)
    for n in range(3):
        first.train_step(batch(n), progress=0.1 * n)
    save_checkpoint(tmp_path / "epoch-1.pt", first.checkpoint())
    second = Trainer(tiny_model(), config.training)
    second.restore(load_checkpoint(tmp_path / "epoch-1.pt"))
    assert second.state == first.state
    for trainer in (first, second):
        torch.manual_seed(1)
        trainer.train_step(batch(9), progress=0.5)
    for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values()):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("kind", "scale"), [("none", 1.0), ("inverse", 0.25)])
def test_weights_of_several_layers_take_smaller_steps_also_after_resuming(
    tiny_model: Callable[[], Any],
    config: Config,
    batch: Callable[..., Any],
    kind: Any,
    scale: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """AdamW's first step is as long as the learning rate with any gradient."""
    monkeypatch.setattr(optim, "layers_of", lambda model: {model.hidden_weight: 4})
    training = dataclasses.replace(config.training, shared_block_lr_scale=kind, warmup_steps=0, weight_decay=0.0)

    def make() -> Trainer:
        return Trainer(tiny_model(), training)

    first, second = make(), make()
    before = first.model.hidden_weight.detach().clone()  # type: ignore[operator, union-attr]
    learning_rate = first.train_step(batch(1), progress=0.0).learning_rate
    step = (first.model.hidden_weight.detach() - before).abs().max()  # type: ignore[operator]
    assert float(step) == pytest.approx(scale * learning_rate, rel=0.01)
    second.restore(copy.deepcopy(first.checkpoint()))
    for trainer in (first, second):
        torch.manual_seed(1)
        trainer.train_step(batch(2), progress=0.1)
    assert torch.equal(first.model.hidden_weight, second.model.hidden_weight)  # type: ignore[arg-type]


def test_frozen_parts_stay_as_they_are_and_the_rest_learns(
    tiny_model: Callable[[], Any], config: Config, batch: Callable[..., Any]
) -> None:
    trainer = Trainer(tiny_model(), dataclasses.replace(config.training, freeze=("norm", "router")))
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train_mode()
    for n in range(2):
        trainer.train_step(batch(n), progress=0.1)
    trainer.validate([batch(1)])
    trainer.train_step(batch(3), progress=0.1)
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"hidden_weight", "hidden_bias", "embedding.weight"}


def test_weights_of_another_model_are_refused(trainer: Trainer) -> None:
    checkpoint = trainer.checkpoint()
    checkpoint["model"] = {f"old_{name}": value for name, value in checkpoint["model"].items()}
    with pytest.raises(ValueError, match="do not fit the model"):
        trainer.restore(checkpoint)


@pytest.mark.parametrize("is_clean", [False, True])
def test_the_teacher_hears_the_clean_features_of_a_batch_that_has_them(
    tiny_model: Callable[[], Any], config: Config, batch: Callable[..., AsrBatch], is_clean: bool
) -> None:
    class Teacher(torch.nn.Module):
        heard: torch.Tensor

        def teach(self, x: torch.Tensor, x_lens: torch.Tensor, y: torch.Tensor | None = None) -> None:
            self.heard = x

    teacher, examples = Teacher(), batch(1)
    clean = torch.zeros_like(examples.x)
    trainer = Trainer(tiny_model(), config.training, teacher=teacher)  # type: ignore[arg-type]
    trainer.train_step(examples._replace(clean=clean if is_clean else None), progress=0.1)
    assert torch.equal(teacher.heard, clean if is_clean else examples.x)


def test_suspects_are_the_cuts_that_are_not_finite_else_all(batch: Callable[..., Any]) -> None:
    first, second = batch(1), batch(2)
    assert suspects([first, second]) == (*first.cut_ids, *second.cut_ids)
    second.x[1, 2, 3] = float("inf")
    assert suspects([first, second]) == ("cut-2-1",)
    second.x[1, int(second.x_lens[1]) :] = float("nan")
    second.x[1, 2, 3] = 0.0
    assert suspects([first, second]) == (*first.cut_ids, *second.cut_ids), "padding is no feature"
