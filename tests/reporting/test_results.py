from __future__ import annotations

from pathlib import Path

import pytest

from shared_moe_conformer.reporting.results import most_frequent_errors, read_results
from shared_moe_conformer.training.averaging import BEST, Selection
from tests.reporting.conftest import EVIL


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
    for name, content in (("a", b""), ("b", b"settings\tWER\nx\tmany\n"), ("c", b"\xff\xfe\x00")):
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
