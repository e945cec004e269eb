from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from shared_moe_conformer.release.zoo_index import SUMS_FILE, read_sums, verify_sums, write_sums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_bytes(b"some bytes")
    (tmp_path / "b.bin").write_bytes(bytes(range(256)) * 5000)
    write_sums(tmp_path)
    return tmp_path


def test_unchanged_files_pass(folder: Path) -> None:
    verify_sums(folder, required=["a.txt", "b.bin"])


def test_every_changed_byte_is_found_and_its_file_named(folder: Path) -> None:
    original = (folder / "a.txt").read_bytes()
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 1
        (folder / "a.txt").write_bytes(changed)
        with pytest.raises(ValueError, match="a.txt is not the file that was released"):
            verify_sums(folder, required=[])


def test_missing_file_is_named(folder: Path) -> None:
    (folder / "b.bin").unlink()
    with pytest.raises(ValueError, match="b.bin is missing"):
        verify_sums(folder, required=[])


def test_required_file_must_be_listed(folder: Path) -> None:
    with pytest.raises(ValueError, match="does not list model.safetensors"):
        verify_sums(folder, required=["model.safetensors"])


@pytest.mark.parametrize("name", ["../a.txt", "/etc/passwd", "sub/a.txt", "", ".hidden", "a b"])
def test_only_plain_names_are_read(folder: Path, name: str) -> None:
    with (folder / SUMS_FILE).open("a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    with pytest.raises(ValueError, match="SHA256SUMS, line 3"):
        verify_sums(folder, required=[])


def test_no_sums_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no SHA256SUMS"):
        read_sums(tmp_path)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_sha256sum_reads_the_file(folder: Path) -> None:
    def check() -> int:
        return subprocess.run(["sha256sum", "--strict", "-c", SUMS_FILE], cwd=folder, capture_output=True).returncode

    assert check() == 0
    (folder / "a.txt").write_bytes(b"other bytes")
    assert check() == 1
