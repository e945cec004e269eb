"""Every command on a page is one that its program takes.

The pages' shell blocks are run with nothing on the PATH but a program that writes down how it was called.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from shared_moe_conformer import decode, export, train, train_lm
from shared_moe_conformer.__main__ import COMMANDS
from shared_moe_conformer.cli import apply_flags
from shared_moe_conformer.config import Config, refuse_idle
from shared_moe_conformer.data.distortions import parse_distortion
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.searches import _refuse_idle, _require_its_own_options
from shared_moe_conformer.params import read_configs
from shared_moe_conformer.training.experiment import RunOptions

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("README.md", "docs/*.md", "egs/*/*/*.md", "benchmarks/README.md")
PAGES = sorted(page.relative_to(ROOT) for pattern in FOLDERS for page in ROOT.glob(pattern))
OF_ANY_RECIPE = [Path("docs") / name for name in ("decoding.md", "training.md", "options.md")]
"""Pages whose commands are for the folder of a recipe; here that is an4's."""
BLOCK = re.compile(r"^```(?:bash|sh)\n(.*?)^```", re.M | re.S)
WRITTEN = "\x1e"
"""Ends a call in the log; \\x1f ends each of its parts. No argument has either."""
STUB = r"""#!/bin/bash
printf -v call '%s\x1f' "$PWD" "$0" "$@"
printf '%s\x1e' "$call" >>"$LOG" # at once: programs of a pipe write at the same time
"""
ON_PATH = ("python", "python3", "smc", "torchrun", "make", "arecord", "lhotse", "curl")
PROGRAMS = {"train.py": train, "train_lm.py": train_lm, "decode.py": decode, "export.py": export}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of a clone; each program in it, and each on the PATH, writes down how it was called."""
    folder = tmp_path_factory.mktemp("clone")
    stub = folder / "bin" / ON_PATH[0]
    stub.parent.mkdir()
    stub.write_text(STUB)
    stub.chmod(0o755)
    programs = [*ROOT.glob("local/*.*"), *ROOT.glob("egs/*/ASR/*.*"), *ROOT.glob("egs/*/ASR/local/*.py")]
    own = [Path("egs/calls/ASR") / name for name in (*PROGRAMS, "prepare.sh")]  # that README's command makes
    names = [f"bin/{name}" for name in ON_PATH[1:]] + [path.relative_to(ROOT) for path in programs] + own
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(stub, folder / name)
    for page in PAGES:
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
    return folder


def calls_of(page: Path, clone: Path) -> list[tuple[Path, str, list[str]]]:
    """The calls on a page: the working folder, the program, both as seen from the clone, and the arguments."""
    log = clone / "log"
    log.write_text("")
    folder = Path("egs/an4/ASR") if page in OF_ANY_RECIPE else page.parent
    environment = {"PATH": str(clone / "bin"), "LOG": str(log), "HOME": str(clone)}
    for block in BLOCK.findall((ROOT / page).read_text()):
        subprocess.run(["/bin/bash"], input=block, cwd=clone / folder, env=environment, capture_output=True, text=True,
                       timeout=20)  # fmt: skip
    calls = []
    for written in log.read_text().split(WRITTEN)[:-1]:
        cwd, program, *arguments = written.split("\x1f")[:-1]
        calls.append((Path(os.path.relpath(cwd, clone)), os.path.relpath(Path(cwd) / program, clone), arguments))
    return calls


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_programs_take_the_commands_of_a_page(page: Path, clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = []
    for folder, program, arguments in calls_of(page, clone):
        try:
            take(folder, Path(program), arguments)
        except (SystemExit, ValueError) as error:
            if getattr(error, "code", 1):
                refused.append(f"{folder}: {program} {' '.join(arguments)}: {error} {capsys.readouterr().err[-300:]}")
    assert not refused, "\n".join(refused)


def test_the_pages_have_hundreds_of_commands_of_all_kinds(clone: Path) -> None:
    names = [Path(program).name for page in PAGES for _, program, _ in calls_of(page, clone)]
    assert len(names) > 400 and {*PROGRAMS, "python", "prepare.sh", "torchrun", "new_recipe.py"} <= set(names)


def take(folder: Path, program: Path, arguments: Sequence[str]) -> None:
    """Do with a command's arguments what its program does before it begins.

    Raises:
      SystemExit, ValueError: they are refused.
    """
    if program.parts[0] == "bin":
        take_from_path(folder, program.name, arguments)
    elif program.name in PROGRAMS:
        recipe = folder if (ROOT / folder / "config.py").is_file() else Path("egs/an4/ASR")
        take_in_recipe(program.name, configs_of(recipe), arguments)
    elif program.suffix == ".py":
        parser = getattr(loaded(ROOT / program), "parser", None)
        if parser:
            parser().parse_args(arguments)


def take_from_path(folder: Path, name: str, arguments: Sequence[str]) -> None:
    """`python -m shared_moe_conformer.transcribe ...`, `smc transcribe ...` and `torchrun ... train.py ...`."""
    if name == "torchrun":
        place = next((place for place, argument in enumerate(arguments) if argument.endswith("train.py")), None)
        if place is not None:
            take_in_recipe("train.py", configs_of(Path("egs/an4/ASR")), arguments[place + 1 :])
        return
    own = re.fullmatch(r"shared_moe_conformer\.(\w+)", arguments[1] if len(arguments) > 1 else "")
    if name.startswith("python") and own and own[1].replace("_", "-") in COMMANDS:
        verb, arguments = own[1], arguments[2:]
    elif name == "smc" and arguments and arguments[0] in COMMANDS:
        verb, arguments = arguments[0].replace("-", "_"), arguments[1:]
    else:
        return
    parser = getattr(importlib.import_module(f"shared_moe_conformer.{verb}"), "_parser", None)
    if parser:
        parser().parse_args(arguments)


def take_in_recipe(name: str, configs: Mapping[str, Config], arguments: Sequence[str]) -> None:
    if name == "train.py":
        args = train._parser(configs, arguments).parse_args(arguments)
        refuse_idle(apply_flags(configs[args.config], args), vars(args))
        apply_flags(RunOptions(), args)
    elif name == "train_lm.py":
        train_lm._parser(configs, arguments).parse_args(arguments)
    elif name == "decode.py":
        args = decode._parser(configs).parse_args(arguments)
        config = apply_flags(DecodingConfig(), args)
        _refuse_idle(config)
        if config.decoding_method != "all":
            _require_its_own_options(config)
        for text in args.distort:
            parse_distortion(text)
    else:
        export._parser(configs).parse_args(arguments)


@functools.lru_cache
def configs_of(recipe: Path) -> dict[str, Config]:
    return read_configs(ROOT / recipe / "config.py")


@functools.lru_cache
def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"page_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module
