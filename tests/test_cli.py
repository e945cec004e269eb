from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shared_moe_conformer.atomic import atomic_file
from shared_moe_conformer.cli import Parser, ShowDefaults, add_flags, apply_flags, run_main
from shared_moe_conformer.config import Config, replace_fields

ROOT = Path(__file__).resolve().parent.parent


def parse(*flags: str) -> Config:
    parser = argparse.ArgumentParser()
    add_flags(parser, Config)
    return apply_flags(Config(), parser.parse_args(flags))


def test_flags_reach_fields_at_any_depth() -> None:
    config = parse("--num-experts", "4", "--group-sizes", "2,3", "--individual-norms", "false", "--max-duration", "60")
    assert config.model.encoder.num_experts == 4
    assert config.model.encoder.group_sizes == (2, 3)
    assert config.model.encoder.individual_norms is False
    assert config.data.max_duration == 60.0


def test_a_flag_that_is_not_given_keeps_the_named_configs_value() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, Config)
    named = replace_fields(Config(), {"num_experts": 3})
    assert apply_flags(named, parser.parse_args(["--top-k", "2"])).model.encoder.num_experts == 3


def test_help_shows_the_defaults_that_there_are() -> None:
    parser = argparse.ArgumentParser(formatter_class=ShowDefaults)
    parser.add_argument("--lang-dir", required=True, help="Folder.")
    parser.add_argument("--seed", default=0, help="Number.")
    parser.add_argument("--share", default="100 %", help="Share.")
    parser.add_argument("--splits", nargs="*", default=["train", "dev"], help="Splits.")
    parser.add_argument("--others", nargs="*", default=[], help="Others.")
    parser.add_argument("--force", action="store_true", help="Force.")
    shown = " ".join(parser.format_help().split())
    assert "exit --lang-dir LANG_DIR Folder. --seed SEED Number. [0] --share SHARE Share. [100 %] --splits" in shown
    assert shown.endswith("Splits. [train dev] --others [OTHERS ...] Others. --force Force.")


@pytest.mark.parametrize("flags", [("--experts-in", "third"), ("--individual-norms", "maybe"), ("--num-epochs", "x")])
def test_values_of_the_wrong_kind_are_refused(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(*flags)
    assert flags[0] in capsys.readouterr().err


def test_a_short_usage_names_what_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser("program")
    parser.add_argument("audio", nargs="*")
    parser.add_argument("--model", required=True)
    add_flags(parser, Config())
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert capsys.readouterr().err.startswith("usage: program [options] --model MODEL [audio ...]\nprogram: error: the")


def test_a_users_mistake_is_one_line_and_exit_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise ValueError("no cuts in data/fbank:\n  run ./prepare.sh first")

    with pytest.raises(SystemExit) as caught:
        run_main(main)
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: no cuts in data/fbank: run ./prepare.sh first\n"


def test_a_full_disk_is_one_line_with_the_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        with atomic_file(tmp_path / "recogs.txt"):
            raise OSError(errno.ENOSPC, "No space left on device")  # as a write does: it names no file

    with pytest.raises(SystemExit) as caught:
        run_main(main)
    assert caught.value.code == 1
    told = f"error: [Errno 28] No space left on device: '{tmp_path}/recogs.txt': make room there, then run this again\n"
    assert capsys.readouterr().err == told


def test_too_little_memory_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_main(lambda: torch.empty(1 << 60))
    assert capsys.readouterr().err.startswith("error: the memory does not suffice: ")


def test_a_programmers_mistake_keeps_its_traceback() -> None:
    def main() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        run_main(main)


def test_help_shows_docstrings_and_defaults() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, Config)
    text = " ".join(parser.format_help().split())
    assert "Experts that compute each frame (K). [1]" in text


def test_a_reader_that_leaves_ends_the_program_without_a_word() -> None:
    code = """
import os
from shared_moe_conformer.cli import run_main
def main():
    os.close(read)
    print("to nobody", flush=True)
read, write = os.pipe()
os.dup2(write, 1)
run_main(main)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (141, "")


def test_a_character_that_the_terminal_cannot_show_ends_nothing() -> None:
    code = "from shared_moe_conformer.cli import run_main; run_main(lambda: print('caf\\xe9 \\u0e01 \\udce9'))"
    for encoding, shown in (("ascii", b"caf? ? ?\n"), ("utf-8", "caf\xe9 \u0e01 ?\n".encode())):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, env=environment)
        assert (result.returncode, result.stdout) == (0, shown)
