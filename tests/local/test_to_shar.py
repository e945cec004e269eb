from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lhotse import CutSet

from shared_moe_conformer.data.manifests import cuts_path, write_manifest
from shared_moe_conformer.data.shar import find_shards
from tests.data.conftest import noise_cut


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """Eleven cuts of the training split."""
    cuts = (noise_cut(tmp_path / "audio", f"cut-{i}", "ALPHA", duration=0.3 + 0.01 * i) for i in range(11))
    write_manifest(CutSet.from_cuts(cuts), cuts_path(tmp_path / "data/manifests", "train"))
    return tmp_path / "data/manifests"


def test_shards_are_written_once_and_checked(run_local: Callable[..., Any], manifests: Path, tmp_path: Path) -> None:
    first = run_local("to_shar", "--cuts-per-shard", 4)
    assert first.status == 0, first.err
    assert "train: 11 cuts, 0.1 minutes, in 3 of 3 shards in data/shar/train; 0 were there" in first.out
    ids = [cut.id for cut in find_shards(tmp_path / "data/shar/train")]
    assert sorted(ids) == sorted(f"cut-{i}" for i in range(11)) and ids != sorted(ids), "shuffled"
    (tmp_path / "data/shar/train/recording.000001.tar").unlink()
    refused = run_local("to_shar", "--cuts-per-shard", 4)
    assert refused.status == 1 and "cuts.000001.jsonl.gz is of other cuts or fields" in refused.err
    (tmp_path / "data/shar/train/cuts.000001.jsonl.gz").unlink()
    assert "2 were there" in run_local("to_shar", "--cuts-per-shard", 4).out
    assert [cut.id for cut in find_shards(tmp_path / "data/shar/train")] == ids


def test_a_shard_that_was_cut_off_is_found(run_local: Callable[..., Any], manifests: Path, tmp_path: Path) -> None:
    assert run_local("to_shar", "--cuts-per-shard", 4).status == 0
    tar = tmp_path / "data/shar/train/recording.000002.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    found = run_local("to_shar", "--cuts-per-shard", 4)
    assert found.status == 1 and "recording.000002.tar cannot be read" in found.err


def test_machines_write_shards_of_their_own(run_local: Callable[..., Any], manifests: Path, tmp_path: Path) -> None:
    pieces = ["--cuts-per-shard", 2, "--recording", "wav", "--num-pieces", 2]
    assert "6 cuts, 0.0 minutes, in 3 of 6 shards" in run_local("to_shar", *pieces, "--piece", 1).out
    assert "5 cuts, 0.0 minutes, in 3 of 6 shards" in run_local("to_shar", *pieces, "--piece", 2).out
    assert len(list(find_shards(tmp_path / "data/shar/train"))) == 11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recording", "none"], "nothing to write: give --recording or --features a format"),
        (["--features", "lilcom"], "has no features to write"),
        (["--num-pieces", 2, "--piece", 3], "piece is 3: give 1 to 2"),
        (["--splits", "dev"], "run ./prepare.sh first"),
        (["--recording", "zip"], "invalid choice: 'zip'"),
    ],
)
def test_mistakes_are_told(
    run_local: Callable[..., Any], manifests: Path, arguments: list[object], message: str
) -> None:
    result = run_local("to_shar", *arguments)
    assert result.status != 0 and message in result.err
