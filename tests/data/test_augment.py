from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import CutSet, Fbank, RecordingSet
from lhotse.cut import MixedCut
from lhotse.features.mixer import FeatureMixer
from lhotse.utils import fastcopy
from torch import Tensor

from shared_moe_conformer.config import DataConfig, FeatureConfig, from_dict, replace_fields, to_dict
from shared_moe_conformer.data.augment import (
    DIGITAL_SILENCE,
    GAP,
    LONGEST_JOINED,
    MARGIN,
    Conditions,
    Example,
    babble_features,
    band_limited,
    log_power_weights,
    mel_centres,
    mix,
    noise_features,
    reverberated,
    spec_augment,
    time_warped,
    with_more_time_masks,
    with_most_silence,
    with_silence,
)
from shared_moe_conformer.data.batch import AsrBatch, CutDataset, CutTransforms, PlannedBatch
from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.distortions import Setting, parse_distortion
from shared_moe_conformer.data.feature_files import store_features
from shared_moe_conformer.data.features import compute_features
from tests.data.conftest import Corpus, noise_cut

LENGTHS = st.lists(st.integers(1, 900), min_size=1, max_size=9)
NONE = {"num_time_masks": 0, "num_freq_masks": 0}
ALWAYS = DataConfig(join_probability=1.0, silence_probability=1.0)


def example(number: int, length: int) -> Example:
    """Its frames hold its number, as an energy that no silence has."""
    features = torch.full((length, 4), 1.0 + number)
    return Example(features, [number, number], f"cut{number}", f"TEXT {number}")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def speech_of(features: Tensor) -> Tensor:
    return features[features[:, 0] > 0, 0]


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(0, 2**31))
def test_all_that_is_said_comes_once_in_order_with_its_tokens(lengths: list[int], seed: int) -> None:
    examples = [example(i, length) for i, length in enumerate(lengths)]
    quiet = [e._replace(features=torch.cat([e.features, torch.full((99, 4), -5.0)])) for e in examples]
    found = with_silence(quiet, ALWAYS, generator=generator(seed))
    expected = torch.cat([e.features[:, 0] for e in examples])
    assert torch.equal(torch.cat([speech_of(e.features) for e in found]), expected)
    assert [token for e in found for token in e.tokens] == [token for e in examples for token in e.tokens]
    assert "+".join(e.cut_id for e in found) == "+".join(e.cut_id for e in examples)
    assert " ".join(e.text for e in found) == " ".join(e.text for e in examples)
    for e in found:
        assert set(e.features[e.features <= 0].tolist()) <= {-5.0, torch.tensor(DIGITAL_SILENCE).item()}


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(0, 2**31))
def test_joined_utterances_are_short_enough_and_alike_in_number(lengths: list[int], seed: int) -> None:
    config = dataclasses.replace(ALWAYS, silence_probability=0.0)
    found = with_silence([example(i, n) for i, n in enumerate(lengths)], config, generator=generator(seed))
    numbers = [e.cut_id.count("+") + 1 for e in found]
    together = max(numbers)
    assert numbers[:-1] == [together] * (len(numbers) - 1)
    assert together == 1 or together in (2, 3) and together * max(lengths) <= LONGEST_JOINED or len(found) == 1
    for number, e in zip(numbers, found):
        gaps = len(e.features) - sum(lengths[int(name[3:])] for name in e.cut_id.split("+"))
        assert (number - 1) * GAP[0] <= gaps <= (number - 1) * GAP[1]


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(0, 2**31), st.booleans(), st.booleans())
def test_no_batch_is_larger_than_the_largest(lengths: list[int], seed: int, join: bool, silence: bool) -> None:
    examples = [example(i, n) for i, n in enumerate(lengths)]
    config = DataConfig(join_probability=join, silence_probability=silence)
    separate, *joined = with_most_silence(examples, config)
    found = with_silence(examples, config, generator=generator(seed))
    assert len(joined) <= join and max(len(e.tokens) for e in found) <= max(
        len(e.tokens) for e in [separate, *joined][-1]
    )
    frames = [sum(len(e.features) for e in batch) for batch in (found, separate, *joined)]
    assert frames[0] <= max(frames[1:])
    assert silence or join or frames[0] == frames[1] == sum(lengths)


