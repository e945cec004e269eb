from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.local.conftest import Result
from tests.zoo_server import serve


def pack(folder: Path) -> None:
    (folder / "an4/etc").mkdir(parents=True)
    (folder / "an4/etc/an4_test.fileids").write_text("an4test_clstk/fcaw/an406-fcaw-b\n" * 200)
    with tarfile.open(folder / "an4_raw.tar.gz", "w:gz") as tar:
        tar.add(folder / "an4", arcname="an4")


def test_an_archive_is_unpacked_and_not_downloaded_twice(tmp_path: Path, run_local: Callable[..., Result]) -> None:
    pack(tmp_path / "server")
    with serve(tmp_path / "server") as server:
        arguments = (f"{server.url}/an4_raw.tar.gz", "--target-dir", "download")
        for _ in range(2):
            result = run_local("download_archive", *arguments)
            assert result.status == 0 and "an4_raw.tar.gz is unpacked in download" in result.out
        assert (tmp_path / "download/an4/etc/an4_test.fileids").is_file()
        assert len(server.requests) == 1


def test_what_cannot_be_downloaded_or_unpacked_is_one_line(tmp_path: Path, run_local: Callable[..., Result]) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server/a.tar.gz").write_bytes(b"no archive")
    with serve(tmp_path / "server") as server:
        for name in ("a.tar.gz", "b.tar.gz"):
            result = run_local("download_archive", f"{server.url}/{name}", "--target-dir", "download")
            assert result.status == 1 and "--corpus-dir" in result.err
            assert result.err.splitlines()[-1].startswith("error: ")
