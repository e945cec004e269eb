from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from shared_moe_conformer.release import manifest
from shared_moe_conformer.release.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    Manifest,
    package_commit,
    read_manifest,
    require_name,
    write_manifest,
)

MANIFEST = Manifest(
    name="asterisk-base",
    corpus="asterisk",
    language="en",
    licence="CC-BY-SA-3.0",
    unique_parameters=10,
    unrolled_parameters=30,
    active_parameters=20,
    decoding_method="greedy_search",
    error_rates={"test": {"greedy_search": 12.5, "modified_beam_search": 12}},
    commit="0123456789",
)


def test_reads_what_was_written(tmp_path: Path) -> None:
    for written in (MANIFEST, dataclasses.replace(MANIFEST, commit=None, error_rates={}, corpus="čeština")):
        write_manifest(written, tmp_path)
        assert read_manifest(tmp_path) == written
        assert "decoding_options" not in (tmp_path / MANIFEST_FILE).read_text(), "earlier versions do not know it"
        assert "begun_with" not in (tmp_path / MANIFEST_FILE).read_text(), "nor this"
    begun = {"an4-base": {"corpus": "an4", "licence": "BSD-2-Clause"}}
    tuned = dataclasses.replace(MANIFEST, decoding_options={"1best": {"hlg_scale": 0.3}}, begun_with=begun)
    write_manifest(tuned, tmp_path)
    assert read_manifest(tmp_path) == tuned


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": FORMAT_VERSION + 1}, "newer than this program's"),
        ({"format_version": "1"}, "format_version is '1'"),
        ({"surprise": 1}, "no option surprise"),
        ({"name": "../../etc"}, "cannot be a model's name"),
        ({"name": 7}, "name is 7: it must be str"),
        ({"unique_parameters": -1}, "unique_parameters is -1"),
        ({"unique_parameters": True}, "unique_parameters is True"),
        ({"error_rates": {"test": 3}}, "error_rates"),
        ({"error_rates": [1]}, "error_rates"),
        ({"error_rates": {"test": {"greedy_search": "3"}}}, "error_rates"),
        ({"commit": 5}, "commit is 5"),
        ({"segment_seconds": "9"}, "segment_seconds is '9'"),
        ({"decoding_options": {"1best": {"hlg_scale": "3"}}}, "decoding_options"),
    ],
)
def test_a_bad_value_is_refused_with_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_manifest(MANIFEST, tmp_path)
    path = tmp_path / MANIFEST_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as caught:
        read_manifest(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_of_before_segments_had_a_length_is_read(tmp_path: Path) -> None:
    write_manifest(MANIFEST, tmp_path)
    path = tmp_path / MANIFEST_FILE
    values = json.loads(path.read_text())
    del values["segment_seconds"]
    path.write_text(json.dumps(values))
    assert read_manifest(tmp_path).segment_seconds is None


LATER = ("segment_seconds", "decoding_options", "begun_with")
REQUIRED = [f.name for f in dataclasses.fields(Manifest) if f.name not in LATER]


@pytest.mark.parametrize("field", REQUIRED)
def test_a_missing_value_is_named(tmp_path: Path, field: str) -> None:
    write_manifest(MANIFEST, tmp_path)
    path = tmp_path / MANIFEST_FILE
    values = json.loads(path.read_text())
    del values[field]
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=field):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=MANIFEST_FILE):
        read_manifest(tmp_path)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no released model in"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "a\n", "-flag", "x" * 101, "ä"])
def test_names_that_are_no_plain_folder(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a model's name"):
        require_name(name)


@pytest.mark.parametrize("name", ["a", "asterisk-base", "v1.0_x", "x" * 100])
def test_plain_names(name: str) -> None:
    require_name(name)


def test_the_commit_is_that_of_the_package_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=n", "-c", "user.email=e")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    source = tmp_path / "package" / "manifest.py"
    source.parent.mkdir()
    source.write_text("1")
    monkeypatch.setattr(manifest, "__file__", str(source))
    assert package_commit() is None
    git("init", "-q")
    assert package_commit() is None, "a folder inside somebody else's checkout"
    git("add", ".")
    git("commit", "-qm", "first")
    assert package_commit() == git("rev-parse", "HEAD").strip()
    source.write_text("2")
    assert package_commit() == git("rev-parse", "HEAD").strip() + "-dirty"
