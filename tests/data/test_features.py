from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import CutSet, MonoCut, combine

from shared_moe_conformer.config import FeatureConfig
from shared_moe_conformer.data.distortions import codec_of
from shared_moe_conformer.data.feature_files import store_features
from shared_moe_conformer.data.features import (
    LiveFeatures,
    compute_features,
    feature_extractor,
    resample,
)
from shared_moe_conformer.data.manifests import read_cuts
from tests.data.conftest import Corpus, noise_cut

LILCOM_ERROR = 0.016
FBANK = Path("fbank")
MODULE = store_features.__module__


def noise(num_samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(num_samples)).astype(np.float32)


def test_a_file_has_the_features_that_preparation_stored(corpus: Corpus) -> None:
    for cut in corpus.cuts("test"):
        path = cut.recording.sources[0].source
        samples, sampling_rate = soundfile.read(path, dtype="float32")
        assert sampling_rate == 8000
        features = compute_features(samples, sampling_rate, FeatureConfig())
        stored = torch.from_numpy(cut.load_features())
        assert features.shape == stored.shape
        assert (features - stored).abs().max() < LILCOM_ERROR
        same = feature_extractor(FeatureConfig()).extract(cut.load_audio(), 16000)
        assert torch.equal(features, torch.as_tensor(same))


@pytest.mark.parametrize("sampling_rate", [8000, 16000, 22050, 44100, 48000])
def test_resampling_keeps_a_tone(sampling_rate: int) -> None:
    def tone(rate: int) -> np.ndarray:
        return 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)

    resampled = resample(tone(sampling_rate), sampling_rate, 16000)
    assert resampled.shape == (16000,)
    inner = slice(200, -200)
    assert np.abs(resampled[inner] - tone(16000)[inner]).max() < 0.01


def test_a_frame_every_ten_milliseconds_and_the_bins_asked_for() -> None:
    config = FeatureConfig(num_mel_bins=40)
    features = compute_features(noise(16000), 16000, config)
    assert features.shape == (100, 40)
    assert features.dtype == torch.float32
    assert features.isfinite().all()


