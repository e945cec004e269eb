from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared_moe_conformer.config import Config
from shared_moe_conformer.training.averaging import RunningSum, Selection, average_checkpoints, mean_between
from shared_moe_conformer.training.experiment import RunOptions
from shared_moe_conformer.training.folder import (
    BEST_NAME,
    epoch_path,
    load_checkpoint,
    save_checkpoint,
    save_if_best,
    saved_steps,
    step_path,
)
from shared_moe_conformer.training.loop import Batches, fit
from shared_moe_conformer.training.trainer import Trainer
from tests.training.conftest import STEPS_PER_EPOCH, save_epochs


def mean_of(exp_dir: Path, *epochs: int) -> dict[str, Tensor]:
    return average_checkpoints([epoch_path(exp_dir, epoch) for epoch in epochs])


def test_average_is_the_mean_and_integers_come_from_the_last(tmp_path: Path) -> None:
    save_epochs(tmp_path, {1: 1.0, 2: 2.0, 3: 6.0})
    state = mean_of(tmp_path, 1, 2, 3)
    torch.testing.assert_close(state["w"], torch.full((2,), 3.0))
    assert state["half"].dtype == torch.float16 and state["steps"] == 3 and state["steps"].dtype == torch.int64
    torch.testing.assert_close(mean_of(tmp_path, 1, 2)["w"], torch.full((2,), 1.5))


def test_average_of_one_is_that_one(tmp_path: Path) -> None:
    save_epochs(tmp_path, {4: 0.1})
    assert torch.equal(mean_of(tmp_path, 4)["w"], torch.full((2,), 0.1))


def test_average_of_large_and_small_numbers_loses_nothing(tmp_path: Path) -> None:
    save_epochs(tmp_path, {1: 1e8, 2: 3.0, 3: -1e8})
    assert float(mean_of(tmp_path, 1, 2, 3)["w"][0]) == 1.0  # 0 if it were summed in float32


def test_average_of_different_models_is_refused(tmp_path: Path) -> None:
    save_epochs(tmp_path, {2: 1.0})
    save_checkpoint(epoch_path(tmp_path, 1), {"model": {"w": torch.zeros(3)}})
    with pytest.raises(ValueError, match="not of the same model"):
        mean_of(tmp_path, 1, 2)


def test_a_checkpoint_without_sums_is_named(tmp_path: Path) -> None:
    save_checkpoint(epoch_path(tmp_path, 1), {"model": nn.Linear(1, 1).state_dict()})
    with pytest.raises(ValueError, match="epoch-1.pt holds no sum of weights: train with --average-period"):
        mean_between(None, epoch_path(tmp_path, 1))


def test_an_interval_without_an_update_is_refused(exp_dir: Path) -> None:
    with pytest.raises(ValueError, match="no update was summed"):
        mean_between(epoch_path(exp_dir, 2), epoch_path(exp_dir, 2))


def test_sums_with_a_gap_are_refused_and_those_after_it_are_means(tmp_path: Path) -> None:
    """The weight is the update's number; the second of four epochs is trained without sums."""
    model, checkpoint = nn.Linear(1, 1, bias=False), dict[str, Any]()
    for epoch in (1, 2, 3, 4):
        running, before = RunningSum(model, period=1), 10 * (epoch - 1)
        running.restore(checkpoint, step=before)
        for step in range(before + 1, before + 11):
            nn.init.constant_(model.weight, float(step))
            running.stepped(step)
        checkpoint = {"model": model.state_dict(), **(running.state() if epoch != 2 else {})}
        save_checkpoint(epoch_path(tmp_path, epoch), checkpoint)
    last = epoch_path(tmp_path, 4)
    for begin in (None, epoch_path(tmp_path, 1)):
        with pytest.raises(ValueError, match="epoch-4.pt holds sums from update 20 on, where the training was resumed"):
            mean_between(begin, last)
    assert mean_between(epoch_path(tmp_path, 3), last)["weight"].item() == 35.5  # of 31 to 40


def test_large_weights_lose_nothing_to_the_running_sum() -> None:
    """In float32 the sum of these would stay at 2^24."""
    model = nn.Linear(1, 1, bias=False)
    running = RunningSum(model, period=1)
    for step in range(1, 9):
        nn.init.constant_(model.weight, 2.0**24 + 2 * step)
        running.stepped(step)
    assert running.state()["model_sums"]["weight"].item() == 8 * 2.0**24 + 2 * 36


