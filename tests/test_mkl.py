from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared_moe_conformer.mkl import VARIABLE, use_avx2_on_amd


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("vendor_id : AuthenticAMD\nflags : fma avx avx2", "5"),
        ("vendor_id : AuthenticAMD\nflags : sse2", None),
        ("vendor_id : GenuineIntel\nflags : avx2 avx512f", None),
        (None, None),
    ],
)
def test_only_amd_processors_with_avx2_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str | None, expected: str | None
) -> None:
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    use_avx2_on_amd(tmp_path / "cpuinfo")
    assert os.environ.get(VARIABLE) == expected


def test_a_users_own_setting_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "4")
    (tmp_path / "cpuinfo").write_text("vendor_id : AuthenticAMD\nflags : avx2")
    use_avx2_on_amd(tmp_path / "cpuinfo")
    assert os.environ[VARIABLE] == "4"
