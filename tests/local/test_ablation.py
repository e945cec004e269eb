"""The command line of ablations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shared_moe_conformer.ablation.report import BEGIN, END

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "local/ablation.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe's folder with the configs of a real one, but without data."""
    for name in ("config.py", "train.py", "decode.py"):
        (tmp_path / name).write_bytes((ROOT / "egs/fillets/ASR" / name).read_bytes())
    return tmp_path


def test_results_of_a_config_that_is_gone_are_named(recipe: Path) -> None:
    (recipe / "results.jsonl").write_text((ROOT / "egs/asterisk/ASR/results.jsonl").read_text())
    result = run("--recipe", recipe, "--report")
    assert result.returncode == 1 and "has results of base, which config.py lacks" in result.stderr


def test_mistakes_are_one_line(recipe: Path) -> None:
    for arguments, message in (
        (("--config", "huge"), "--config huge: "),
        (("--config", "base-nl", "--variants", "huge"), "no variant huge: give some of full, shared, base"),
        (("--config", "full-nl"), "shares blocks and has experts"),
        (("--report",), "run the ablation first"),
        (("--config", "base-nl", "--", "--seed", "3"), "--seed after --: give --first-seed before it"),
        (("--config", "base-nl", "--", "--dropout", "2"), "dropout is 2.0: give 0 <= dropout < 1"),
    ):
        result = run("--recipe", recipe, *arguments)
        assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
        assert message in result.stderr


def test_a_run_that_fails_leaves_no_result(recipe: Path) -> None:
    result = run("--recipe", recipe, "--config", "base-nl", "--variants", "base", "--seeds", 1, "--num-epochs", 1)
    assert result.returncode == 1 and "run 1 of 1: base, seed 1" in result.stdout
    assert "run ./prepare.sh first" in result.stderr and "train.py --config=base-nl" in result.stderr
    assert not (recipe / "results.jsonl").exists()


def test_the_results_of_a_recipe_are_in_its_comparisons(recipe: Path) -> None:
    """As committed: every line can be read, and the page holds what the command makes of them."""
    committed = ROOT / "egs/fillets/ASR"
    (recipe / "results.jsonl").write_bytes((committed / "results.jsonl").read_bytes())
    text = (committed / "comparisons.md").read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    (recipe / "comparisons.md").write_text(f"{before}{BEGIN}\n{after}", encoding="utf-8")
    result = run("--recipe", recipe, "--report")
    assert result.returncode == 0, result.stderr
    assert (recipe / "comparisons.md").read_text(encoding="utf-8") == text
    for picture in recipe.glob("*.svg"):
        assert (committed / picture.name).is_file()
