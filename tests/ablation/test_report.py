"""The report of ablations in a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shared_moe_conformer.ablation.report import BEGIN, END, frontier, write_report
from shared_moe_conformer.ablation.results import Result
from shared_moe_conformer.ablation.variants import variants_of
from tests.conftest import TINY

VARIANTS = {"base": variants_of(TINY)}


def test_the_table_stands_between_the_marks_and_nothing_else_changes(
    tmp_path: Path, make_result: Callable[..., Result]
) -> None:
    page = tmp_path / "comparisons.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    others = [make_result("full", 2, num_epochs=9), make_result("full", avg=2)]
    results = [make_result("base", 1, (2, 2, 2, 0)), make_result("full"), *others]
    write_report(page, results, VARIANTS)
    text = page.read_text()
    assert text.startswith(f"# Before\n\n{BEGIN}\n") and text.endswith(f"{END}\n\nafter\n") and "\nold\n" not in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["full", "base", "full", "full"], "each budget has its table"
    assert "| 60.0 | 2.000 [" in rows[1] and "| 30.0 | 1.000 [" in rows[0], "each seed's rate before the ratio"
    assert "| 60.0 [" in rows[1] and "| 2.000 [2.000, 2.000] |" in rows[1] and "| 0.33 |" in rows[1]
    for budget in ("2-epochs", "9-epochs", "2-epochs-avg-2"):
        assert f"(ablation-base-{budget}.svg)" in text
        assert (tmp_path / f"ablation-base-{budget}.svg").is_file()
    write_report(page, results, VARIANTS)
    assert page.read_text() == text


def test_a_page_that_is_missing_is_made(tmp_path: Path, make_result: Callable[..., Result]) -> None:
    page = tmp_path / "comparisons.md"
    write_report(page, [make_result("full")], VARIANTS)
    text = page.read_text()
    assert text.startswith(f"# Comparisons\n\n{BEGIN}\n") and "| `full` |" in text and text.endswith(f"{END}\n")


def test_each_seed_has_its_place_whatever_the_order_of_runs(tmp_path: Path, make_result: Callable[..., Result]) -> None:
    page = tmp_path / "comparisons.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    write_report(page, [make_result("full", 2, (2, 2, 2, 0)), make_result("full", 1)], VARIANTS)
    assert "| 30.0, 60.0 |" in page.read_text()


def test_other_options_have_their_own_table_and_one_is_no_plural(
    tmp_path: Path, make_result: Callable[..., Result]
) -> None:
    page = tmp_path / "comparisons.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    other = {"config_digest": "12345678", "base_options": {"num_time_masks": "2"}}
    write_report(page, [make_result(), make_result(num_epochs=1, **other)], VARIANTS)
    text = page.read_text()
    assert text.count("| `full` |") == 2 and "(ablation-base-12345678-1-epochs.svg)" in text
    assert "**base, 1 epoch.** 1 run of" in text and "* weights: last epoch\n" in text
    assert "* options: 12345678 `--num-time-masks 2`\n" in text and text.count("* options") == 1
    assert "* machine: a CPU, 1 thread, torch" in text
    assert all(len(line) <= 120 or line.startswith("|") for line in text.splitlines())


def test_runs_of_a_variant_that_the_table_lacks_today_are_shown(
    tmp_path: Path, make_result: Callable[..., Result]
) -> None:
    page = tmp_path / "comparisons.md"
    write_report(page, [make_result("gone"), make_result("full")], VARIANTS)
    text = page.read_text()
    assert "**base, 2 epochs.** 2 runs of" in text
    assert text.index("| `full` |") < text.index("| `gone` | no variant of today's table | 1 |")


def test_what_cannot_be_reported_is_said(tmp_path: Path, make_result: Callable[..., Result]) -> None:
    page = tmp_path / "comparisons.md"
    page.write_text("# No marks\n")
    with pytest.raises(ValueError, match="lacks the two lines"):
        write_report(page, [make_result()], VARIANTS)
    page.write_text(f"{BEGIN}\n{END}\n")
    with pytest.raises(ValueError, match="run the ablation first"):
        write_report(page, [], VARIANTS)


def test_the_frontier_is_what_no_other_beats() -> None:
    points = [(3.0, 50.0), (1.0, 60.0), (2.0, 70.0), (2.5, 60.0), (4.0, 49.0)]
    assert frontier(points) == [(1.0, 60.0), (3.0, 50.0), (4.0, 49.0)]


def test_the_picture_names_every_variant_and_is_always_the_same(
    tmp_path: Path, make_result: Callable[..., Result]
) -> None:
    page, picture = tmp_path / "comparisons.md", tmp_path / "ablation-base-2-epochs.svg"
    page.write_text(f"{BEGIN}\n{END}\n")
    write_report(page, [make_result("full"), make_result("base")], VARIANTS)
    text = picture.read_text()
    assert text.count(">full<") == text.count(">base<") == 1 and len(text) < 60_000
    assert "WER %" in text and "CER %" in text and "millions of parameters" in text
    assert "var(--e1)" in text and "var(--e0)" in text, "base stores less than full and errs as much"
    write_report(page, [make_result("full"), make_result("base")], VARIANTS)
    assert picture.read_text() == text
