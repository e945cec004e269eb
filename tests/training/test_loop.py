from __future__ import annotations

import contextlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shared_moe_conformer.config import Config, replace_fields
from shared_moe_conformer.training import loop
from shared_moe_conformer.training.distributed import World
from shared_moe_conformer.training.experiment import RunOptions, checkpoint_to_resume
from shared_moe_conformer.training.folder import (
    BEST_NAME,
    MID_EPOCH_NAME,
    epoch_path,
    load_checkpoint,
    rng_state,
    saved_epochs,
    saved_steps,
)
from shared_moe_conformer.training.loop import Batches, fit, seed_generators
from shared_moe_conformer.training.metrics import StepReport
from shared_moe_conformer.training.trainer import Trainer

Fit = Callable[..., dict[str, torch.Tensor]]
TWO = {"accumulate_batches": 2}
WSD = {"lr_schedule": "wsd", "decay_epochs": 1}


class Killed(Exception):
    """Stands for anything that ends a program."""


@pytest.fixture
def fit_tiny(tiny_model: Callable[[], Any], loader: Callable[[], Any], batch: Any, config: Config) -> Fit:
    """Trains the stand-in in a folder, from the newest checkpoint there; returns its weights."""

    def run(
        exp_dir: Path,
        *,
        kill_at: int | None = None,
        changes: dict[str, Any] | None = None,
        begin: Path | None = None,
        word_errors: Callable[[Any], tuple[int, int]] = lambda one: (1, 4),
        **options: Any,
    ) -> dict[str, torch.Tensor]:
        exp_dir.mkdir(exist_ok=True)
        changed = replace_fields(config, changes or {})
        trainer = Trainer(tiny_model(), changed.training)
        step = trainer.train_step

        def step_or_die(*args: Any, **kwargs: Any) -> StepReport:
            if trainer.state.step == kill_at:
                raise Killed
            return step(*args, **kwargs)

        trainer.train_step = step_or_die  # type: ignore[method-assign]
        path = checkpoint_to_resume(exp_dir, resume=True) or begin
        fit(
            trainer,
            Batches(loader(), [batch(1), batch(2)], word_errors),
            exp_dir=exp_dir,
            config=changed,
            options=RunOptions(**options),
            checkpoint=None if path is None else load_checkpoint(path),
        )
        return trainer.model.state_dict()

    return run


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_the_same_seed_gives_the_same_run_and_another_does_not(fit_tiny: Fit, tmp_path: Path) -> None:
    first, second, other = (
        fit_tiny(tmp_path / name, changes={"seed": seed}) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert_same(first, second)
    assert not torch.equal(first["hidden_weight"], other["hidden_weight"])


@pytest.mark.parametrize("kill_at", [1, 4, 5, 6, 9, 10, 14])
@pytest.mark.parametrize("save_every_n_steps", [0, 1, 3])
def test_stopping_and_resuming_changes_no_bit(
    fit_tiny: Fit, tmp_path: Path, kill_at: int, save_every_n_steps: int
) -> None:
    whole = fit_tiny(tmp_path / "whole")
    with pytest.raises(Killed):
        fit_tiny(tmp_path / "stopped", kill_at=kill_at, save_every_n_steps=save_every_n_steps)
    assert_same(whole, fit_tiny(tmp_path / "stopped"))


def test_an_epoch_goes_on_from_the_checkpoint_of_its_last_update(fit_tiny: Fit, tmp_path: Path) -> None:
    whole = fit_tiny(tmp_path / "whole", save_every_n_steps=5, keep_last_k_steps=3)
    (tmp_path / "resumed").mkdir()
    (tmp_path / "whole" / "checkpoint-10.pt").rename(tmp_path / "resumed" / MID_EPOCH_NAME)
    assert_same(whole, fit_tiny(tmp_path / "resumed"))
    assert saved_epochs(tmp_path / "resumed") == [2, 3]


def test_skipped_updates_stop_and_resume_at_the_same_bits(fit_tiny: Fit, tmp_path: Path, monkeypatch: Any) -> None:
    losses = Trainer.losses

    def sometimes_nan(self: Trainer, model: Any, batch: Any, scales: Any) -> Any:
        loss, totals = losses(self, model, batch, scales)
        if {"cut-103-0", "cut-201-0"} & set(batch.cut_ids):
            totals.sums["loss"] = float("nan")
        return loss, totals

    monkeypatch.setattr(Trainer, "losses", sometimes_nan)
    whole = fit_tiny(tmp_path / "whole")
    with pytest.raises(Killed):
        fit_tiny(tmp_path / "stopped", kill_at=5, save_every_n_steps=1)
    assert_same(whole, fit_tiny(tmp_path / "stopped"))
    state = load_checkpoint(tmp_path / "stopped" / "epoch-3.pt")["train_state"]
    assert '"step": 13' in state and '"num_skipped": 2' in state
    events = EventAccumulator(str(tmp_path / "whole" / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("train/num_skipped")] == [1, 1, 0]


def test_an_update_that_is_skipped_is_not_saved(fit_tiny: Fit, tmp_path: Path, monkeypatch: Any) -> None:
    """Otherwise weights that nothing has trained would be a checkpoint, and count in averages."""
    first_norms = iter([float("nan")])
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *args: next(first_norms, None) or clip(*args))
    fit_tiny(tmp_path, save_every_n_steps=2, keep_last_k_steps=9)
    assert saved_steps(tmp_path) == [2, 4, 6, 8, 10, 12, 14]


@pytest.mark.parametrize("killed_in", [2, 3])
def test_an_epoch_whose_validation_was_stopped_can_still_be_the_best(
    fit_tiny: Fit, tmp_path: Path, killed_in: int
) -> None:
    """Two batches are validated after each of three epochs; the last is the best."""
    calls = iter(range(99))

    def dies(batch: Any) -> tuple[int, int]:
        call = next(calls)
        if call == 2 * killed_in - 1:
            raise Killed
        return 9 - call, 9

    with pytest.raises(Killed):
        fit_tiny(tmp_path, word_errors=dies)
    assert saved_epochs(tmp_path)[-1] == killed_in
    assert load_checkpoint(tmp_path / BEST_NAME)["epoch"] == str(killed_in - 1)
    last = fit_tiny(tmp_path, word_errors=dies)
    best = load_checkpoint(tmp_path / BEST_NAME)
    assert best["epoch"] == "3" and all(torch.equal(value, best["model"][name]) for name, value in last.items())


def test_more_epochs_with_a_cosine_tell_how_the_learning_rate_jumps(fit_tiny: Fit, tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.WARNING, logger="shared_moe_conformer")
    fit_tiny(tmp_path)
    fit_tiny(tmp_path)
    assert caplog.text == ""
    fit_tiny(tmp_path, changes={"num_epochs": 4})
    (line,) = caplog.messages
    assert line.startswith("the learning rate goes from 0.01 to 0.") and "num_epochs was 3 and is 4" in line
    assert saved_epochs(tmp_path) == [1, 2, 3, 4]
    caplog.clear()
    fit_tiny(tmp_path, changes={"num_epochs": 4})
    assert caplog.text == ""


def test_wsd_goes_on_from_before_its_decay_as_if_more_epochs_had_been_planned(
    fit_tiny: Fit, tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level(logging.WARNING, logger="shared_moe_conformer")
    long = fit_tiny(tmp_path / "long", changes={**WSD, "num_epochs": 5})
    fit_tiny(tmp_path / "short", changes=WSD)
    before_decay = tmp_path / "short" / "epoch-2.pt"
    assert_same(long, fit_tiny(tmp_path / "more", changes={**WSD, "num_epochs": 5}, begin=before_decay))
    assert caplog.text == "" and saved_epochs(tmp_path / "more") == [3, 4, 5]
    fit_tiny(tmp_path / "short", changes={**WSD, "num_epochs": 5})
    assert "the learning rate goes from 0.01 to 1 of its peak" in caplog.text and "epoch-2.pt" in caplog.text


@pytest.mark.parametrize("kill_at", [None, 5, 11])
def test_steps_end_inside_an_epoch(fit_tiny: Fit, tmp_path: Path, kill_at: int | None) -> None:
    by_steps = {"num_steps": 12, "steps_per_epoch": 5}
    whole = fit_tiny(tmp_path / "whole", changes=by_steps)
    with pytest.raises(Killed) if kill_at else contextlib.nullcontext():
        fit_tiny(tmp_path / "stopped", changes=by_steps, kill_at=kill_at, save_every_n_steps=1)
    assert_same(whole, fit_tiny(tmp_path / "stopped", changes=by_steps, save_every_n_steps=1))
    assert saved_epochs(tmp_path / "stopped") == [1, 2, 3]
    state = json.loads(load_checkpoint(epoch_path(tmp_path / "stopped", 3))["train_state"])
    assert (state["step"], state["progress"]) == (12, 1.0)


def test_a_mid_epoch_checkpoint_saves_the_work_done(fit_tiny: Fit, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit_tiny(tmp_path, kill_at=8, save_every_n_steps=2)
    assert '"step": 8' in load_checkpoint(tmp_path / MID_EPOCH_NAME)["train_state"]
    fit_tiny(tmp_path)
    assert not (tmp_path / MID_EPOCH_NAME).exists()


def test_the_loaders_position_is_asked_for_only_where_it_is_saved(
    fit_tiny: Fit, loader: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    asked, state_dict = [], loader.state_dict

    def ask(self: Any) -> dict[str, int | str]:
        asked.append(self.num_taken)
        return state_dict(self)

    monkeypatch.setattr(loader, "state_dict", ask)
    fit_tiny(tmp_path / "unsaved")
    assert asked == []  # the real one is a digest of all batches of the epoch, which takes long where there are many
    fit_tiny(tmp_path / "saved", save_every_n_steps=3)
    assert asked[:2] == [3, 1]


def test_each_epoch_leaves_a_checkpoint_and_old_ones_go(fit_tiny: Fit, tmp_path: Path) -> None:
    fit_tiny(tmp_path / "all")
    assert saved_epochs(tmp_path / "all") == [1, 2, 3]
    fit_tiny(tmp_path / "two", keep_last_k=2)
    assert saved_epochs(tmp_path / "two") == [2, 3]


def test_a_finished_training_stays_as_it_is(fit_tiny: Fit, tmp_path: Path) -> None:
    whole = fit_tiny(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.pt")}
    assert_same(whole, fit_tiny(tmp_path))
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.pt")}


def test_tensorboard_gets_losses_speed_and_expert_usage(fit_tiny: Fit, tmp_path: Path) -> None:
    fit_tiny(tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    wanted = {"train/loss", "train/learning_rate", "train/grad_norm", "dev/loss", "speed/hours_of_audio_per_hour"}
    wanted |= {"train/mean_grad_norm", "train/share_clipped", "speed/peak_memory_mib"}
    wanted |= {"speed/share_waiting_for_data", "dev/ctc_greedy_wer", "dev_expert_share/feed_forward_00/expert_1"}
    assert wanted <= tags
    assert [event.step for event in events.Scalars("dev/loss")] == [5, 10, 15]
    assert [event.value for event in events.Scalars("dev/epoch")] == [1, 2, 3]
    assert events.Scalars("dev/ctc_greedy_wer")[0].value == 25.0


def test_what_an_earlier_run_wrote_after_the_checkpoint_is_hidden(fit_tiny: Fit, tmp_path: Path) -> None:
    """Seven updates; the last two are made again."""
    with pytest.raises(Killed):
        fit_tiny(tmp_path, kill_at=7, log_every_n_steps=1)
    fit_tiny(tmp_path, log_every_n_steps=1)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 16))


@pytest.mark.parametrize(("accumulate_batches", "batches"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5])])
def test_progress_is_the_share_of_all_batches_that_is_done(
    fit_tiny: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate_batches: int, batches: list[int]
) -> None:
    seen, step = [], Trainer.train_step

    def watched(self: Trainer, *args: Any, progress: float) -> StepReport:
        seen.append(progress)
        return step(self, *args, progress=progress)

    monkeypatch.setattr(Trainer, "train_step", watched)
    fit_tiny(tmp_path, changes={"accumulate_batches": accumulate_batches})
    assert seen == pytest.approx([(5 * epoch + done) / 15 for epoch in range(3) for done in batches])


def test_updates_of_several_batches_stop_and_resume_at_the_same_bits(fit_tiny: Fit, tmp_path: Path) -> None:
    whole = fit_tiny(tmp_path / "whole", changes=TWO)
    for epoch, steps in ((1, 3), (3, 9)):
        assert f'"step": {steps}' in load_checkpoint(tmp_path / "whole" / f"epoch-{epoch}.pt")["train_state"]
    with pytest.raises(Killed):
        fit_tiny(tmp_path / "stopped", kill_at=5, save_every_n_steps=1, changes=TWO)
    assert_same(whole, fit_tiny(tmp_path / "stopped", changes=TWO))


def test_an_empty_epoch_is_refused(fit_tiny: Fit, loader: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(loader, "__len__", lambda self: 0)
    with pytest.raises(ValueError, match="epoch 1 has no batch"):
        fit_tiny(tmp_path)


def test_seeds_differ_by_epoch_and_by_seed() -> None:
    def draw(seed: int, epoch: int) -> float:
        seed_generators(seed, epoch)
        return float(torch.rand(()))

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(1, 2), draw(2, 1), draw(1, 3), draw(3, 0)}) == 4


def test_processes_draw_the_same_weights_and_then_each_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[int, list[float]] = {0: [], 1: []}
    for epoch, draws in drawn.items():
        for rank in range(3):
            monkeypatch.setattr(loop, "world", lambda rank=rank: World(rank, 3, rank))
            seed_generators(1, epoch)
            draws.append(float(torch.rand(())))
    assert len(set(drawn[0])) == 1 and len(set(drawn[1])) == 3


def test_a_process_that_was_not_there_before_goes_on_with_its_own_seed(
    loader: Callable[[], Any], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams without end go on in another number of processes; those of `loader` say nothing against it either."""
    checkpoint = {"train_loader": json.dumps(loader().state_dict()), "rng_state": rng_state()}
    drawn = []
    for rank in range(3):
        monkeypatch.setattr(loop, "world", lambda rank=rank: World(rank, 3, rank))
        loop._begin_epoch(1, config.training.seed, loader(), checkpoint)
        drawn.append(float(torch.rand(())))
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("field", ["save_every_n_steps", "keep_last_k", "num_threads", "max_skipped_steps"])
def test_negative_options_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        RunOptions(**{field: -1})  # type: ignore[arg-type]


def test_an_epoch_ends_when_all_processes_have_had_their_batches(
    tiny_model: Callable[[], Any],
    loader: Callable[[], Any],
    batch: Callable[[int], Any],
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This process has 5 batches an epoch and is given some again, until the other has had its 7."""

    class Uneven(type(loader())):  # type: ignore[misc]
        def __iter__(self) -> Iterator[Any]:
            for number in itertools.count():
                self.num_taken, self.has_ended = number + 1, number >= 5
                yield batch(number)

    own = Uneven()
    own.has_ended = False
    monkeypatch.setattr(
        loop, "gather", lambda value: [value, own.num_taken >= 7] if value in (True, False) else [value]
    )
    trainer = Trainer(tiny_model(), config.training)
    fit(trainer, Batches(own, []), exp_dir=tmp_path, config=config, options=RunOptions())
    assert trainer.state.step == 7 * config.training.num_epochs
