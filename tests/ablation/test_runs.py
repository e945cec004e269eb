"""Running an ablation, killing it and going on, with programs that stand for the recipe's."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shared_moe_conformer.ablation import runs
from shared_moe_conformer.ablation.results import read_results
from shared_moe_conformer.ablation.runs import METHODS, Ablation, Budget, flags_of, in_order, run_all, train_command
from shared_moe_conformer.ablation.variants import variants_of
from shared_moe_conformer.config import replace_fields
from tests.conftest import TINY

ROOT = Path(__file__).resolve().parent.parent.parent

BASE = replace_fields(TINY, {"num_epochs": 2})
VARIANTS = variants_of(BASE)

# They note what they are called with. Training fails, as if killed, while the file "kill" holds its variant.
STAND_IN = """
import json, pathlib, sys
flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
exp_dir = pathlib.Path(flags["exp-dir"])
with open("calls.txt", "a") as file:
    file.write(f"{sys.argv[0]} {exp_dir.name} {flags.get('decoding-method', '')}\\n")
if sys.argv[0] == "train.py":
    kill = pathlib.Path("kill")
    if kill.is_file() and kill.read_text() == exp_dir.name:
        sys.exit(137)
    (exp_dir / f"epoch-{flags['num-epochs']}.pt").write_text("")
else:
    folder = exp_dir / flags["decoding-method"]
    folder.mkdir(exist_ok=True)
    name = f"recogs-test-epoch-{flags['epoch']}-avg-{flags['avg']}-{flags['decoding-method']}-beam-4.txt"
    (folder / name).write_text("a:\\tref=['b', 'c']\\na:\\thyp=['b']\\n\\n")