def test_digital_silence_is_what_features_make_of_zeros() -> None:
    features = compute_features(np.zeros(16000, dtype=np.float32), 16000, FeatureConfig())
    torch.testing.assert_close(features, torch.full_like(features, DIGITAL_SILENCE))


def test_both_happen_as_often_as_they_should_and_silence_is_of_both_kinds() -> None:
    config = DataConfig(join_probability=0.3, silence_probability=0.6)
    draws = [with_silence([example(0, 40), example(1, 40)], config, generator=generator(seed)) for seed in range(500)]
    assert 0.24 < sum(len(found) == 1 for found in draws) / 500 < 0.36
    alone = [found[0].features for found in draws if len(found) == 2]
    extended = [features for features in alone if len(features) > 40]
    assert 0.52 < len(extended) / len(alone) < 0.68
    assert max(map(len, extended)) > 40 + 1.7 * MARGIN[1]
    digital = [bool((features[0] < 0).all()) for features in extended]
    assert 0.35 < sum(digital) / len(digital) < 0.6, "the others begin with the utterance's own frames, or with speech"


def batches(corpus: Corpus, *, epoch: int = 1, **options: object) -> list[AsrBatch]:
    config = replace_fields(corpus.config, {**NONE, **options})
    loader = AsrDataModule(config, corpus.recipe_dir, corpus.tokenizer).train_loader()
    loader.set_epoch(epoch)
    return list(loader)


def test_training_batches_are_joined_and_validation_is_not(corpus: Corpus) -> None:
    plain, joined = batches(corpus), batches(corpus, join_probability=1.0)
    for before, after in zip(plain, joined, strict=True):
        names = [name for joined_ids in after.cut_ids for name in joined_ids.split("+")]
        assert names == before.cut_ids
        assert int(after.y_lens.sum()) == int(before.y_lens.sum())
        assert corpus.tokenizer.encode(after.texts) == [
            y[:length].tolist() for y, length in zip(after.y, after.y_lens)
        ], "tokens joined are those of the joined text"
    assert sum(len(b.cut_ids) for b in joined) < sum(len(b.cut_ids) for b in plain)
    config = dataclasses.replace(corpus.config, data=dataclasses.replace(corpus.config.data, join_probability=1.0))
    loader = AsrDataModule(config, corpus.recipe_dir, corpus.tokenizer).dev_loader()
    assert not any("+" in name for batch in loader for name in batch.cut_ids)


@pytest.mark.parametrize("name", ["join_probability", "silence_probability"])
def test_probabilities_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 1.5: give a number from 0 to 1"):
        DataConfig(**{name: 1.5})


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
            assert 0.0099 < added < 0.101 * (1 + length / 70), "10 to 20 dB below the speech, each of the pieces"
    again, later = train_batches(with_noise, noise_probability=1.0), train_batches(with_noise, 2, noise_probability=1.0)
    first = train_batches(with_noise, noise_probability=1.0)
    assert all(torch.equal(one.x, other.x) for one, other in zip(first, again))
    shapes = [(one.x, other.x) for one, other in zip(first, later) if one.x.shape == other.x.shape]
    assert not any(torch.equal(one, other) for one, other in shapes)


