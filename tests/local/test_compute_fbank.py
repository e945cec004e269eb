from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet, MonoCut

from shared_moe_conformer.config import FeatureConfig
from shared_moe_conformer.data.features import compute_features
from shared_moe_conformer.data.manifests import cuts_path, read_cuts, write_manifest
from tests.conftest import make_room
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


def test_a_share_of_the_training_cuts_is_coded(manifests: Path, run_local: Callable[..., Result]) -> None:
    assert run_local("compute_fbank", "--coded-share", 1).status == 0
    cuts = {split: list(read_cuts(manifests / "data/fbank", split, recipe_dir=manifests)) for split in ("train", "dev")}
    assert min(error_of(cut, 80) for cut in cuts["train"][:2]) > 0.3
    assert max(error_of(cut, 80) for cut in cuts["dev"]) < 1e-5
    assert "coded_share is 1.5: give 0 to 1" in run_local("compute_fbank", "--coded-share", 1.5).err


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


def test_on_a_full_disk_nothing_is_left_half_written(
    manifests: Path, small_disk: Path, run_local: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk of 600 KiB gets features of 2 MiB in files of two cuts, then the same as shards, and then more room."""
    monkeypatch.setattr("shared_moe_conformer.data.feature_files.CUTS_PER_FILE", 2)
    cuts = [noise_cut(Path("audio"), f"long-{i}", "TEXT", duration=6.0) for i in range(12)]
    write_manifest(CutSet.from_cuts(cuts), cuts_path(Path("data/manifests"), "long"))
    features = ("compute_fbank", "--splits", "long", "--exact-splits", "long", "--perturbed-splits", "--output-dir")
    shards = ("to_shar", "--splits", "long", "--recording", "wav", "--cuts-per-shard", 2, "--output-dir")
    for program in (features, shards):
        full = run_local(*program, "disk")
        assert full.status == 1 and "No space left on device" in full.err.splitlines()[-1]
        assert "disk/" in full.err.splitlines()[-1] and "Traceback" not in full.err
        written = {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()}
        assert written and run_local(*program, "more").status == 0
        for path, content in written.items():
            whole = Path("more") / path.relative_to(small_disk)
            assert path.name.endswith(".jsonl.gz") or content == whole.read_bytes(), "no file is half-written"
    make_room(small_disk)
    for program in (features, shards):
        assert run_local(*program, "disk").status == 0
    folders = (small_disk, Path("more"))
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in folders]
    assert names[0] == names[1]
    for one, other in zip(*(read_cuts(folder, "long", recipe_dir=Path()) for folder in folders)):
        assert np.array_equal(one.load_features(), other.load_features())


@pytest.mark.slow
def test_a_dask_cluster_of_two_processes_computes_the_same(
    manifests: Path, run_local: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = run_local("compute_fbank", "--output-dir", "alone")
    if importlib.util.find_spec("distributed") is None:
        refused = run_local("compute_fbank", "--dask", "local")
        assert refused.status == 1 and "pip install 'dask[distributed]'" in refused.err
        pytest.skip("dask.distributed is not installed: pip install 'dask[distributed]'")
    monkeypatch.setattr("shared_moe_conformer.data.feature_files.CUTS_PER_FILE", 2)
    together = run_local("compute_fbank", "--output-dir", "together", "--dask", "local", "--num-jobs", 2)
    assert together.status == 0 and together.out == alone.out
    for split in ("train", "dev", "test"):
        for one, other in zip(*(read_cuts(manifests / f, split, recipe_dir=manifests) for f in ("alone", "together"))):
            assert one.id == other.id and np.array_equal(one.load_features(), other.load_features())
    (manifests / "audio/dev-1.wav").write_bytes(b"nothing")
    broken = run_local("compute_fbank", "--splits", "dev", "--output-dir", "broken", "--dask", "local", "--num-jobs", 2)
    assert broken.status == 1 and "no features of cut dev-1 from audio/dev-1.wav" in broken.err.splitlines()[-1]


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
