"""The set-up: make's targets, the scripts behind them and the pins."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared_moe_conformer import __version__
from tests.conftest import ONE_ENVIRONMENT

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
TARGETS = re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
SCRIPTS = [*sorted(REQUIREMENTS.glob("*.sh")), ROOT / "tests" / "run.sh", ROOT / ".ci" / "run"]
SETTINGS = ("ENGINE", "TORCH", "K2_WHEELS", "PYTHON", "MAKEFLAGS", "MAKELEVEL")

# A Python that says where it is, and makes environments in which another program is the Python.
MAKES_VENVS = """
[[ "$1" != -c ]] || echo "$0"
[[ "$2" != venv ]] || {{ /bin/mkdir -p "$3/bin"; /bin/cp "{python}" "$3/bin/python"; }}
"""

# A Python that has headers and no kaldifeat, and whose pip compiles nothing, and fetches nothing if no_network is set.
PYTHON_WITHOUT_KALDIFEAT = """
case "$*" in
  -) exit 1 ;;
  "- "*) echo key ;;
  "-c "*) echo {include} ;;
  *" wheel --"*) echo "a.cc:1: error: no such type" >&2; exit 1 ;;
  *pip*) [[ -z "${{no_network:-}}" ]] || {{ echo "ERROR: $no_network" >&2; exit 1; }} ;;