def test_some_utterances_get_noise(with_noise: Corpus) -> None:
    config = dataclasses.replace(with_noise.config.data, noise_probability=0.3, noise_snr=(10.0, 10.0))
    transforms = CutTransforms.of(config, FeatureConfig(), with_noise.recipe_dir)
    assert transforms is not None
    speech = with_noise.cuts("train")
    changed = [transforms(speech, seed=seed) for seed in range(20)]
    assert all([cut.id for cut in cuts] == [cut.id for cut in speech] for cuts in changed)
    mixed = [cut for cuts in changed for cut in cuts if isinstance(cut, MixedCut)]
    assert 0.2 < len(mixed) / (20 * len(speech)) < 0.4
    assert all([s.text for s in cut.supervisions] != ["NOT SAID"] and len(cut.supervisions) == 1 for cut in mixed)


@pytest.fixture(scope="module")
def spoken(with_noise: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The same cuts and noises without features, and a room's response."""
    folder = tmp_path_factory.mktemp("audio")
    for split in ("train", "musan"):
        CutSet(cut.drop_features() for cut in with_noise.cuts(split)).to_file(folder / f"cuts_{split}.jsonl.gz")
    room = noise_cut(folder, "room", "", duration=0.2, sampling_rate=16000).recording
    RecordingSet.from_recordings([room]).to_file(folder / "rooms.jsonl.gz")
    options = {"train_cuts": (f"{folder}/cuts_train.jsonl.gz",), "noise_manifest": f"{folder}/cuts_musan.jsonl.gz"}
    return with_noise._replace(config=replace_fields(with_noise.config, {**options, **NONE}))


def streamed(corpus: Corpus, **options: object) -> dict[str, Tensor]:
    """The features of an epoch's utterances, by id."""
    data = AsrDataModule(replace_fields(corpus.config, options), corpus.recipe_dir, corpus.tokenizer)
    batches = list(data.stream_loader(data.survey()))
    return {name: x[:n] for batch in batches for name, x, n in zip(batch.cut_ids, batch.x, batch.x_lens.tolist())}


@pytest.mark.parametrize(
    "options",
    [
        {"noise_probability": 1.0},
        {"speed_factors": (0.9, 1.1)},
        {"room_manifest": "rooms.jsonl.gz", "room_probability": 1.0},
        {"codec_probability": 1.0, "codecs": ("opus", "gsm")},
        {
            "noise_probability": 1.0,
            "codec_probability": 1.0,
            "speed_factors": (0.9,),
            "room_manifest": "rooms.jsonl.gz",
        },
    ],
    ids=["noise", "speed", "room", "codec", "all"],
)
def test_audio_is_changed_before_its_features_are_computed(spoken: Corpus, options: dict[str, object]) -> None:
    if "room_manifest" in options:
        options = {**options, "room_manifest": str(Path(spoken.config.data.noise_manifest).parent / "rooms.jsonl.gz")}
    plain = streamed(spoken, noise_probability=0.0)
    changed, again = (streamed(spoken, **{"noise_probability": 0.0, **options}) for _ in range(2))
    assert plain.keys() == changed.keys()
    assert all(torch.equal(changed[name], again[name]) for name in plain), "what is random follows from the seed"
    same = [
        name for name in plain if len(plain[name]) == len(changed[name]) and torch.equal(plain[name], changed[name])
    ]
    assert len(same) < (0.7 if "speed_factors" in options else 0.1) * len(plain)
    lengths = [len(changed[name]) / len(plain[name]) for name in plain]
    assert (max(lengths) > 1.08) == ("speed_factors" in options) and max(lengths) < 1.13


def test_noises_must_be_of_the_kind_that_the_cuts_need(spoken: Corpus, with_noise: Corpus) -> None:
    cuts = list(with_noise.cuts("train"))[:3]
    config = dataclasses.replace(spoken.config.data, noise_probability=1.0)
    transforms = CutTransforms.of(config, FeatureConfig(), spoken.recipe_dir)
    assert transforms is not None
    with pytest.raises(ValueError, match="has no features, which cut train-0 needs: give the other --noise-manifest"):
        transforms(cuts, seed=0)


def test_validation_is_clean(corpus: Corpus, with_noise: Corpus) -> None:
    loaders = [AsrDataModule(c.config, c.recipe_dir, c.tokenizer).dev_loader() for c in (corpus, with_noise)]
    assert all(torch.equal(one.x, other.x) for one, other in zip(*loaders))


def test_noises_that_cannot_be_used_are_refused(with_noise: Corpus, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no cuts in .*nothing.jsonl.gz"):
        train_batches(with_noise, noise_manifest="data/nothing.jsonl.gz")
    bare = CutSet.from_cuts(fastcopy(cut, features=None, recording=None) for cut in with_noise.cuts("musan"))
    bare.to_file(tmp_path / "bare.jsonl.gz")
    with pytest.raises(ValueError, match="2 noises .* cannot be used, first .*neither features nor a recording"):
        train_batches(with_noise, noise_manifest=str(tmp_path / "bare.jsonl.gz"))


@pytest.mark.parametrize(
    ("options", "message"), [({"noise_probability": 1.5}, "from 0 to 1"), ({"noise_snr": (20.0, 10.0)}, "the lowest")]
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**options)


def masked(num_frames: int, config: DataConfig, seed: int = 0) -> Tensor:
    """Where SpecAugment hides something, (T, F)."""
    features = torch.rand(num_frames, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = spec_augment(features, config, generator=torch.Generator().manual_seed(seed))
    changed = result != features
    assert torch.equal(result[changed], features.mean(dim=0).expand_as(features)[changed])
    return changed


@settings(max_examples=50, deadline=None)
@given(
    num_frames=st.integers(2, 300),
    count=st.integers(0, 4),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 2**40),
)
def test_time_masks_hide_whole_frames_within_their_share(
    num_frames: int, count: int, fraction: float, seed: int
) -> None:
    config = DataConfig(num_time_masks=count, max_time_mask_fraction=fraction, num_freq_masks=0)
    hidden = masked(num_frames, config, seed)
    assert torch.equal(hidden.any(1), hidden.all(1))
    assert hidden.all(1).sum() <= fraction * num_frames


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 3), widest=st.integers(0, 100), seed=st.integers(0, 2**40))
def test_frequency_masks_hide_whole_bins(count: int, widest: int, seed: int) -> None:
    config = DataConfig(num_freq_masks=count, max_freq_mask_bins=widest, num_time_masks=0)
    hidden = masked(50, config, seed)
    assert torch.equal(hidden.any(0), hidden.all(0))
    assert hidden.all(0).sum() <= min(80, count * widest)


