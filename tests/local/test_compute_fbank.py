from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet, MonoCut

from shared_moe_conformer.config import FeatureConfig
from shared_moe_conformer.data.features import compute_features
from shared_moe_conformer.data.manifests import cuts_path, read_cuts, write_manifest
from tests.data.conftest import noise_cut
from tests.local.conftest import Result


@pytest.fixture
def manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "dev", "test"):
        cuts = [noise_cut(Path("audio"), f"{split}-{i}", f"TEXT {split} {i}", duration=0.5) for i in range(2)]
        write_manifest(CutSet.from_cuts(cuts), cuts_path(Path("data/manifests"), split))
    return tmp_path


def test_training_cuts_get_other_speeds(manifests: Path, run_local: Callable[..., Result]) -> None:
    result = run_local("compute_fbank", "--num-mel-bins", 40)
    assert result.status == 0
    cuts = {split: list(read_cuts(manifests / "data/fbank", split, recipe_dir=manifests)) for split in ("train", "dev")}
    assert [cut.id for cut in cuts["train"][2:]] == ["train-0_sp0.9", "train-1_sp0.9", "train-0_sp1.1", "train-1_sp1.1"]
    assert [cut.id for cut in cuts["dev"]] == ["dev-0", "dev-1"]
    assert {split: error_of(cuts[split][0], 40) < 1e-5 for split in cuts} == {"train": False, "dev": True}
    assert {(cut.num_features, cut.sampling_rate) for cut in cuts["train"] + cuts["dev"]} == {(40, 16000)}
    assert "train: 6 cuts" in result.out and "dev: 2 cuts" in result.out
    assert "features of train" in result.err, "progress is shown"


def error_of(cut: MonoCut, num_mel_bins: int) -> float:
    """The largest error of a cut's stored features."""
    computed = compute_features(cut.load_audio()[0], 16000, FeatureConfig(num_mel_bins=num_mel_bins))
    return float(np.abs(cut.load_features() - computed.numpy()).max())


def test_speeds_and_splits_can_be_chosen(manifests: Path, run_local: Callable[..., Result]) -> None:
    options = ("--splits", "dev", "--exact-splits", "--perturbed-splits", "dev", "--speeds", 1.2)
    assert run_local("compute_fbank", *options).status == 0
    dev = read_cuts(manifests / "data/fbank", "dev", recipe_dir=manifests)
    assert [cut.id for cut in dev] == ["dev-0", "dev-1", "dev-0_sp1.2", "dev-1_sp1.2"]
    assert error_of(next(iter(dev)), 80) > 1e-3
    assert not cuts_path(manifests / "data/fbank", "train").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--num-jobs", 0], "num_jobs"), (["--splits", "x"], "cuts_x"), (["--piece", 3], "piece is 3: give 1 to 1")],
)
def test_mistakes_are_one_line(
    manifests: Path, run_local: Callable[..., Result], arguments: list[object], message: str
) -> None:
    result = run_local("compute_fbank", *arguments)
    assert result.status == 1
    assert message in result.err and result.err.count("\n") == 1
