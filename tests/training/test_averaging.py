from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared_moe_conformer.config import Config
from shared_moe_conformer.training.averaging import RunningSum, Selection, mean_between
from shared_moe_conformer.training.checkpoint import (
    BEST_NAME,
    epoch_path,
    load_checkpoint,
    save_checkpoint,
    save_if_best,
    saved_steps,
    step_path,
)
from shared_moe_conformer.training.loop import Batches, RunOptions, fit
from shared_moe_conformer.training.trainer import Trainer

STEPS_PER_EPOCH = 5


@pytest.fixture(scope="module")
def exp_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs of a model whose weight is the square of the update's number, in every kind of checkpoint."""
    folder = tmp_path_factory.mktemp("exp")
    model = nn.BatchNorm1d(2)
    running = RunningSum(model, period=2)
    for step in range(1, 3 * STEPS_PER_EPOCH + 1):
        nn.init.constant_(model.weight, float(step**2))
        model.num_batches_tracked.fill_(step)
        running.stepped(step)
        checkpoint = {"model": model.state_dict(), **running.state()}
        if step % 3 == 0:
            save_checkpoint(step_path(folder, step), checkpoint)
        if step % STEPS_PER_EPOCH == 0:
            save_checkpoint(epoch_path(folder, step // STEPS_PER_EPOCH), checkpoint)
    return folder


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
        ({"epoch": "last"}, "--epoch last: give a number or best"),
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


def test_a_checkpoint_without_sums_is_named(tmp_path: Path) -> None:
    save_checkpoint(epoch_path(tmp_path, 1), {"model": nn.Linear(1, 1).state_dict()})
    with pytest.raises(ValueError, match="epoch-1.pt holds no sum of weights: train with --average-period"):
        Selection(epoch="1", use_averaged_model=True).state(tmp_path)


def test_an_interval_without_an_update_is_refused(exp_dir: Path) -> None:
    with pytest.raises(ValueError, match="no update was summed"):
        mean_between(epoch_path(exp_dir, 2), epoch_path(exp_dir, 2))


def test_large_weights_lose_nothing_to_the_running_sum() -> None:
    """In float32 the sum of these would stay at 2^24."""
    model = nn.Linear(1, 1, bias=False)
    running = RunningSum(model, period=1)
    for step in range(1, 9):
        nn.init.constant_(model.weight, 2.0**24 + 2 * step)
        running.stepped(step)
    assert running.state()["model_sums"]["weight"].item() == 8 * 2.0**24 + 2 * 36


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    model = nn.Linear(1, 1, bias=False)
    for epoch, wer in enumerate([90.0, 50.0, 70.0, 50.0, 49.0], start=1):
        nn.init.constant_(model.weight, float(epoch))
        assert save_if_best(tmp_path, model.state_dict(), wer=wer, epoch=epoch) == (epoch in (1, 2, 5))
    assert weight_of_best(tmp_path) == 5.0
    assert Selection(epoch="best").name(tmp_path) == "best-valid-wer"
    assert json.loads(load_checkpoint(tmp_path / BEST_NAME)["valid_wer"]) == 49.0


@pytest.mark.parametrize("content", [b"damaged", None])
def test_damaged_best_weights_are_replaced(tmp_path: Path, content: bytes | None, caplog: Any) -> None:
    if content is None:
        save_checkpoint(tmp_path / BEST_NAME, {"model": {}})
    else:
        (tmp_path / BEST_NAME).write_bytes(content)
    assert save_if_best(tmp_path, nn.Linear(1, 1, bias=False).state_dict(), wer=90.0, epoch=1)
    assert f"{BEST_NAME} cannot be read" in caplog.text
    assert json.loads(load_checkpoint(tmp_path / BEST_NAME)["valid_wer"]) == 90.0


def weight_of_best(exp_dir: Path) -> float:
    return float(Selection(epoch="best").state(exp_dir)["weight"])


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