def test_masks_reach_every_place_and_width() -> None:
    config = DataConfig(num_time_masks=1, max_time_mask_fraction=0.5, num_freq_masks=1, max_freq_mask_bins=20)
    many = torch.stack([masked(20, config, seed) for seed in range(600)])
    frames, bins = many.all(2), many.all(1)
    assert set(frames.sum(1).tolist()) == set(range(11))
    assert frames.any(0).all() and bins.any(0).all()
    assert {0, 20} <= set(bins.sum(1).tolist())


def test_the_input_stays_as_it_is_and_the_seed_decides() -> None:
    config = DataConfig()
    features = torch.randn(200, 80)
    before = features.clone()
    first, same, other = (
        spec_augment(features, config, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(features, before)
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_no_masks_change_nothing() -> None:
    features = torch.randn(100, 80)
    config = DataConfig(num_time_masks=0, num_freq_masks=0)
    assert torch.equal(spec_augment(features, config, generator=torch.Generator()), features)


@settings(max_examples=60, deadline=None)
@given(num_frames=st.integers(1, 300), most=st.integers(0, 100), seed=st.integers(0, 2**40))
def test_a_warp_moves_frames_by_no_more_than_asked_and_keeps_their_order(num_frames: int, most: int, seed: int) -> None:
    frames = torch.arange(num_frames, dtype=torch.float64)
    warped = time_warped(frames[:, None].expand(-1, 3), most, generator=generator(seed))
    assert warped.shape == (num_frames, 3) and torch.equal(warped[:, 0], warped[:, 2])
    heard = warped[:, 0]
    assert (heard[0], heard[-1]) == (0, num_frames - 1)
    assert (heard - frames).abs().max() <= min(most, (num_frames - 1) // 4) + 1e-9
    assert all(0.5 < step <= 2 for step in heard.diff().tolist())


def test_warps_go_both_ways_at_many_places_and_the_seed_decides() -> None:
    frames = torch.arange(400.0)[:, None]
    moves = torch.stack([time_warped(frames, 80, generator=generator(seed)) - frames for seed in range(200)])[:, :, 0]
    assert moves.max() > 70 and moves.min() < -70
    farthest = moves.abs().argmax(dim=1)
    assert farthest.min() < 170 and farthest.max() > 230
    assert torch.equal(moves[1], (time_warped(frames, 80, generator=generator(1)) - frames)[:, 0])
    assert time_warped(frames, 0, generator=generator()) is frames


def test_copies_and_what_the_teacher_hears_are_warped_alike(corpus: Corpus) -> None:
    cuts = corpus.cuts("train")[-3:]
    plain, warped = (
        CutDataset(corpus.tokenizer, DataConfig(**NONE, time_warp_frames=most), num_copies=2, keep_clean=True)[
            PlannedBatch(cuts, seed=1)
        ]
        for most in (0, 40)
    )
    assert warped.clean is not None and torch.equal(warped.x, warped.clean)
    assert torch.equal(warped.x[:3], warped.x[3:]) and torch.equal(warped.x_lens, plain.x_lens)
    assert all(not torch.equal(one, other) for one, other in zip(plain.x, warped.x))
    assert torch.equal(warped.y, plain.y) and warped.texts == plain.texts


def test_more_time_masks_cover_more_and_at_most_everything() -> None:
    config = DataConfig(num_time_masks=2, max_time_mask_fraction=0.15)
    more = with_more_time_masks(config, 2.5)
    assert (more.num_time_masks, more.max_time_mask_fraction) == (5, 0.375)
    assert with_more_time_masks(config, 9).max_time_mask_fraction == 1.0


RATE, FEATURES = 16000, FeatureConfig()


def voice(seconds: float = 6.0) -> np.ndarray:
    """Syllables of a voice with harmonics and breath, as loud as speech, with pauses between."""
    rng = np.random.default_rng(3)
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * time)) / RATE
    harmonics = sum(np.sin(k * pitch) / k**1.5 for k in range(1, 40))
    syllables = np.clip(np.sin(2 * np.pi * 2.2 * time), 0, None) ** 2
    breath = 0.02 * rng.standard_normal(len(time)) * np.roll(syllables, 2000)
    return (0.1 * syllables * harmonics + breath + 1e-4 * rng.standard_normal(len(time))).astype(np.float32)


def features_of(samples: np.ndarray) -> Tensor:
    return compute_features(samples.astype(np.float32), RATE, FEATURES)


def distorted(text: str, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return parse_distortion(text)(voice(), Setting(RATE, rng, lambda: voice()[int(rng.integers(RATE)) :]))


@pytest.mark.parametrize("kind", ["white", "pink", "hum"])
@pytest.mark.parametrize("snr", [0.0, 10.0, 20.0])
def test_noise_on_features_is_nearly_noise_on_samples(kind: str, snr: float) -> None:
    true, clean = features_of(distorted(f"{kind}={snr}")), features_of(voice())
    noise = noise_features(kind, FEATURES)[1000 : 1000 + len(clean)]
    made = mix(clean, noise, snr=snr, log_weights=log_power_weights(FEATURES))
    difference, change = made - true, (true - clean).abs().mean()
    assert abs(float(difference.mean())) < 0.25, "one decibel"
    assert difference.mean(dim=0).abs().max() < (1.5 if kind == "hum" else 0.6), "in each bin; hum is of 50 or of 60 Hz"
    assert difference.abs().mean() < 0.5 * change


def test_power_is_that_of_the_samples() -> None:
    weights = log_power_weights(FEATURES)
    powers, energies = [], []
    for text in ("gain=0", "gain=-12", "white=0", "pink=0", "hum=0", "band=1000"):
        samples = distorted(text)
        powers.append(math.log(np.square(samples, dtype=np.float64).mean()))
        energies.append(float(torch.logsumexp((features_of(samples) + weights).flatten(), dim=0)))
    differences = np.array(energies) - powers
    assert np.ptp(differences) < 0.25, "one decibel"


@pytest.mark.parametrize("time", [0.2, 0.6])
def test_a_room_on_features_is_nearly_a_room_on_samples(time: float) -> None:
    true, clean = features_of(distorted(f"reverb={time}")), features_of(voice())
    difference = reverberated(clean, time) - true
    assert abs(float(difference.mean())) < 0.5
    assert difference.abs().mean() < 0.6 * (clean - true).abs().mean()


def test_a_room_keeps_the_energy_and_hears_nothing_before_the_sound() -> None:
    click = torch.full((200, 80), -30.0)
    click[50] = 3.0
    heard = reverberated(click, 0.5)
    assert heard.exp().sum().item() == pytest.approx(click.exp().sum().item(), rel=1e-4)
    assert (heard[:50] < click[:50] + 1e-4).all() and heard[50:90].diff(dim=0).max() < 0
    assert (heard[52] - heard[77]).mean().item() == pytest.approx(math.log(1e3), abs=0.05), "30 dB in half of the time"


def test_a_band_on_features_is_that_of_samples() -> None:
    true, made = features_of(distorted("band=4000")), band_limited(features_of(voice()), 4000, FEATURES)
    below, above = mel_centres(FEATURES) < 3400, mel_centres(FEATURES) > 4300
    assert (true - made)[:, below].abs().mean() < 0.05
    assert (made[:, above] == DIGITAL_SILENCE).all() and true[:, above].mean() < DIGITAL_SILENCE + 1.5


def test_filters_are_centred_where_tones_are_loudest() -> None:
    for index in (20, 50, 79):
        frequency = float(mel_centres(FEATURES)[index])
        tone = np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE)
        assert features_of(tone)[50].argmax() == index


def test_babble_is_as_loud_in_every_part_and_repeatable(corpus: Corpus) -> None:
    first, again = (babble_features(corpus.cuts("train"), FEATURES) for _ in range(2))
    assert torch.equal(first, again) and first.shape == (6000, 80)
    levels = torch.logsumexp(first.reshape(10, -1), dim=1)
    assert levels.max() - levels.min() < 1.0


def conditions(corpus: Corpus, **options: Any) -> Conditions | None:
    return Conditions.of(dataclasses.replace(corpus.config.data, **options), FEATURES, lambda: corpus.cuts("train"))


def test_nothing_asked_for_changes_nothing(corpus: Corpus) -> None:
    assert conditions(corpus) is None
    example = Example(features_of(voice()), [3], "a", "ONE")
    unlikely = conditions(corpus, gain_probability=1e-9)
    assert unlikely is not None and unlikely(example, generator()).features is example.features


@pytest.mark.parametrize(
    "options",
    [
        {"gain_probability": 1.0},
        {"made_noise_probability": 1.0, "made_noises": ("babble",)},
        {"made_noise_probability": 1.0, "made_noises": ("white", "pink", "hum")},
        {"reverb_probability": 1.0},
        {"band_limit_probability": 1.0},
        {"noise_alone_probability": 1.0},
    ],
)
def test_conditions_change_features_by_the_seed_and_never_the_length(corpus: Corpus, options: dict[str, Any]) -> None:
    made = conditions(corpus, **options)
    assert made is not None
    example = Example(features_of(voice()), [3], "a", "ONE")
    before = example.features.clone()
    found, same, other = (made(example, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(example.features, before) and found.features.shape == before.shape
    assert torch.equal(found.features, same.features) and not torch.equal(found.features, other.features)
    assert found.features.min() >= DIGITAL_SILENCE - 1e-5 and torch.isfinite(found.features).all()
    is_speech = "noise_alone_probability" not in options
    assert (found.tokens, found.text) == (([3], "ONE") if is_speech else ([], ""))


def test_a_gain_is_that_of_the_samples(corpus: Corpus) -> None:
    made = conditions(corpus, gain_probability=1.0, gain_range=(-20.0, -20.0))
    assert made is not None
    found = made(Example(features_of(voice()), [], "", ""), generator()).features
    torch.testing.assert_close(found, features_of(distorted("gain=-20")), atol=0.1, rtol=0)


def test_training_batches_follow_from_the_seed_and_hold_noise_without_text(corpus: Corpus) -> None:
    plain = batches(corpus)
    options = {"noise_alone_probability": 0.4, "gain_probability": 0.5}
    first, same = (batches(corpus, **options) for _ in range(2))
    num_empty = 0
    for one, other, clean in zip(first, same, plain, strict=True):
        assert torch.equal(one.x, other.x) and one.x.shape == clean.x.shape and one.cut_ids == clean.cut_ids
        for text, before, length in zip(one.texts, clean.texts, one.y_lens.tolist()):
            assert (text, length) == ("", 0) or text == before and length > 0
        num_empty += one.texts.count("")
        assert any(one.texts)
    assert 3 <= num_empty <= 15
    module = AsrDataModule(replace_fields(corpus.config, options), corpus.recipe_dir, corpus.tokenizer)
    assert all(text for batch in module.dev_loader() for text in batch.texts), "validation is clean"


def same_features(some: list[AsrBatch], others: list[AsrBatch]) -> list[bool]:
    return [torch.equal(one.x, other.x) for one, other in zip(some, others, strict=True)]


def test_the_first_epochs_may_be_without_conditions(corpus: Corpus) -> None:
    late = {"gain_probability": 1.0, "conditions_after": 1}
    assert all(same_features(batches(corpus, **late), batches(corpus)))
    assert not any(same_features(batches(corpus, epoch=2, **late), batches(corpus, epoch=2)))


def test_a_clean_teacher_hears_utterances_without_masks_and_conditions(corpus: Corpus) -> None:
    """Where noise took an utterance's place, the teacher hears the noise, since the text is empty."""
    options = {"gain_probability": 1.0, "noise_alone_probability": 0.4, "num_time_masks": 2}
    untaught = batches(corpus, clean_teacher=True, **options)
    assert all(batch.clean is None for batch in untaught), "nobody would hear it"
    num_noises = 0
    for batch, plain, masked in zip(
        batches(corpus, clean_teacher=True, teacher="exp/full", **options),
        batches(corpus, num_time_masks=0, num_freq_masks=0),
        untaught,
        strict=True,
    ):
        assert batch.clean is not None and torch.equal(batch.x, masked.x), "the model hears the same"
        for clean, own, heard, text in zip(batch.clean, plain.x, batch.x, batch.texts):
            assert torch.equal(clean, own) == bool(text) and not torch.equal(clean, heard)
            num_noises += not text
    assert num_noises > 0


def test_older_configs_ask_for_none_of_this() -> None:
    old = to_dict(DataConfig())
    for name in [f.name for f in dataclasses.fields(DataConfig) if f.metadata.get("may_be_missing")]:
        del old[name]
    assert from_dict(DataConfig, old) == DataConfig()
    assert not any(
        v
        for name, v in to_dict(DataConfig()).items()
        if "_probability" in name and name not in ("noise_probability", "room_probability")
    )