"""


@pytest.fixture
def ablation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ablation:
    for name in ("train.py", "decode.py"):
        (tmp_path / name).write_text(STAND_IN)
    monkeypatch.setattr(runs, "load_checkpoint", lambda path: {"train_state": '{"step": 12}'})
    return Ablation(tmp_path, "base", BASE, Budget(num_epochs=2))


def calls(ablation: Ablation, program: str = "train.py") -> list[str]:
    lines = [line.split() for line in (ablation.recipe_dir / "calls.txt").read_text().splitlines()]
    return [line[1] for line in lines if line[0] == program]


def test_main_rows_first_seed_by_seed() -> None:
    some = [VARIANTS[name] for name in ("top-2", "base-distilled", "full", "shared")]
    assert [(variant.name, seed) for variant, seed in in_order(some, (1, 2))] == [
        ("full", 1), ("shared", 1), ("base-distilled", 1),
        ("full", 2), ("shared", 2), ("base-distilled", 2),
        ("top-2", 1), ("top-2", 2),
    ]  # fmt: skip


def test_a_killed_ablation_goes_on_where_it_was(ablation: Ablation) -> None:
    chosen = [VARIANTS[name] for name in ("full", "shared", "base")]
    kill = ablation.recipe_dir / "kill"
    kill.write_text("shared-seed-1")
    with pytest.raises(ValueError, match=r"train.py .*shared-seed-1.* failed .* with status 137"):
        run_all(ablation, chosen, [1])
    assert [result.variant for result in read_results(ablation.results_path)] == ["full"]
    kill.unlink()
    run_all(ablation, chosen, [1])
    assert calls(ablation) == ["full-seed-1", "shared-seed-1", "shared-seed-1", "base-seed-1"]
    assert len(calls(ablation, "decode.py")) == 3 * len(METHODS)
    run_all(ablation, chosen, [1])
    assert len(calls(ablation)) == 4, "what has a result is not run again"
    results = read_results(ablation.results_path)
    assert [(r.variant, r.updates, r.words, r.method("greedy_search").word_errors) for r in results] == [
        ("full", 12, (2,), (1,)), ("shared", 12, (2,), (1,)), ("base", 12, (2,), (1,))
    ]  # fmt: skip


def test_a_teacher_that_was_trained_elsewhere_is_trained_again(ablation: Ablation) -> None:
    run_all(ablation, [VARIANTS["base-distilled"]], [3])
    assert calls(ablation) == ["full-seed-3", "base-distilled-seed-3"]
    assert [result.variant for result in read_results(ablation.results_path)] == ["base-distilled"]
    run_all(ablation, [VARIANTS["shared-distilled"]], [3])
    assert calls(ablation)[2:] == ["shared-distilled-seed-3"], "now it is there"


def test_what_a_run_begins_with_is_trained_before(ablation: Ablation) -> None:
    run_all(ablation, [VARIANTS["base-upcycled"]], [1])
    assert calls(ablation) == ["full-seed-1", "base-upcycled-seed-1"]
    flags = flags_of(ablation, VARIANTS["base-upcycled"], 1)
    assert flags == {"seed": "1", "init_from": "exp/ablation/base/full-seed-1", "init_avg": "1"}


def test_another_budget_is_another_run(ablation: Ablation) -> None:
    run_all(ablation, [VARIANTS["full"]], [1])
    others = [replace(ablation, budget=budget) for budget in (Budget(num_epochs=3), Budget(num_epochs=2, avg=2))]
    for each in (*others, replace(ablation, budget=Budget(num_epochs=2, num_threads=2))):
        run_all(each, [VARIANTS["full"]], [1])
    results = read_results(ablation.results_path)
    assert [(result.num_epochs, result.avg) for result in results] == [(2, 1), (3, 1), (2, 2)]
    assert calls(ablation) == ["full-seed-1", "full-seed-1-3-epochs", "full-seed-1-avg-2"], "each has its folder"


def test_the_config_with_other_options_is_another_run(ablation: Ablation) -> None:
    changed = replace(ablation, base=replace_fields(BASE, {"learning_rate": 0.1}))
    reseeded = replace(ablation, base=replace_fields(BASE, {"seed": 7}))
    keys = [each.key(VARIANTS["full"], 1) for each in (ablation, changed, reseeded)]
    assert keys[0] == keys[2] != keys[1]
    for each in (ablation, changed, reseeded):
        run_all(each, [VARIANTS["full"]], [1])
    assert [result.key for result in read_results(ablation.results_path)] == keys[:2]


def test_options_of_all_runs_are_flags_of_each_and_make_another_table(ablation: Ablation) -> None:
    changed = replace(ablation, options={"dropout": 0.3, "experts_in": "both"})
    for each in (ablation, changed):
        run_all(each, [VARIANTS["full"]], [1])
    plain, other = read_results(ablation.results_path)
    assert plain.key != other.key and (plain.base_options, other.base_options["dropout"]) == ({}, "0.3")
    assert flags_of(changed, VARIANTS["full"], 1)["experts_in"] == "none", "a variant's own option comes first"
    assert flags_of(changed, VARIANTS["base"], 1) == {"dropout": "0.3", "experts_in": "both", "seed": "1"}
    assert changed.exp_dir("full", 1).parent != ablation.exp_dir("full", 1).parent


def test_the_test_set_is_that_of_the_options_and_counted_in_the_units_of_its_errors(ablation: Ablation) -> None:
    texts = STAND_IN.replace("recogs-test", "recogs-other").replace("['b', 'c']", "['\u4f60', '\u597d']")
    (ablation.recipe_dir / "decode.py").write_text(texts)
    run_all(replace(ablation, options={"test_splits": ("other",)}), [VARIANTS["full"]], [1])
    (result,) = read_results(ablation.results_path)
    assert result.words == result.characters == result.method("greedy_search").word_errors == (2,)


@pytest.mark.parametrize(("num_epochs", "avg", "num_threads"), [(0, 1, 1), (2, 3, 1), (2, 0, 1), (2, 1, 0)])
def test_a_budget_that_makes_no_sense_is_refused(num_epochs: int, avg: int, num_threads: int) -> None:
    with pytest.raises(ValueError, match="give 1"):
        Budget(num_epochs, avg, num_threads)


def test_no_seed_is_refused() -> None:
    command = [sys.executable, "local/ablation.py", "--recipe", "asterisk", "--seeds", "0"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (1, "error: --seeds 0: give 1 or more\n")


def test_flags_of_train(ablation: Ablation) -> None:
    assert flags_of(ablation, VARIANTS["full"], 1) == {"group_sizes": "1,1,1", "experts_in": "none", "seed": "1"}
    assert flags_of(ablation, VARIANTS["individual-norms"], 1)["individual_routers"] == "false"
    command = train_command(ablation, VARIANTS["base-distilled"], 2)
    assert command[:3] == [sys.executable, "train.py", "--config=base"]
    assert "--teacher=exp/ablation/base/full-seed-2" in command and "--resume=true" in command


def test_the_commit_is_that_of_the_beginning(ablation: Ablation, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = iter(["first", "second"])
    monkeypatch.setattr(runs, "package_commit", lambda: next(commits))
    kill = ablation.recipe_dir / "kill"
    kill.write_text("full-seed-1")
    with pytest.raises(ValueError):
        run_all(ablation, [VARIANTS["full"]], [1])
    kill.unlink()
    run_all(ablation, [VARIANTS["full"]], [1])
    (result,) = read_results(ablation.results_path)
    assert result.commit == "first" and torch.__version__ in result.engine and result.minutes >= 0
