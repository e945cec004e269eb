"""local/stages.sh under a small prepare.sh of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PREPARE = """#!/usr/bin/env bash
# What this prepares.
#
# Usage: ./prepare.sh [--size N (@size)]

size=5
input_dir=
. "$(dirname "${BASH_SOURCE[0]}")/../../../local/stages.sh" "$@"
input_dir="$(from_start "$input_dir")"

one() { echo one >>log; echo "$input_dir" >input; }
two() { echo "two $size" >>log; echo "$size" >data/out; [ ! -e fail ]; [ ! -e wait ] || sleep 60; echo three >>log; }
last() { echo last >>log; }

stage 0 "First" one input_dir
stage 1 "Second" two size data/out
stage 2 "Third" last
echo all done
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "egs/toy/ASR"
    folder.mkdir(parents=True)
    (tmp_path / "local").mkdir()
    shutil.copy(ROOT / "local/stages.sh", tmp_path / "local")
    (folder / "prepare.sh").write_text(PREPARE)
    (folder / "prepare.sh").chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").write_text("#!/bin/sh\nexit 0\n")  # real imports take seconds
    (tmp_path / "bin/python3").chmod(0o755)
    return folder


def environment(recipe: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{recipe.parents[2] / 'bin'}:{os.environ['PATH']}"}


@pytest.fixture
def prepare(recipe: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        (recipe / "log").unlink(missing_ok=True)
        command = [str(recipe / "prepare.sh"), *arguments]
        return subprocess.run(command, env=environment(recipe), cwd=recipe.parent, capture_output=True, text=True)

    return run


Prepare = Callable[..., "subprocess.CompletedProcess[str]"]


def log(recipe: Path) -> list[str]:
    """What the stages of the last run did."""
    return (recipe / "log").read_text().splitlines() if (recipe / "log").exists() else []


def test_finished_stages_are_skipped(recipe: Path, prepare: Prepare) -> None:
    first = prepare()
    assert first.returncode == 0 and first.stdout.endswith("all done\n")
    assert log(recipe) == ["one", "two 5", "three", "last"]
    again = prepare()
    assert again.returncode == 0 and again.stdout.count("done before") == 3
    assert log(recipe) == []


def test_a_stage_runs_again_when_its_option_or_output_changes(recipe: Path, prepare: Prepare) -> None:
    prepare()
    prepare("--size", "6")
    assert log(recipe) == ["two 6", "three", "last"]
    prepare("--size", "6")
    assert log(recipe) == []
    (recipe / "data/out").unlink()
    prepare("--size", "6")
    assert log(recipe) == ["two 6", "three", "last"]
    prepare("--size", "6", "--input-dir", "here")
    assert log(recipe) == ["one", "two 6", "three", "last"]
    assert (recipe / "input").read_text() == f"{recipe.parent}/here\n"  # the caller's folder


def test_stage_and_stop_stage_choose(recipe: Path, prepare: Prepare) -> None:
    prepare("--stop-stage", "0")
    assert log(recipe) == ["one"]
    prepare("--stage", "1", "--stop-stage", "1")
    assert log(recipe) == ["two 5", "three"]
    prepare()
    assert log(recipe) == ["last"]
    prepare("--stage", "1", "--stop-stage", "1", "--force", "true")
    assert log(recipe) == ["two 5", "three"]
    prepare()
    assert log(recipe) == ["last"], "what follows a stage that ran is done again"


def test_a_stage_that_fails_is_done_again(recipe: Path, prepare: Prepare) -> None:
    (recipe / "fail").touch()
    failed = prepare()
    assert failed.returncode != 0 and "all done" not in failed.stdout
    assert log(recipe) == ["one", "two 5"], "nothing runs after the command that failed"
    (recipe / "fail").unlink()
    assert prepare().returncode == 0
    assert log(recipe) == ["two 5", "three", "last"]


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_stage_that_is_killed_is_done_again(recipe: Path, prepare: Prepare, kill: signal.Signals) -> None:
    (recipe / "wait").touch()
    with subprocess.Popen(
        [recipe / "prepare.sh"], env=environment(recipe), stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        while log(recipe) != ["one", "two 5"]:
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, kill)
        assert process.wait() != 0
    (recipe / "wait").unlink()
    prepare()
    assert log(recipe) == ["two 5", "three", "last"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nothing", "1"], "no option --nothing"),
        (["--HOME", "/"], "no option --HOME"),
        (["size", "1"], "'size' is no option"),
        (["--size"], "--size needs a value"),
        (["--stage", "two"], "--stage is 'two': give a number"),
        (["--force", "True"], "--force is 'True': give true or false"),
    ],
)
def test_mistakes_are_one_line(recipe: Path, prepare: Prepare, arguments: list[str], message: str) -> None:
    result = prepare(*arguments)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: ") and message in result.stderr and result.stderr.count("\n") == 1
    assert log(recipe) == []


def test_help_is_the_header(prepare: Prepare) -> None:
    result = prepare("--help")
    assert result.returncode == 0
    assert result.stdout == "What this prepares.\n\nUsage: ./prepare.sh [--size N (5)]\n"


def test_a_python_without_the_package_is_one_line(recipe: Path, prepare: Prepare) -> None:
    (recipe.parents[2] / "bin/python3").write_text("#!/bin/sh\nexit 1\n")
    result = prepare()
    assert result.returncode == 1
    assert "make install" in result.stderr and result.stderr.count("\n") == 1


def test_another_sampling_rate_makes_new_features_alone(recipe: Path, prepare: Prepare) -> None:
    """corpus_stages.sh with its own programs' command lines, which are only noted."""
    shutil.copy(ROOT / "local/corpus_stages.sh", recipe.parents[2] / "local")
    python = 'echo "$@" >>log; mkdir -p data/manifests data/fbank; touch data/{manifests,fbank}/cuts_{train,dev,test}'
    (recipe.parents[2] / "bin/python3").write_text(f"#!/bin/bash\n[ $1 = -c ] && exit\n{python}.jsonl.gz\n")
    content = "#!/usr/bin/env bash\n# What this prepares.\n\n"
    content += 'sampling_rate=11000\n. "$(dirname "$0")/../../../local/corpus_stages.sh" "$@"\n'
    content += "download() { :; }\nmanifests() { run_local build; }\nprepare_corpus\n"
    (recipe / "prepare.sh").write_text(content)

    def programs(*rate: str) -> list[str]:
        done = prepare(*rate, "--stop-stage", "3")
        assert done.returncode == 0, done.stderr
        found = (re.findall(r"(\w+)\.py|(--sampling-rate \d+)", line) for line in log(recipe))
        return [" ".join(program or option for program, option in words) for words in found]

    assert programs() == ["build", "validate_cuts", "compute_fbank --sampling-rate 11000"]
    assert programs("--sampling-rate", "8000") == ["compute_fbank --sampling-rate 8000"]
    assert programs("--sampling-rate", "8000") == []
    assert programs() == ["compute_fbank --sampling-rate 11000"]
    (recipe / "prepare.sh").write_text(content.replace("download()", "audio_options=(sampling_rate)\ndownload()"))
    assert programs("--sampling-rate", "8000")[0] == "build", "of recipes whose recordings are made at that rate"
    for rate in ("8k", "4000", "11025", ""):
        shown = prepare("--sampling-rate", rate)
        assert shown.stderr == f"error: --sampling-rate is '{rate}': give 8000 Hz or more, in hundreds\n"
        assert shown.returncode == 1
    assert prepare("--num-pieces", "all").stderr == "error: --num-pieces is 'all': give a number\n"
    assert "--ctc-topology is 'modern': give standard, " in prepare("--ctc-topology", "modern").stderr
    assert re.search(r"--sampling-rate R  of the features, in Hz; .*\(11000\)\n", prepare("--help").stdout)


def test_audio_that_was_replaced_is_prepared_again(recipe: Path, prepare: Prepare) -> None:
    """corpus_stages.sh with programs that are only noted; what replaced_audio tells is in a file."""
    shutil.copy(ROOT / "local/corpus_stages.sh", recipe.parents[2] / "local")
    python = "[ $1 = -c ] && exit\ncase $1 in *replaced_audio.py) cat told; exit;; esac\necho $1 >>log\n"
    python += "mkdir -p data/{manifests,fbank}; touch told data/{manifests/cuts,fbank/cuts}_{train,dev,test}.jsonl.gz"
    (recipe.parents[2] / "bin/python3").write_text(f"#!/bin/bash\n{python} data/fbank/audio_train.jsonl\n")
    content = '#!/usr/bin/env bash\n. "$(dirname "$0")/../../../local/corpus_stages.sh" "$@"\n'
    content += "download() { :; }\nmanifests() { run_local build; }\nprepare_corpus\n"
    (recipe / "prepare.sh").write_text(content)
    assert prepare("--stop-stage", "3").returncode == 0 and len(log(recipe)) == 3
    assert prepare("--stop-stage", "3").returncode == 0 and log(recipe) == []
    (recipe / "told").write_text("1 audio file replaced\n")
    again = prepare("--stop-stage", "3")
    assert "1 audio file replaced: all is made again from stage 1 on\nstage 0: Get the" in again.stdout
    assert len(log(recipe)) == 3
    assert "1 audio file replaced: run ./prepare.sh without --stage afterwards" in prepare("--stage", "10").stdout


@pytest.mark.parametrize("script", sorted(ROOT.glob("egs/*/ASR/*.sh")) + sorted(ROOT.glob("local/*.sh")), ids=str)
def test_shell_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("recipe_dir", sorted(path.parent for path in ROOT.glob("egs/*/ASR/prepare.sh")), ids=str)
def test_every_prepare_sh_tells_its_options(recipe_dir: Path) -> None:
    shown = subprocess.run([recipe_dir / "prepare.sh", "--help"], check=True, capture_output=True, text=True).stdout
    for option in ("--stage", "--stop-stage", "--corpus-dir", "--num-jobs"):
        assert option in shown