@pytest.mark.parametrize(
    ("samples", "message"),
    [(np.zeros((2, 1000)), "one channel"), (np.zeros(0), "shorter than a frame"), (np.zeros(399), "shorter than")],
)
def test_what_is_no_recording_is_refused(samples: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_features(samples, 16000, FeatureConfig())


def test_one_frame_is_enough() -> None:
    assert len(compute_features(noise(400), 16000, FeatureConfig())) >= 1
    assert len(compute_features(noise(200), 8000, FeatureConfig())) >= 1


def test_both_extractors_agree() -> None:
    pytest.importorskip("kaldifeat", reason="no kaldifeat, which is for ENGINE=torch: make kaldifeat")
    samples = noise(16000)
    lhotse = compute_features(samples, 16000, FeatureConfig(feature_extractor="lhotse"))
    kaldifeat = compute_features(samples, 16000, FeatureConfig(feature_extractor="kaldifeat"))
    assert lhotse.shape == kaldifeat.shape
    assert (lhotse - kaldifeat).abs().max() < 2e-3


def test_missing_kaldifeat_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    feature_extractor.cache_clear()
    with pytest.raises(ValueError, match="make kaldifeat"):
        feature_extractor(FeatureConfig(feature_extractor="kaldifeat"))


NOISE = np.random.default_rng(0).standard_normal(30_000).astype(np.float32) / 10
PARTS = st.lists(st.integers(0, 4000), min_size=1, max_size=8)
RATES = st.sampled_from([8000, 11025, 16000, 16001, 22050, 44100, 48000])


def parts_of(samples: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    return np.split(samples, np.minimum(np.cumsum(sizes), len(samples)))


@settings(max_examples=20, deadline=None)
@given(sizes=PARTS, source=RATES, target=st.sampled_from([8000, 16000]), length=st.integers(1300, 30_000))
def test_features_of_parts_are_those_of_the_whole(sizes: list[int], source: int, target: int, length: int) -> None:
    config, samples = FeatureConfig(sampling_rate=target), NOISE[:length]
    live = LiveFeatures(config, source)
    found = torch.cat([*map(live.accept, parts_of(samples, sizes)), live.finish()])
    torch.testing.assert_close(found, compute_features(samples, source, config), rtol=1e-3, atol=1e-3)


def test_features_come_as_soon_as_they_are_certain_and_memory_stays_small() -> None:
    live = LiveFeatures(FeatureConfig(), 16000)
    came = [len(live.accept(NOISE[:1600])) for _ in range(50)]
    assert came[0] == 9 and set(came[1:]) == {10}  # a window ends 17.5 ms after its frame begins
    assert len(live._samples) < 1600


def test_too_short_a_recording_has_no_frame_and_bad_samples_are_refused() -> None:
    live = LiveFeatures(FeatureConfig(), 16000)
    assert len(live.accept(NOISE[:100])) == len(live.finish()) == 0
    with pytest.raises(ValueError, match="infinite"):
        live.accept(np.array([np.inf], dtype=np.float32))
    with pytest.raises(ValueError, match="one channel"):
        live.accept(np.zeros((2, 5), dtype=np.float32))


@pytest.fixture
def cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CutSet:
    monkeypatch.chdir(tmp_path)
    return CutSet.from_cuts([noise_cut(Path("audio"), f"c{i}", f"TEXT {i}", duration=0.5 + 0.1 * i) for i in range(5)])


def test_coded_cuts_have_other_features(cuts: CutSet) -> None:
    share = 0.6
    plain, coded = (
        store_features(cuts, "one", directory=Path(f"{share}"), config=FeatureConfig(), coded_share=share)
        for share in (0.0, share)
    )
    for before, after in zip(plain, coded):
        assert before.id == after.id and before.num_frames == after.num_frames
    changes = [np.abs(a.load_features() - b.load_features()).mean() for a, b in zip(plain, coded)]
    is_coded = [codec_of(cut.id, share=share) is not None for cut in cuts]
    assert any(is_coded) and not all(is_coded) and [change > 0 for change in changes] == is_coded, changes


@pytest.mark.slow
def test_processes_and_files_change_nothing(cuts: CutSet, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = list(store_features(cuts, "one", directory=FBANK, config=FeatureConfig()))
    monkeypatch.setattr(f"{MODULE}.CUTS_PER_FILE", 2)
    together = list(store_features(cuts, "many", directory=FBANK, config=FeatureConfig(), num_jobs=2))
    assert len(list(FBANK.glob("feats_many-*.lca"))) == 3
    assert [cut.id for cut in alone] == [cut.id for cut in together] == [cut.id for cut in cuts]
    for first, second in zip(alone, together):
        np.testing.assert_array_equal(first.load_features(), second.load_features())


def test_features_are_computed_with_one_thread_so_that_the_number_of_cores_changes_nothing(
    cuts: CutSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, used, make = torch.get_num_threads(), [], feature_extractor
    monkeypatch.setattr(
        f"{MODULE}.feature_extractor", lambda config: used.append(torch.get_num_threads()) or make(config)
    )
    torch.set_num_threads(2)
    try:
        store_features(cuts, "train", directory=FBANK, config=FeatureConfig())
        assert used == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_exact_features_are_what_is_computed_from_the_audio(cuts: CutSet) -> None:
    sizes = []
    for exact, error in ((False, 0.016), (True, 1e-5)):
        stored = store_features(cuts, "dev", directory=FBANK, config=FeatureConfig(), exact=exact)
        for cut in stored:
            computed = compute_features(cut.load_audio()[0], 16000, FeatureConfig()).numpy()
            assert np.abs(cut.load_features() - computed).max() < error
        sizes.append((FBANK / "feats_dev-0.lca").stat().st_size)
    assert sizes[0] < 0.5 * sizes[1] < 0.5 * sum(cut.num_frames for cut in stored) * 80 * 4


def test_the_prepared_folder_can_be_moved(cuts: CutSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_features(cuts, "train", directory=FBANK, config=FeatureConfig())
    (tmp_path / "elsewhere").mkdir()
    for folder in ("fbank", "audio"):
        (tmp_path / folder).rename(tmp_path / "elsewhere" / folder)
    moved = tmp_path / "elsewhere"
    monkeypatch.chdir("/")
    for cut in read_cuts(moved / "fbank", "train", recipe_dir=moved):
        assert cut.load_features().shape == (cut.num_frames, 80)
        assert cut.load_audio().shape == (1, cut.num_samples)


def test_speed_changes_durations_and_keeps_texts(cuts: CutSet) -> None:
    perturbed = list(combine(cuts, cuts.perturb_speed(0.9), cuts.perturb_speed(1.1)))
    stored = list(store_features(CutSet.from_cuts(perturbed), "train", directory=FBANK, config=FeatureConfig()))
    for original, slow, fast in zip(stored[:5], stored[5:10], stored[10:]):
        assert slow.duration == pytest.approx(original.duration / 0.9, abs=1e-3)
        assert fast.duration == pytest.approx(original.duration / 1.1, abs=1e-3)
        assert {cut.supervisions[0].text for cut in (slow, fast)} == {original.supervisions[0].text}
        assert fast.load_features().shape[0] < original.load_features().shape[0] < slow.load_features().shape[0]


@pytest.mark.parametrize("content", [b"", b"RIFF but no more", b"\0" * 500])
def test_a_corrupt_wav_is_named_and_leaves_no_manifest(cuts: CutSet, content: bytes) -> None:
    store_features(cuts, "train", directory=FBANK, config=FeatureConfig())
    Path("audio/c3.wav").write_bytes(content)
    with pytest.raises(ValueError, match=r"audio/c3\.wav") as error:
        store_features(cuts, "train", directory=FBANK, config=FeatureConfig())
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="prepare.sh"):
        read_cuts(FBANK, "train", recipe_dir=Path())


def test_pieces_make_the_whole_and_what_is_finished_is_not_made_again(
    cuts: CutSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{MODULE}.CUTS_PER_FILE", 2)
    options = {"directory": FBANK, "config": FeatureConfig()}
    whole = [cut.load_features() for cut in store_features(cuts, "train", **options)]
    computed, compute = [], MonoCut.compute_and_store_features
    monkeypatch.setattr(
        MonoCut, "compute_and_store_features", lambda cut, *a, **b: (computed.append(cut.id), compute(cut, *a, **b))[1]
    )
    pieces = [store_features(cuts, "dev", **options, piece=index, num_pieces=2) for index in (1, 0)]
    assert [[cut.id for cut in piece] for piece in pieces] == [["c2", "c3"], ["c0", "c1", "c4"]]
    assert not (FBANK / "cuts_dev.jsonl.gz").exists() and len(computed) == 5
    store_features(cuts, "dev", **options, piece=1, num_pieces=2)
    assert len(computed) == 5, "the piece is finished"
    os.utime("audio/c3.wav", (1, 1))
    joined = store_features(cuts, "dev", **options)
    assert computed[5:] == ["c2", "c3"], "the file of a recording that has changed is made again"
    assert all(np.array_equal(a, cut.load_features()) for a, cut in zip(whole, joined, strict=True))
    assert sorted(path.name for path in FBANK.iterdir() if "dev" in path.name) == [
        "audio_dev.jsonl",
        "cuts_dev.jsonl.gz",
        *(f"feats_dev-{number}.lca" for number in range(3)),
    ]


def test_old_features_are_removed(cuts: CutSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{MODULE}.CUTS_PER_FILE", 1)
    store_features(cuts, "train", directory=FBANK, config=FeatureConfig())
    monkeypatch.setattr(f"{MODULE}.CUTS_PER_FILE", 5)
    store_features(cuts, "train", directory=FBANK, config=FeatureConfig())
    names = ["audio_train.jsonl", "cuts_train.jsonl.gz", "feats_train-0.lca"]
    assert sorted(path.name for path in FBANK.iterdir()) == names


def test_features_of_a_split_of_a_longer_name_stay(cuts: CutSet) -> None:
    for split in ("dev-other", "dev", "dev"):
        store_features(cuts, split, directory=FBANK, config=FeatureConfig())
    assert all(len(cut.load_features()) for cut in read_cuts(FBANK, "dev-other", recipe_dir=Path()))
