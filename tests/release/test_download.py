"""Single files; whole models, and what goes wrong on the way, are in test_transfer.py."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from shared_moe_conformer.release.download import fetch
from shared_moe_conformer.release.zoo_index import file_sha256
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


@pytest.mark.parametrize(("user", "login"), [("", ""), ("me:p%40ss@", "me:p@ss")])
def test_the_environments_proxy_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str, login: str
) -> None:
    behind = tmp_path / "http:" / "zoo.invalid"  # a proxy gets whole addresses
    behind.mkdir(parents=True)
    (behind / "weights").write_bytes(CONTENT)
    with serve(tmp_path, login=login) as server:
        monkeypatch.setenv("http_proxy", server.url.replace("//", f"//{user}"))
        fetch("http://zoo.invalid", "weights", tmp_path / "weights", max_bytes=len(CONTENT))
        assert (tmp_path / "weights").read_bytes() == CONTENT
        monkeypatch.setenv("no_proxy", "zoo.invalid")
        with pytest.raises(ValueError, match=r"zoo\.invalid/other cannot be read"):
            fetch("http://zoo.invalid", "other", tmp_path / "other", max_bytes=len(CONTENT))
