"""The command line of ablations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shared_moe_conformer.ablation.report import BEGIN, END
from tests.local.conftest import Result

Run = Callable[..., Result]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe's folder with the configs of a real one, but without data."""
    for name in ("config.py", "train.py", "decode.py"):
        (tmp_path / name).write_bytes((ROOT / "egs/fillets/ASR" / name).read_bytes())
    return tmp_path


def test_results_of_a_config_that_is_gone_are_named(recipe: Path, run_local: Run) -> None:
    (recipe / "results.jsonl").write_text((ROOT / "egs/asterisk/ASR/results.jsonl").read_text())
    result = run_local("ablation", "--recipe", recipe, "--report")
    assert result.status == 1 and "has results of base, which config.py lacks" in result.err


def test_mistakes_are_one_line(recipe: Path, run_local: Run) -> None:
    for arguments, message in (
        (("--config", "huge"), "--config huge: "),
        (("--config", "base-nl", "--variants", "huge"), "no variant huge: give some of full, shared, base"),
        (("--config", "full-nl"), "shares blocks and has experts"),
        (("--report",), "run the ablation first"),
        (("--config", "base-nl", "--", "--seed", "3"), "--seed after --: give --first-seed before it"),
        (("--config", "base-nl", "--", "--dropout", "2"), "dropout is 2.0: give 0 <= dropout < 1"),
    ):
        result = run_local("ablation", "--recipe", recipe, *arguments)
        assert result.status == 1 and result.err.count("\n") == 1, result.err
        assert message in result.err


def test_a_run_that_fails_leaves_no_result(recipe: Path, run_local: Run) -> None:
    result = run_local(
        "ablation", "--recipe", recipe, "--config", "base-nl", "--variants", "base", "--seeds", 1, "--num-epochs", 1
    )
    assert result.status == 1 and "run 1 of 1: base, seed 1" in result.out
    assert "run ./prepare.sh first" in result.err and "train.py --config=base-nl" in result.err
    assert not (recipe / "results.jsonl").exists()


def test_the_results_of_a_recipe_are_in_its_comparisons(recipe: Path, run_local: Run) -> None:
    """As committed: every line can be read, and the page holds what the command makes of them."""
    committed = ROOT / "egs/fillets/ASR"
    (recipe / "results.jsonl").write_bytes((committed / "results.jsonl").read_bytes())
    text = (committed / "comparisons.md").read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    (recipe / "comparisons.md").write_text(f"{before}{BEGIN}\n{after}", encoding="utf-8")
    result = run_local("ablation", "--recipe", recipe, "--report")
    assert result.status == 0, result.err
    assert (recipe / "comparisons.md").read_text(encoding="utf-8") == text
    for picture in recipe.glob("*.svg"):
        assert (committed / picture.name).is_file()