esac
"""

IMPORTS = """
import time
begin = time.perf_counter()
import shared_moe_conformer
from shared_moe_conformer import Config, EncoderConfig
print(shared_moe_conformer.__file__, time.perf_counter() - begin)
"""


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command without this shell's make and set-up settings."""
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=kept | environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The set-up's files alone, with environments that cannot be made: no Python is in their PATH."""
    shutil.copytree(REQUIREMENTS, tmp_path / "requirements")
    shutil.copy(ROOT / "setup.py", tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "cat", "cksum", "dirname", "env", "grep", "rm", "uname"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    return tmp_path


def stub(path: Path, text: str) -> None:
    """Write a small program."""
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def set_up(clone: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call the clone's venv.sh with nothing but its tools in PATH."""
    return run(clone / "requirements" / "venv.sh", *arguments, PATH=str(clone / "tools"), **environment)


def requirement_lines(file: Path) -> list[str]:
    """The requirements in a file, without comments and options."""
    return [line for line in file.read_text().splitlines() if line and not line.startswith(("#", "-"))]


def test_help_is_the_default_and_lists_every_target() -> None:
    listed = re.findall(r"^make ([a-z0-9]+) {2,}\S", run("make").stdout, re.MULTILINE)
    assert listed == TARGETS
    assert {"install", "run", "test", "check"} <= set(listed)


@pytest.mark.parametrize("target", TARGETS)
def test_target_can_be_planned(target: str) -> None:
    assert run("make", "-n", target).returncode == 0


def test_engine_chooses_the_environment() -> None:
    assert "venv.sh k2" in run("make", "-n", "install").stdout
    assert "venv.sh torch" in run("make", "-n", "install", "ENGINE=torch").stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_executable_strict_and_parses(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert "\nset -euo pipefail\n" in script.read_text()
    assert run("bash", "-n", script).returncode == 0


@pytest.mark.skipif("ENGINE" not in os.environ, reason="only make says which environment this is")
def test_environment_has_what_other_tests_would_skip_without() -> None:
    needed = {"k2": ["k2"], "torch": []}[os.environ["ENGINE"]] + ["kaldi_decoder", "onnx", "onnxruntime", "sherpa_onnx"]
    needed += ["fastapi", "uvicorn", "selenium", "espnet_model_zoo"]
    assert [name for name in needed if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize("file", sorted(REQUIREMENTS.glob("*.txt")), ids=lambda path: path.name)
def test_every_requirement_has_an_upper_bound(file: Path) -> None:
    unbounded = [line for line in requirement_lines(file) if not re.search(r"==|~=|<", line)]
    assert requirement_lines(file)
    assert not unbounded


def test_each_python_of_k2_has_its_own_hash() -> None:
    lines = requirement_lines(REQUIREMENTS / "k2-wheel.txt")
    pythons = [re.findall(r'python_version == "([0-9.]+)"', line) for line in lines]
    hashes = [re.findall(r"--hash=sha256:([0-9a-f]{64})$", line) for line in lines]
    assert sorted(pythons) == [["3.10"], ["3.11"]]
    assert all(len(each) == 1 for each in hashes)
    assert hashes[0] != hashes[1]


def test_setup_py_reads_the_version() -> None:
    setup_py = run(sys.executable, "setup.py", "--quiet", "--version", "--name")
    assert setup_py.stdout.split() == [__version__, "shared-moe-conformer"], setup_py.stderr


def test_a_wheel_of_the_source_package_holds_pages_types_and_the_command(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "shared_moe_conformer", tmp_path / "shared_moe_conformer")
    shutil.copytree(REQUIREMENTS, tmp_path / "requirements")
    for name in ("setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    make = [sys.executable, "setup.py", "--quiet"]
    subprocess.run([*make, "sdist"], cwd=tmp_path, check=True, capture_output=True)
    (source,) = tmp_path.glob("dist/*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    subprocess.run([*make, "bdist_wheel"], cwd=unpacked, check=True, capture_output=True)
    (wheel,) = unpacked.glob("dist/*.whl")
    with zipfile.ZipFile(wheel) as archive_of_wheel:
        archive_of_wheel.extractall(tmp_path / "installed")
        names = set(archive_of_wheel.namelist())
        (entries,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "smc = shared_moe_conformer.__main__:main" in archive_of_wheel.read(entries).decode()
    package = ROOT / "shared_moe_conformer"
    files = {path.relative_to(ROOT).as_posix() for path in package.rglob("*") if path.is_file()}
    assert names >= {name for name in files if "__pycache__" not in name}
    assert not any(name.startswith("tests/") for name in names)
    timed = subprocess.run([sys.executable, "-c", IMPORTS], cwd=tmp_path / "installed", capture_output=True, text=True)
    where, seconds = timed.stdout.split()
    assert where.startswith(str(tmp_path)) and float(seconds) < 2, timed.stderr


def test_chromium_is_left_alone_where_it_is_and_missed_where_nobody_can_install_it(tmp_path: Path) -> None:
    for tool in ("bash", "env"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    stub(tmp_path / "id", "echo 0")
    stub(tmp_path / "dpkg", "")
    stub(tmp_path / "sleep", f'echo "$@" >> {tmp_path}/slept')
    missing = run(REQUIREMENTS / "chromium.sh", PATH=str(tmp_path))
    assert missing.returncode == 0
    assert missing.stderr.endswith("tests of pages skip\n")
    stub(tmp_path / "apt-get", 'if [[ "$*" == *install* ]]; then exit 100; fi')
    failing = run(REQUIREMENTS / "chromium.sh", PATH=str(tmp_path))
    assert failing.returncode == 0
    assert failing.stderr.endswith("not installed: tests of pages skip\n")
    assert (tmp_path / "slept").read_text() == "10\n20\n"
    for name in ("chromium", "chromedriver"):
        stub(tmp_path / name, "")
    assert run(REQUIREMENTS / "chromium.sh", PATH=str(tmp_path)).stderr == ""


def test_chromium_is_installed_although_lists_fail_and_an_installation_too(tmp_path: Path) -> None:
    for tool in ("bash", "env", "cp", "rm"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    for tool in ("id", "dpkg", "sleep"):
        stub(tmp_path / tool, "echo 0")
    stub(tmp_path / "works", "")
    stub(tmp_path / "first", "")
    stub(
        tmp_path / "apt-get",
        f"""if [[ "$*" == *update* ]]; then exit 100; fi
if [[ -e {tmp_path}/first ]]; then rm {tmp_path}/first; exit 100; fi
cp {tmp_path}/works {tmp_path}/chromium; cp {tmp_path}/works {tmp_path}/chromedriver""",
    )
    installed = run(REQUIREMENTS / "chromium.sh", PATH=str(tmp_path))
    assert installed.returncode == 0
    assert installed.stderr.count("not all lists of packages could be read") == 2
    assert installed.stderr.endswith("[chromium] installed\n")


def test_unknown_engine_is_refused(clone: Path) -> None:
    result = set_up(clone, "cuda")
    assert result.returncode == 1
    assert result.stderr == "[set-up] error: ENGINE is 'cuda': give k2 or torch\n"


def test_torch_without_k2_wheels_is_refused(clone: Path) -> None:
    result = set_up(clone, "k2", TORCH="2.7.1")
    assert result.returncode == 1
    assert "give both" in result.stderr


def test_without_a_python_that_fits_k2_it_says_so_and_turns_to_torch(clone: Path) -> None:
    stub(clone / "tools" / "python3.11", "exit 127")  # a shim of a version that is not installed
    result = set_up(clone, "k2")
    assert result.returncode == 1
    first, second = result.stderr.splitlines()
    assert "ENGINE=torch instead" in first
    assert "no working Python 3.10 or newer found: install one" in second


def test_failed_build_is_not_taken_for_an_environment(clone: Path) -> None:
    """A Python whose `-m venv` makes an environment in which pip fails."""
    pip_fails = 'if [[ "$*" == *pip* ]]; then exit 1; fi'
    stub(clone / "tools" / "pip_fails", pip_fails)
    stub(clone / "tools" / "python3.11", MAKES_VENVS.format(python="${0%/*}/pip_fails"))
    for _ in range(2):
        result = set_up(clone, "torch", "echo", "ran")
        assert result.returncode == 1
        assert "make .venv-torch" in result.stderr
        assert "ready" not in result.stderr + result.stdout
        assert "ran" not in result.stdout


@pytest.mark.skipif(shutil.which("flock") is None, reason="no flock")
def test_of_two_calls_at_once_one_makes_the_environment(clone: Path) -> None:
    for tool in ("flock", "sleep"):
        (clone / "tools" / tool).symlink_to(str(shutil.which(tool)))
    stub(clone / "tools" / "python3.11", '[[ "$*" != *pip* ]] || sleep 0.5' + MAKES_VENVS.format(python="$0"))
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda _: set_up(clone, "torch", "env"), range(2)))
    assert [result.returncode for result in results] == [0, 0]
    assert "".join(result.stderr for result in results).count("make .venv-torch") == 1


@pytest.fixture
def bare(clone: Path) -> Path:
    """A clone without kaldifeat, with tools that do nothing and a Python whose pip has no network."""
    for tool in ("mkdir", "mktemp", "tail", "tr"):
        (clone / "tools" / tool).symlink_to(str(shutil.which(tool)))
    for tool in ("c++", "make", "nproc", "tar"):
        stub(clone / "tools" / tool, "")
    for folder in (".venv-torch", "include"):
        (clone / folder).mkdir()
    (clone / "include" / "Python.h").touch()
    stub(clone / "tools" / "python", PYTHON_WITHOUT_KALDIFEAT.format(include=clone / "include"))
    return clone


def get_kaldifeat(clone: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment |= {
        "PATH": str(clone / "tools"),
        "VIRTUAL_ENV": str(clone / ".venv-torch"),
        "XDG_CACHE_HOME": str(clone),
    }
    return run(clone / "requirements" / "kaldifeat.sh", **environment)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("tools/c++", "no c++ here, which compiling takes (Debian: build-essential)"),
        ("include/Python.h", "no Python.h in"),
        ("", "what compiling takes cannot be had (ERROR: no such host)"),
    ],
)
def test_where_kaldifeat_cannot_be_compiled_one_line_says_so(bare: Path, missing: str, message: str) -> None:
    if missing:
        (bare / missing).unlink()
    result = get_kaldifeat(bare, no_network="no such host")
    *_, line = result.stderr.splitlines()
    assert result.returncode == 0 and message in line and line.endswith("going on without, tests of kaldifeat skip")


def test_an_error_of_compiling_kaldifeat_is_one(bare: Path) -> None:
    result = get_kaldifeat(bare)
    assert result.returncode == 1 and "a.cc:1: error: no such type" in result.stderr
    assert list((bare / ".venv-torch").iterdir()) == [], "nothing is left of it"


@pytest.mark.parametrize(("command", "status"), [([], 0), (["true"], 1)])
def test_where_espnet_cannot_be_had_one_line_says_so(clone: Path, command: list[str], status: int) -> None:
    for tool in ("cmp", "true"):
        (clone / "tools" / tool).symlink_to(str(shutil.which(tool)))
    stub(clone / "tools" / "python", 'echo "ERROR: no such host" >&2; exit 1')
    environment = {"PATH": str(clone / "tools"), "VIRTUAL_ENV": str(clone / ".venv-torch")}
    result = run(clone / "requirements/espnet.sh", *command, **environment)
    *_, line = result.stderr.splitlines()
    assert result.returncode == status and line.endswith("ESPnet cannot be had here: going on without, its test skips")


def test_kaldifeat_needs_no_home(tmp_path: Path) -> None:
    line = next(line for line in (REQUIREMENTS / "kaldifeat.sh").read_text().splitlines() if line.startswith("kept="))
    script = f"set -u; unset HOME XDG_CACHE_HOME; root={tmp_path}; wheel_key() {{ echo key; }}; {line}; echo $kept"
    assert run("bash", "-c", script).stdout == f"{tmp_path}/build/.cache/shared-moe-conformer/key\n"


def test_benchmarks_go_on_where_fast_rnnt_cannot_be_had(clone: Path) -> None:
    (clone / "tools" / "mkdir").symlink_to(str(shutil.which("mkdir")))
    stub(clone / "tools" / "python", PYTHON_WITHOUT_KALDIFEAT.format(include=""))
    command = (clone / "requirements" / "peers.sh", "bash", "-c", "echo $PYTHONPATH")
    environment = {"ENGINE": "k2", "VIRTUAL_ENV": str(clone), "PATH": str(clone / "tools"), "PYTHONPATH": ""}
    result = run(*command, no_network="no such host", **environment)
    assert result.stderr.splitlines()[1:] == ["[peers] no fast_rnnt here (ERROR: no such host): going on without"]
    assert result.stdout == f"{clone}/peers:{clone}/fast_rnnt==1.3\n"


def test_environment_is_made_once_and_again_when_its_pins_change(clone: Path) -> None:
    stub(clone / "tools" / "python3.11", MAKES_VENVS.format(python="$0"))
    assert "ready" in set_up(clone, "torch").stderr
    again = set_up(clone, "torch", "env")
    assert again.stderr == ""
    assert "ENGINE=torch\n" in again.stdout
    with (clone / "requirements" / "dev.txt").open("a") as file:
        file.write("another<2\n")
    assert "ready" in set_up(clone, "torch").stderr


@pytest.mark.parametrize("beginning", [place for places in ONE_ENVIRONMENT.values() for place in places])
def test_the_tests_of_one_environment_are_there(beginning: str) -> None:
    assert list((ROOT / "tests").glob(f"{beginning}*"))
