from __future__ import annotations

from pathlib import Path

import pytest

from shared_moe_conformer.reporting.history import dev_epochs, read_history, read_log


def test_scalars_are_read_by_tag(exp_dir: Path) -> None:
    history = read_history(exp_dir)
    assert history["dev/loss"].steps == [10, 20, 30]
    assert history["dev/loss"].values == pytest.approx([5.0, 2.5, 5 / 3])


def test_what_a_resumed_training_does_again_counts_once(exp_dir: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(exp_dir / "tensorboard"), purge_step=26, filename_suffix=".later") as writer:
        for step in range(26, 33):
            writer.add_scalar("train/loss", 100.0, step)
    loss = read_history(exp_dir)["train/loss"]
    assert loss.steps == list(range(1, 33))
    assert loss.values[24:26] == pytest.approx([10 / 25, 100.0])
    with SummaryWriter(str(exp_dir / "tensorboard"), filename_suffix=".still-later") as writer:
        writer.add_scalar("train/loss", 200.0, 32)
    assert read_history(exp_dir)["train/loss"].values[30:] == pytest.approx([100.0, 200.0])


def test_epochs_are_counted_where_they_were_not_written(exp_dir: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    assert dev_epochs(read_history(exp_dir)) == [1, 2, 3]
    with SummaryWriter(str(exp_dir / "tensorboard"), filename_suffix=".later") as writer:
        for epoch in (1, 3, 4):
            writer.add_scalar("dev/epoch", epoch, 10 * epoch)
    assert dev_epochs(read_history(exp_dir)) == [1, 3, 4]
    assert dev_epochs({}) == []


@pytest.mark.usefixtures("log_lines")
def test_the_log_gives_environment_and_warnings(exp_dir: Path) -> None:
    log = read_log(exp_dir)
    assert log.environment == {"torch": "9.9", "commit": "abc"}
    assert log.beginning == "beginning: 0.81 million parameters, 12 batches an epoch"
    assert len(log.warnings) == 1 and log.warnings[0].startswith("step 3: loss is nan")
    with (exp_dir / "log" / "train-log-2026-01-02-00-00-00.txt").open("w") as file:
        file.write('2026-01-02 00:00:00,000 DEBUG environment: {"tor')
    assert read_log(exp_dir).environment == {} and read_log(exp_dir.parent).beginning == ""


def test_a_folder_without_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train first"):
        read_history(tmp_path)
    (tmp_path / "tensorboard").mkdir()
    with pytest.raises(ValueError, match="no point yet"):
        read_history(tmp_path)
