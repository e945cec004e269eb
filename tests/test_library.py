"""The names that the package itself gives, and `smc`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import shared_moe_conformer
from shared_moe_conformer import __main__ as smc
from shared_moe_conformer.cli import program

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "numpy", "lhotse")


def loaded_by(code: str) -> set[str]:
    """Those of `HEAVY` that a new Python has loaded after this code."""
    code = f"import sys; {code}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import shared_moe_conformer; dir(shared_moe_conformer)") == set()


def test_options_need_no_torch_and_an_encoder_no_lhotse() -> None:
    assert loaded_by("from shared_moe_conformer import Config, EncoderConfig, ModelConfig") == set()
    assert "lhotse" not in loaded_by("from shared_moe_conformer import AsrModel, Encoder")


def test_every_public_name_is_there() -> None:
    assert set(shared_moe_conformer.__all__) <= set(dir(shared_moe_conformer))
    for name in shared_moe_conformer.__all__:
        assert getattr(shared_moe_conformer, name).__name__ == name
    assert {"Bundle", "Encoder", "EncoderConfig", "AsrModel"} <= set(shared_moe_conformer.__all__)


def test_the_page_of_names_shows_each_with_its_methods(tmp_path: Path) -> None:
    pytest.importorskip("pdoc")
    command = [sys.executable, "docs/api.py", "--output-dir", str(tmp_path / "api")]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    page = Path(shown.strip()).read_text(encoding="utf-8")
    assert all(f'id="{name}"' in page for name in shared_moe_conformer.__all__)
    assert 'id="Bundle.transcribe"' in page and "(N, T, F)" in page
    assert (tmp_path / "api" / "index.html").is_file()


def test_another_name_is_an_attribute_error() -> None:
    assert not hasattr(shared_moe_conformer, "Encodr")
    with pytest.raises(ImportError, match="Encodr"):
        exec("from shared_moe_conformer import Encodr")


@pytest.mark.parametrize("command", smc.COMMANDS)
def test_each_command_has_its_own_help(command: str, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/smc"])
    with pytest.raises(SystemExit) as stop:
        smc.main([command, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: smc {command} ")


def test_the_help_lists_the_commands_and_loads_none(capsys: pytest.CaptureFixture[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "shared_moe_conformer", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(f"  {name} " in result.stdout for name in smc.COMMANDS)
    assert " torch\n" not in result.stderr


def test_arguments_reach_the_command_and_its_errors_the_user(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        smc.main(["zoo", "show", "nobody", "--zoo-dir", "nowhere"])
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("arguments", [[], ["transcibe"], ["train"]])
def test_an_unknown_command_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        smc.main(arguments)
    assert stop.value.code == 2
    assert "smc: error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("called", "shown"),
    [
        ("/usr/bin/smc", "smc compare-forms"),
        ("/lib/shared_moe_conformer/__main__.py", "smc compare-forms"),
        ("/lib/shared_moe_conformer/compare_forms.py", "python -m shared_moe_conformer.compare_forms"),
        ("", "python -m shared_moe_conformer.compare_forms"),
    ],
)
def test_help_names_the_program_as_it_was_called(called: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    assert program("compare_forms") == shown
