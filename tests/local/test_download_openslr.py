from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.data.conftest import noise_cut
from tests.local.conftest import Result
from tests.zoo_server import serve


def pack(folder: Path, name: str, archive: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / name, arcname=name)


def test_an_archive_is_unpacked_and_not_downloaded_twice(tmp_path: Path, run_local: Callable[..., Result]) -> None:
    noise_cut(tmp_path / "made/waves_yesno", "0_1_0_1_0_1_0_1", "", duration=0.5)
    pack(tmp_path / "made", "waves_yesno", tmp_path / "server/1/waves_yesno.tar.gz")
    with serve(tmp_path / "server") as server:
        arguments = ("yesno", "--mirror", server.url, "--target-dir", "download")
        result = run_local("download_openslr", *arguments)
        assert result.status == 0 and "yesno is in download/waves_yesno" in result.out
        assert [path.name for path in (tmp_path / "download/waves_yesno").glob("*.wav")] == ["0_1_0_1_0_1_0_1.wav"]
        assert run_local("download_openslr", *arguments).status == 0
        assert len(server.requests) == 1


def test_what_cannot_be_downloaded_is_one_line(tmp_path: Path, run_local: Callable[..., Result]) -> None:
    with serve(tmp_path) as server:
        result = run_local("download_openslr", "musan", "--mirror", server.url, "--target-dir", "download")
    assert result.status == 1
    assert "musan cannot be downloaded" in result.err and "--corpus-dir" in result.err
    assert result.err.splitlines()[-1].startswith("error: ")


def test_a_broken_download_goes_on(tmp_path: Path, run_local: Callable[..., Result]) -> None:
    noise_cut(tmp_path / "made/waves_yesno", "0_1_0_1_0_1_0_1", "", duration=0.5)
    pack(tmp_path / "made", "waves_yesno", tmp_path / "server/1/waves_yesno.tar.gz")
    arguments = ("yesno", "--target-dir", "download", "--mirror")
    with serve(tmp_path / "server", sent=lambda total: total < 2000) as server:
        assert "run this again" in run_local("download_openslr", *arguments, server.url).err
    with serve(tmp_path / "server") as server:
        assert run_local("download_openslr", *arguments, server.url).status == 0
        assert server.requests[0][1] not in (None, "bytes=0-"), "from where it stopped"
