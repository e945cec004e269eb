"""Every step of preparation on a disk that fills up: one line that says what to do, and no half of a file."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shared_moe_conformer.data.utterances import Utterance, write_table
from tests.data.conftest import noise_cut
from tests.local.conftest import Result
from tests.local.test_prepare_lang import write_cuts
from tests.local.test_stages import prepare, recipe  # noqa: F401 - fixtures
from tests.zoo_server import serve

ADVICE = ": make room there, then run this again"


def files_in(folder: Path) -> dict[Path, bytes]:
    """What a folder holds, the filler excepted; of compressed files, whose headers hold a time, what is in them."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".filler")
    return {
        path.relative_to(folder): gzip.decompress(path.read_bytes())
        if path.name.endswith(".jsonl.gz")
        else path.read_bytes()
        for path in paths
    }


def fills_up(run: Callable[[Path], Result], folder: Path, fill: Callable[[int], None], *, begun: str = "") -> int:
    """Run a program again and again, each time with more room, until it succeeds; return how often it failed.

    Args:
      run: writes into a folder.
      folder: on the disk.
      fill: leaves this number of pages free.
      begun: the end of the name of a file that may be there in part, since the next run goes on with it.
    """
    before = files_in(folder)
    elsewhere = shutil.copytree(folder, folder.parents[1] / "whole")
    assert run(elsewhere).status == 0
    whole, failures, pages = files_in(elsewhere), 0, 0
    while True:
        fill(pages)
        result = run(folder)
        if result.status == 0:
            break
        failures, pages = failures + 1, max(4 * pages, 1)
        told = result.err.splitlines()[-1]
        assert result.status == 1 and "Traceback" not in result.err and "Exception ignored" not in result.err
        assert told.startswith("error: ") and "No space left on device" in told and told.endswith(ADVICE), told
        assert str(folder) in told or "made/" in told
        for path, content in files_in(folder).items():
            assert content in (before.get(path), whole.get(path)) or (begun and path.name.endswith(begun)), path
    assert files_in(folder) == whole
    return failures


@pytest.fixture
def lang(tmp_path: Path, run_local: Callable[..., Result]) -> Callable[[Path, str], Callable[[Path], Result]]:
    """Make a lang folder with all that is there before a step; the function runs the step."""
    write_cuts(tmp_path, train=" ".join(f"W{chr(65 + i % 26)}{chr(65 + i // 26)}" for i in range(100)))
    steps = {
        "train_tokenizer": ("--vocab-size", 64),
        "prepare_lang": (),
        "train_ngram": (),
        "build_graph": ("--ctc-topology", "standard"),
    }

    def make(folder: Path, last: str) -> Callable[[Path], Result]:
        for step, options in steps.items():
            if step == last:
                return lambda where: run_local(step, *options, "--lang-dir", where)
            assert run_local(step, *options, "--lang-dir", folder).status == 0
        raise ValueError(last)

    return make


@pytest.mark.parametrize("step", ["train_tokenizer", "prepare_lang", "train_ngram", "build_graph"])
def test_tokenizer_lexicon_n_gram_and_graphs(step: str, small_disk: Path, lang: Callable, fill: Callable) -> None:
    if step == "build_graph":
        pytest.importorskip("kaldifst")
    (small_disk / "data").mkdir()
    run = lang(small_disk / "data/lang", step)
    assert fills_up(lambda folder: run(folder / "lang"), small_disk / "data", fill) >= 2


def test_manifests_and_converted_recordings(
    tmp_path: Path, small_disk: Path, fill: Callable, run_local: Callable[..., Result]
) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "dev", "test"):
        (tmp_path / "audio").mkdir(exist_ok=True)
        soundfile.write(tmp_path / f"audio/{split}.wav", 0.1 * rng.standard_normal((8000, 2)), 8000)
    utterances = [Utterance(s, f"{s}.wav", s.upper(), "", s, 0.0, 1.0, "") for s in ("train", "dev", "test")]
    write_table(utterances, tmp_path / "utterances.tsv")

    def run(folder: Path) -> Result:
        here = Path("made")
        (tmp_path / here).unlink(missing_ok=True)
        (tmp_path / here).symlink_to(folder)
        options = ("--audio-dir", tmp_path / "audio", "--output-dir", here / "manifests")
        return run_local("build_manifests_from_table", *options)

    (small_disk / "data").mkdir()
    assert fills_up(run, small_disk / "data", fill) >= 2


def test_the_report_of_the_checks(small_disk: Path, fill: Callable, run_local: Callable[..., Result]) -> None:
    write_cuts(small_disk.parent, train="ONE TWO", dev="THREE", test="FOUR")
    shutil.copytree(small_disk.parent / "data/manifests", small_disk / "manifests")
    assert (
        fills_up(lambda folder: run_local("validate_cuts", "--manifest-dir", folder), small_disk / "manifests", fill)
        >= 2
    )


@pytest.mark.parametrize("program", ["download_archive", "download_openslr"])
def test_downloads(
    program: str, tmp_path: Path, small_disk: Path, fill: Callable, run_local: Callable[..., Result]
) -> None:
    for number in range(3):
        noise_cut(tmp_path / "made/waves_yesno", str(number), "", duration=2.0)
    (tmp_path / "server/1").mkdir(parents=True)
    with tarfile.open(tmp_path / "server/1/waves_yesno.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "made/waves_yesno", arcname="waves_yesno")
    (small_disk / "download").mkdir()
    with serve(tmp_path / "server") as server:
        what = {
            "download_archive": (f"{server.url}/1/waves_yesno.tar.gz",),
            "download_openslr": ("yesno", "--mirror", server.url),
        }[program]
        run = lambda folder: run_local(program, *what, "--target-dir", folder)  # noqa: E731
        begun = {"download_archive": ".tar.gz", "download_openslr": (".tar.gz", ".wav")}[program]
        assert fills_up(run, small_disk / "download", fill, begun=begun) >= 2


def test_the_mark_of_a_stage(recipe: Path, small_disk: Path, fill: Callable, prepare: Callable) -> None:  # noqa: F811
    (small_disk / "data").mkdir()
    (recipe / "data").symlink_to(small_disk / "data")
    (small_disk / "data/.done").mkdir()
    fill(0)
    full = prepare()
    assert full.returncode == 1 and full.stderr.splitlines()[-1] == f"error: data/.done/0 cannot be written{ADVICE}"
    fill(9)
    assert prepare().returncode == 0


def test_packages_of_debian(tmp_path: Path, small_disk: Path, fill: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs are of a stand-in for apt, which copies a package."""
    package = tmp_path / "package"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "DEBIAN/control").write_text("Package: noise\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\n")
    noise_cut(package / "usr/share", "noise", "", duration=6.0)
    subprocess.run(["dpkg-deb", "-b", package, tmp_path / "noise.deb"], check=True, capture_output=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/apt-get").write_text(f'#!/bin/sh\ncase "$*" in *download*) cp {tmp_path}/noise.deb . ;; esac\n')
    (tmp_path / "bin/apt-get").chmod(0o755)
    command = [
        "bash",
        str(Path(__file__).parents[2] / "local/download_debian.sh"),
        str(small_disk / "download"),
        "noise",
    ]
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    for pages in (2, 8, 32):
        fill(pages)
        full = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert full.returncode == 1
        assert full.stderr.splitlines()[-1] == f"error: no space left in {small_disk}/download{ADVICE}"
        assert not list((small_disk / "download").iterdir())
    fill(140)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (small_disk / "download/usr/share/noise.wav").is_file()
