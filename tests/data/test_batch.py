from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from lhotse import CutSet
from lhotse.utils import fastcopy

from shared_moe_conformer.config import FeatureConfig, replace_fields
from shared_moe_conformer.data.augment import Example, babble_features
from shared_moe_conformer.data.batch import AsrBatch, DistortedDataset, PlannedBatch, collate
from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.distortions import parse_distortion
from shared_moe_conformer.data.feature_files import store_features
from tests.data.conftest import Corpus, noise_cut


def test_utterances_are_padded_behind() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(5, 4), torch.randn(3, 4)
    batch = collate([Example(first, [3], "a", "ONE"), Example(second, [6, 7, 8], "b", "THREE")])
    assert batch.x.shape == (2, 5, 4)
    assert batch.x_lens.tolist() == [5, 3] and batch.x_lens.dtype == torch.int64
    assert torch.equal(batch.x[0], first) and torch.equal(batch.x[1, :3], second)
    assert (batch.x[1, 3:] < -20).all(), "padding is as quiet as a logarithm can be"
    assert batch.y.tolist() == [[3, 0, 0], [6, 7, 8]] and batch.y.dtype == torch.int64
    assert batch.y_lens.tolist() == [1, 3]


def test_an_empty_transcript_has_no_tokens() -> None:
    batch = collate([Example(torch.randn(5, 4), [], "a", "")])
    assert batch.y.shape == (1, 0) and batch.y.dtype == torch.int64
    assert batch.y_lens.tolist() == [0]


def batches(corpus: Corpus, *texts: str, **options: object) -> dict[str, list[AsrBatch]]:
    module = AsrDataModule(replace_fields(corpus.config, options), corpus.recipe_dir, corpus.tokenizer)
    return {name: list(loader) for name, loader in module.distorted_loaders(list(map(parse_distortion, texts))).items()}


def by_id(found: list[AsrBatch]) -> dict[str, torch.Tensor]:
    return {
        cut_id: x[:length]
        for batch in found
        for cut_id, x, length in zip(batch.cut_ids, batch.x, batch.x_lens.tolist())
    }


def test_features_are_those_of_the_distorted_recording(corpus: Corpus) -> None:
    found = batches(corpus, "gain=0", "gain=-10", test_splits=("test", "dev"))
    assert list(found) == ["test-gain=0", "test-gain=-10", "dev-gain=0", "dev-gain=-10"]
    clean, quiet = by_id(found["test-gain=0"]), by_id(found["test-gain=-10"])
    for cut in corpus.cuts("test"):
        torch.testing.assert_close(clean[cut.id], torch.from_numpy(cut.load_features()), atol=0.05, rtol=0)
        loud = clean[cut.id] > -10  # further down is the floor of float32
        assert (clean[cut.id] - quiet[cut.id])[loud].mean() == pytest.approx(math.log(10), abs=1e-3)


def test_what_is_random_depends_on_the_cut_alone(corpus: Corpus) -> None:
    together, alone = (batches(corpus, "babble=5+white=10", max_duration=d) for d in (8.0, 0.1))
    one, other = (by_id(found["test-babble=5+white=10"]) for found in (together, alone))
    assert one.keys() == other.keys() and len(alone["test-babble=5+white=10"]) == 4
    assert all(torch.equal(one[cut_id], other[cut_id]) for cut_id in one)


def test_a_recording_that_is_gone_is_named_by_its_cut(corpus: Corpus) -> None:
    cuts = corpus.cuts("test")
    cuts[0].recording.sources[0].source = "/none/no.wav"
    for distortion in ("white=10", "babble=10"):
        dataset = DistortedDataset(corpus.config, corpus.tokenizer, cuts, parse_distortion(distortion))
        with pytest.raises(ValueError, match="^cut test-0 cannot be read: "):
            dataset[PlannedBatch(cuts[:2], None)]
    with pytest.raises(ValueError, match="^cut test-0 cannot be read: "):
        babble_features([cuts[0].drop_features()], corpus.config.features)


def test_cuts_that_cannot_be_distorted_are_named(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        cuts = [noise_cut(Path("audio"), "only", "ALPHA ECHO", duration=1.0)]
        (done,) = store_features(
            CutSet.from_cuts(cuts), "test", directory=Path("data/fbank"), config=FeatureConfig()
        ).to_eager()
    moved = corpus._replace(recipe_dir=tmp_path)
    assert list(batches(moved, "white=3")) == ["test-white=3"]
    with pytest.raises(ValueError, match="--distort babble=3: babble is made of the set's other cuts"):
        batches(moved, "babble=3")
    CutSet.from_cuts([fastcopy(done, recording=None)]).to_file(tmp_path / "data/fbank/cuts_test.jsonl.gz")
    with pytest.raises(ValueError, match="needs recordings: 1 cuts have features alone, .'only'. first"):
        batches(moved, "white=3")


def test_a_band_that_all_cuts_are_within_is_told(corpus: Corpus, caplog: pytest.LogCaptureFixture) -> None:
    batches(corpus, "band=8000", "band=3000")
    assert [record.getMessage() for record in caplog.records] == [
        "--distort band=8000 changes nothing: at 16000 Hz nothing is above 8000 Hz"
    ]