def test_a_training_that_stops_and_resumes_sums_the_same(
    tiny_model: Callable[[], Any], loader: Callable[[], Any], batch: Any, config: Config, tmp_path: Path
) -> None:
    """Against the mean of all updates' own checkpoints."""

    def run(exp_dir: Path, stop_after: int | None = None) -> None:
        exp_dir.mkdir(exist_ok=True)
        trainer = Trainer(tiny_model(), config.training, average_period=2)
        options = RunOptions(save_every_n_steps=1, keep_last_k_steps=99, average_period=2)

        def between_steps() -> None:
            if trainer.state.step == stop_after:
                raise KeyboardInterrupt

        checkpoint = exp_dir / "checkpoint.pt"
        fit(
            trainer,
            Batches(loader(), [batch(1)], lambda one: (1, 4)),
            exp_dir=exp_dir,
            config=config,
            options=options,
            checkpoint=load_checkpoint(checkpoint) if checkpoint.is_file() else None,
            between_steps=between_steps,
        )

    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop_after=8)
    run(tmp_path / "stopped")
    selection = Selection(epoch="3", avg=2, use_averaged_model=True)
    whole, stopped = (selection.state(tmp_path / name) for name in ("whole", "stopped"))
    assert all(torch.equal(value, stopped[name]) for name, value in whole.items())
    assert saved_steps(tmp_path / "whole") == list(range(1, 16))
    steps = [load_checkpoint(step_path(tmp_path / "whole", step))["model"] for step in range(6, 16, 2)]
    for name in ("hidden_weight", "norm.running_var"):
        torch.testing.assert_close(whole[name], torch.stack([step[name] for step in steps]).mean(0))


def test_only_the_last_updates_are_kept(
    tiny_model: Callable[[], Any], loader: Callable[[], Any], config: Config, tmp_path: Path
) -> None:
    options = RunOptions(save_every_n_steps=2, keep_last_k_steps=3)
    fit(Trainer(tiny_model(), config.training), Batches(loader(), []), exp_dir=tmp_path, config=config, options=options)
    assert saved_steps(tmp_path) == [10, 12, 14] and not (tmp_path / BEST_NAME).exists()


def test_updates_cannot_be_kept_without_saving_them() -> None:
    with pytest.raises(ValueError, match="give --save-every-n-steps too"):
        RunOptions(keep_last_k_steps=2)


def weight(state: dict[str, Tensor]) -> float:
    assert state["weight"].dtype == torch.float32 and state["weight"][0] == state["weight"][1]
    return float(state["weight"][0])


def mean(steps: list[int]) -> float:
    return sum(step**2 for step in steps) / len(steps)


@pytest.mark.parametrize(
    ("selection", "name", "steps"),
    [
        (Selection(), "epoch-3-avg-1", [15]),
        (Selection(epoch="2", avg=2), "epoch-2-avg-2", [5, 10]),
        (Selection(iter=12, avg=3), "iter-12-avg-3", [6, 9, 12]),
        (Selection(epoch="3", use_averaged_model=True), "averaged-epoch-3-avg-1", [12, 14]),
        (Selection(epoch="3", avg=2, use_averaged_model=True), "averaged-epoch-3-avg-2", [6, 8, 10, 12, 14]),
        (Selection(epoch="2", avg=2, use_averaged_model=True), "averaged-epoch-2-avg-2", [2, 4, 6, 8, 10]),
        (Selection(iter=12, avg=2, use_averaged_model=True), "averaged-iter-12-avg-2", [8, 10, 12]),
    ],
    ids=str,
)
def test_weights_are_the_mean_of_the_selected_updates(
    exp_dir: Path, selection: Selection, name: str, steps: list[int]
) -> None:
    assert selection.name(exp_dir) == name
    state = selection.state(exp_dir)
    assert weight(state) == pytest.approx(mean(steps), rel=1e-7)
    assert state["num_batches_tracked"] == (selection.iter or int(selection.epoch or 3) * STEPS_PER_EPOCH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": "last"}, "--epoch last: give a number from 1 or best"),
        ({"epoch": "0"}, "--epoch 0: give a number from 1"),
        ({"epoch": "2", "iter": 4}, "give one of them"),
        ({"avg": 0}, "--avg 0"),
        ({"epoch": "best", "avg": 2}, "best is one epoch"),
    ],
)
def test_a_selection_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Selection(**options)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(iter=10), "has 3 checkpoints up to checkpoint-10.pt"),
        (Selection(iter=6, avg=3), "has 2 checkpoints up to checkpoint-6.pt, 3 are needed"),
        (Selection(iter=3, avg=1, use_averaged_model=True), "2 are needed"),
        (Selection(epoch="2", avg=3, use_averaged_model=True), "give --avg from 1 to 2"),
        (Selection(epoch="9"), "no epoch-9.pt"),
        (Selection(epoch="best"), "no checkpoint"),
    ],
    ids=str,
)
def test_checkpoints_that_are_not_there_are_named(exp_dir: Path, selection: Selection, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        selection.state(exp_dir)


def test_missing_epochs_are_named(tmp_path: Path) -> None:
    save_epochs(tmp_path, {1: 1.0, 2: 1.0, 4: 1.0})
    with pytest.raises(FileNotFoundError, match=r"no epoch-3\.pt \(there: 1-2, 4\)"):
        Selection("4", avg=2).state(tmp_path)
    with pytest.raises(FileNotFoundError, match="there: none"):
        Selection("1").state(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="--avg 3, and epoch 2 is the last"):
        Selection("2", avg=3).state(tmp_path)


def test_the_best_epoch_is_called_so(tmp_path: Path) -> None:
    for epoch, wer in enumerate((90.0, 50.0, 70.0), start=1):
        save_if_best(tmp_path / BEST_NAME, {"weight": torch.tensor(float(epoch))}, value=wer, epoch=epoch)
    best = Selection(epoch="best")
    assert best.name(tmp_path) == "best-valid-wer" and best.state(tmp_path)["weight"] == 2.0
