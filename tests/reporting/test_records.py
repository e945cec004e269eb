from __future__ import annotations

from pathlib import Path

import pytest

from shared_moe_conformer.reporting.experiment import training_charts
from shared_moe_conformer.reporting.records import (
    Series,
    dev_epochs,
    most_frequent_errors,
    read_history,
    read_log,
    read_results,
    wer_by_epoch,
)
from shared_moe_conformer.training.averaging import BEST, Selection
from tests.reporting.conftest import EVIL


def test_scalars_are_read_by_tag(exp_dir: Path) -> None:
    history = read_history(exp_dir)
    assert history["dev/loss"].steps == [10, 20, 30]
    assert history["dev/loss"].values == pytest.approx([5.0, 2.5, 5 / 3])


def test_what_a_resumed_training_does_again_counts_once(exp_dir: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    (first,) = (exp_dir / "tensorboard").iterdir()  # files of one second are read in the order of their names
    first.rename(first.with_name(first.name.replace("tfevents.", "tfevents.0")))
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


def titles(history: dict[str, Series]) -> list[str]:
    return [chart.split("<title>")[1].split("<")[0] for chart in training_charts(history)]


def test_what_was_written_is_drawn(exp_dir: Path) -> None:
    found = titles(read_history(exp_dir))
    assert found[:3] == ["Loss per frame (logarithmic)", "WER on dev in percent, CTC greedy", "Losses on dev"]
    assert "Hours of audio per hour" in found and "Share of updates that were clipped" not in found


def test_nothing_is_drawn_of_nothing() -> None:
    assert titles({}) == []


def test_skipped_updates_are_shown_where_there_are_any() -> None:
    assert "Skipped updates" in titles({"train/num_skipped": Series([1, 2], [0.0, 3.0])})
    assert "Skipped updates" not in titles({"train/num_skipped": Series([1, 2], [0.0, 0.0])})


def test_what_stayed_zero_is_drawn() -> None:
    assert titles({"train/share_clipped": Series([1, 2], [0.0, 0.0])}) == ["Share of updates that were clipped"]


def test_error_rates_go_with_their_epochs(exp_dir: Path) -> None:
    history = read_history(exp_dir)
    assert wer_by_epoch(history) == ([1, 2, 3], pytest.approx([50.0, 40.0, 45.0]))
    later = {**history, "dev/epoch": Series([10, 20, 30], [3.0, 4.0, 5.0])}
    assert wer_by_epoch(later)[0] == [3, 4, 5]


def test_results_are_read_best_first(exp_dir: Path) -> None:
    best, other = read_results(exp_dir)
    assert (best.method, best.test_set, best.checkpoint) == ("beam", "test", "epoch-3-avg-2")
    assert (best.wer, other.wer, best.words) == (40.0, 60.0, 5)
    assert best.wer_low <= best.wer <= best.wer_high and best.errors == "1 ins, 1 del, 0 sub"


@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(epoch="2", avg=2),
        Selection(epoch="3", avg=2, use_averaged_model=True),
        Selection(iter=800, avg=5),
        Selection(epoch=BEST),
    ],
    ids=str,
)
def test_results_of_all_weights_are_read(exp_dir: Path, selection: Selection) -> None:
    (exp_dir / "epoch-3.pt").touch()
    checkpoint = selection.name(exp_dir)
    for path in list((exp_dir / "beam").iterdir()):
        path.rename(path.with_name(path.name.replace("epoch-3-avg-2", checkpoint).replace("-test-", "-test-clean-")))
    found = [result for result in read_results(exp_dir) if result.method == "beam"]
    assert [(result.test_set, result.checkpoint) for result in found] == [("test-clean", checkpoint)]
    assert most_frequent_errors(found[0])


def test_damaged_summaries_are_left_out(exp_dir: Path) -> None:
    rates = b"WER\tWER-low\tWER-high\tCER\n1\t0\t2\t1\n"
    for name, content in (("a", b""), ("b", b"settings\tWER\nx\tmany\n"), ("c", b"\xff\xfe\x00"), ("d", rates)):
        (exp_dir / "beam" / f"wer-summary-test-epoch-1-avg-1-{name}.txt").write_bytes(content)
    (exp_dir / "beam" / "wer-summary-other.txt").write_text("")
    assert len(read_results(exp_dir)) == 2


def test_errors_are_counted_by_kind(exp_dir: Path) -> None:
    best, other = read_results(exp_dir)
    assert most_frequent_errors(best) == {"DELETIONS": [(1, EVIL)], "INSERTIONS": [(1, "E")]}
    assert most_frequent_errors(other)["SUBSTITUTIONS"] == [(1, "B -> X")]
    assert most_frequent_errors(best, at_most=0) == {"DELETIONS": [], "INSERTIONS": []}
    best.path.with_name(best.path.name.replace("wer-summary", "errs")).unlink()
    assert most_frequent_errors(best) == {}
