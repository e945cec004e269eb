"""Single files; whole models, and what goes wrong on the way, are in test_transfer.py."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from shared_moe_conformer.release.checksums import file_sha256
from shared_moe_conformer.release.download import fetch
from tests.zoo_server import serve

CONTENT = random.Random(0).randbytes(5_000)


@pytest.mark.parametrize(
    ("there", "resumes"), [(b"", True), (CONTENT[:2_000], True), (CONTENT[:2_000], False), (bytes(2_000), True)]
)
def test_progress_ends_at_the_files_length(there: bytes, resumes: bool, tmp_path: Path) -> None:
    """Whether the part that is there is continued, or cannot be, or is of another file."""
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "weights").write_bytes(CONTENT)
    target, came = tmp_path / "weights", [len(there)]
    target.write_bytes(there)
    sha256 = file_sha256(tmp_path / "zoo" / "weights")
    with serve(tmp_path / "zoo", resumes=resumes) as server:
        fetch(server.url, "weights", target, max_bytes=len(CONTENT), sha256=sha256, progress=came.append)
    assert target.read_bytes() == CONTENT
    assert sum(came) == len(CONTENT)
