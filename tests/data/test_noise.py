from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet, Fbank
from lhotse.features.mixer import FeatureMixer
from lhotse.utils import fastcopy

from shared_moe_conformer.config import DataConfig, FeatureConfig, replace_fields
from shared_moe_conformer.data.batch import AsrBatch
from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.feature_store import store_features
from shared_moe_conformer.data.features import compute_features
from shared_moe_conformer.data.noise import NoiseMixer, mix
from tests.data.conftest import Corpus, noise_cut


@pytest.fixture(scope="module")
def with_noise(corpus: Corpus) -> Corpus:
    """The corpus beside noises of 0.7 and 9 s, which carry texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(corpus.recipe_dir)
        cuts = [noise_cut(Path("noise"), f"noise-{s}", "NOT SAID", duration=s) for s in (0.7, 9.0)]
        store_features(CutSet.from_cuts(cuts), "musan", directory=Path("data/fbank"), config=FeatureConfig())
    data = dataclasses.replace(corpus.config.data, noise_manifest="data/fbank/cuts_musan.jsonl.gz")
    return corpus._replace(config=dataclasses.replace(corpus.config, data=data))


def train_batches(corpus: Corpus, epoch: int = 1, **data: object) -> list[AsrBatch]:
    loader = AsrDataModule(replace_fields(corpus.config, data), corpus.recipe_dir, corpus.tokenizer).train_loader()
    loader.set_epoch(epoch)
    return list(loader)


@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
def test_a_mix_is_lhotses(snr: float) -> None:
    speech, noise = torch.randn(30, 80) * 3 - 8, torch.randn(30, 80) * 2 - 3
    reference = FeatureMixer(Fbank(), speech.numpy(), frame_shift=0.01)
    reference.add_to_mix(noise.numpy(), sampling_rate=16000, snr=snr)
    torch.testing.assert_close(mix(speech, noise, snr=snr), torch.from_numpy(reference.mixed_feats))


def test_a_mix_of_features_is_nearly_that_of_the_signals() -> None:
    rng = np.random.default_rng(0)
    signals = [rng.normal(scale=scale, size=32000).astype(np.float32) for scale in (0.1, 0.1)]
    speech, noise, both = (compute_features(x, 16000, FeatureConfig()) for x in (*signals, signals[0] + signals[1]))
    mixed = mix(speech, noise, snr=float(10 * (speech.exp().sum() / noise.exp().sum()).log10()))
    assert abs(float((mixed - both).mean())) < 0.2  # of logarithms: the mean of a sum varies less
    assert abs(float((speech - both).mean() + math.log(2))) < 0.1
    assert (mixed - both).abs().mean() < 0.6 * (speech - both).abs().mean()


def test_nothing_changes_where_it_is_off(corpus: Corpus, with_noise: Corpus) -> None:
    plain = train_batches(corpus)
    silent = train_batches(with_noise, noise_probability=0.0)
    assert [b.cut_ids for b in plain] == [b.cut_ids for b in silent]
    masks = {"num_time_masks": 0, "num_freq_masks": 0}
    for one, other in zip(train_batches(corpus, **masks), train_batches(with_noise, noise_probability=0.0, **masks)):
        assert torch.equal(one.x, other.x)


def test_features_get_noise_and_texts_do_not(corpus: Corpus, with_noise: Corpus) -> None:
    masks = {"num_time_masks": 0, "num_freq_masks": 0}
    plain = train_batches(corpus, **masks)
    noisy = train_batches(with_noise, noise_probability=1.0, **masks)
    for one, other in zip(plain, noisy):
        assert one.texts == other.texts and torch.equal(one.y, other.y) and torch.equal(one.x_lens, other.x_lens)
        for clean, mixed, length in zip(one.x, other.x, one.x_lens):
            added = mixed[:length].double().exp().sum() / clean[:length].double().exp().sum() - 1
            assert 0.0099 < added < 0.101, "10 to 20 dB below the speech"
    again, later = train_batches(with_noise, noise_probability=1.0), train_batches(with_noise, 2, noise_probability=1.0)
    first = train_batches(with_noise, noise_probability=1.0)
    assert all(torch.equal(one.x, other.x) for one, other in zip(first, again))
    shapes = [(one.x, other.x) for one, other in zip(first, later) if one.x.shape == other.x.shape]
    assert not any(torch.equal(one, other) for one, other in shapes)


def test_some_utterances_get_noise(with_noise: Corpus) -> None:
    cuts = CutSet.from_cuts(with_noise.cuts("musan"))
    mixer = NoiseMixer(cuts, DataConfig(noise_probability=0.3, noise_snr=(10.0, 10.0)))
    features, generator = torch.zeros(20, 80), torch.Generator().manual_seed(0)
    mixed = [mixer(features, generator=generator) for _ in range(300)]
    share = sum(not torch.equal(x, features) for x in mixed) / 300
    assert 0.22 < share < 0.38
    assert all(x.shape == features.shape for x in mixed)
    assert len({x.numpy().tobytes() for x in mixed}) > 30, "from anywhere in the two noises"


def test_validation_is_clean(corpus: Corpus, with_noise: Corpus) -> None:
    loaders = [AsrDataModule(c.config, c.recipe_dir, c.tokenizer).dev_loader() for c in (corpus, with_noise)]
    assert all(torch.equal(one.x, other.x) for one, other in zip(*loaders))


def test_noises_that_cannot_be_used_are_refused(with_noise: Corpus, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no cuts in .*nothing.jsonl.gz"):
        train_batches(with_noise, noise_manifest="data/nothing.jsonl.gz")
    bare = CutSet.from_cuts(fastcopy(cut, features=None) for cut in with_noise.cuts("musan"))
    bare.to_file(tmp_path / "bare.jsonl.gz")
    with pytest.raises(ValueError, match="2 noises .* have no features"):
        train_batches(with_noise, noise_manifest=str(tmp_path / "bare.jsonl.gz"))


@pytest.mark.parametrize(
    ("options", "message"), [({"noise_probability": 1.5}, "from 0 to 1"), ({"noise_snr": (20.0, 10.0)}, "the lowest")]
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**options)
