from __future__ import annotations

import functools
import itertools
import logging
import math
import pickle
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.utils import fastcopy

from shared_moe_conformer.config import FeatureConfig, replace_fields
from shared_moe_conformer.data.batch import AsrBatch, CutDataset
from shared_moe_conformer.data.checks import check_utterance
from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.feature_files import store_features
from shared_moe_conformer.data.loaders import WHOLE, Part, largest_batches
from shared_moe_conformer.data.shar import write_shard
from shared_moe_conformer.data.sources import open_sources, survey
from shared_moe_conformer.data.streamed import EndlessStream, EpochStream, Mixture
from tests.data.conftest import Corpus

TRAIN = "data/fbank/cuts_train.jsonl.gz"
SPEECH = Path(__file__).resolve().parents[2] / "zoo/an4-base/test.wav"
Stream = EpochStream | EndlessStream


@pytest.fixture(scope="module")
def shar(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training cuts' audio in twelve shards."""
    folder, cuts = tmp_path_factory.mktemp("shar"), corpus.cuts("train")
    for number in range(12):
        write_shard(cuts[2 * number :][:2], folder, number, {"recording": "flac"})
    return folder


def loader(corpus: Corpus, *sources: object, part: Part = WHOLE, **options: Any) -> Stream:
    config = replace_fields(corpus.config, {"train_cuts": tuple(map(str, sources)), **options})
    data = AsrDataModule(config, corpus.recipe_dir, corpus.tokenizer, part=part)
    return data.stream_loader(data.survey())


def ids(batches: list[AsrBatch]) -> list[str]:
    return [cut_id for batch in batches for cut_id in batch.cut_ids]


def own_batches(loader: Stream) -> list[AsrBatch]:
    """A process's batches of an epoch, without those that it is given again."""
    return list(itertools.takewhile(lambda batch: not loader.has_ended, loader))


def assert_equal(first: list[AsrBatch], second: list[AsrBatch]) -> None:
    assert [batch.cut_ids for batch in first] == [batch.cut_ids for batch in second]
    assert all(torch.equal(a, b) for one, other in zip(first, second) for a, b in zip(one[:4], other[:4]))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", ["manifest", "shar"])
def test_two_processes_have_every_cut_once_an_epoch(corpus: Corpus, shar: Path, kind: str, num_workers: int) -> None:
    source, expected = TRAIN if kind == "manifest" else shar, sorted(cut.id for cut in corpus.cuts("train"))
    given = []
    for rank in range(2):
        own = loader(corpus, source, part=Part(rank, 2), num_workers=num_workers)
        assert own.has_ended is False
        given.append(ids(own_batches(own)))
    assert all(given) and sorted(given[0] + given[1]) == expected


def test_a_process_at_its_end_begins_again(corpus: Corpus, shar: Path) -> None:
    own = loader(corpus, shar, part=Part(1, 2))
    assert isinstance(own, EpochStream)
    first = own_batches(own)
    own.set_epoch(1)
    again = list(itertools.islice(own, 2 * len(first)))
    assert ids(again) == 2 * ids(first) and own.has_ended is True


def test_epochs_differ_and_can_be_repeated(corpus: Corpus, shar: Path) -> None:
    first, again = loader(corpus, shar), loader(corpus, shar)
    epochs = [list(first)]
    first.set_epoch(2)
    epochs.append(list(first))
    assert sorted(ids(epochs[0])) == sorted(ids(epochs[1])) and ids(epochs[0]) != ids(epochs[1])
    assert first.has_ended is None and len(epochs[0]) == pytest.approx(len(first), rel=0.25)
    again.set_epoch(2)
    assert_equal(epochs[1], list(again))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("taken", [1, 4])
def test_an_epoch_goes_on_with_the_same_bits(corpus: Corpus, shar: Path, taken: int, num_workers: int) -> None:
    expected = list(loader(corpus, shar, num_workers=num_workers))
    stopped, resumed = (loader(corpus, shar, num_workers=num_workers) for _ in range(2))
    begun = list(itertools.islice(stopped, taken))
    resumed.load_state_dict(stopped.state_dict())
    assert_equal(begun + list(resumed), expected)
    with pytest.raises(ValueError, match="epoch 1 has other batches .*--num-workers"):
        loader(corpus, shar, num_workers=3).load_state_dict(stopped.state_dict())


def test_batches_that_are_skipped_are_not_loaded(corpus: Corpus, shar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped, resumed = loader(corpus, shar), loader(corpus, shar)
    begun = list(itertools.islice(stopped, 3))
    resumed.load_state_dict(stopped.state_dict())
    loaded: list[str] = []
    compute = CutDataset.features_of
    monkeypatch.setattr(CutDataset, "features_of", lambda self, cut: (loaded.append(cut.id), compute(self, cut))[1])
    list(resumed)
    assert loaded and not set(loaded) & set(ids(begun))


def test_an_endless_stream_goes_on_from_epoch_to_epoch(corpus: Corpus, shar: Path) -> None:
    one, other = (loader(corpus, shar, steps_per_epoch=5, accumulate_batches=n) for n in (2, 1))
    assert isinstance(one, EndlessStream) and (len(one), len(other)) == (10, 5)
    first = list(one)
    parts = []
    for epoch in (1, 2):
        other.set_epoch(epoch)
        parts += list(other)
    assert_equal(first, parts)
    assert len(first) == 10 and set(ids(first)) <= {cut.id for cut in corpus.cuts("train")}


def test_conditions_begin_in_the_middle_of_an_endless_stream(corpus: Corpus, shar: Path) -> None:
    late = {"gain_probability": 1.0, "gain_range": (-30.0, -30.0), "conditions_after": 1}
    stream = loader(corpus, shar, steps_per_epoch=3, **late)
    levels = []
    for epoch in (1, 2):
        stream.set_epoch(epoch)
        levels.append(max(float(batch.x.max()) for batch in stream))
    assert levels[1] < levels[0] - 5  # 30 dB are 6.9 nats


def test_an_endless_stream_resumes_at_once_in_a_new_order(
    corpus: Corpus, shar: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped, resumed = (loader(corpus, shar, steps_per_epoch=6) for _ in range(2))
    whole = list(stopped)
    stopped.set_epoch(1)
    next(iter(stopped))
    resumed.load_state_dict(stopped.state_dict())
    with caplog.at_level(logging.INFO, "shared_moe_conformer"):
        rest = list(resumed)
    assert len(rest) == 5 and ids(rest) != ids(whole[1:])
    (record,) = caplog.records
    assert "shards and cuts come in a new order from here on (seed " in record.message


def test_mixed_sources_and_weights(corpus: Corpus, shar: Path) -> None:
    dev = "data/fbank/cuts_dev.jsonl.gz"
    drawn = ids(list(loader(corpus, f"{shar}@1", f"{dev}@4", steps_per_epoch=60, buffer_cuts=30)))
    assert 0.7 < sum(cut_id.startswith("dev") for cut_id in drawn) / len(drawn) < 0.9
    assert len(ids(list(loader(corpus, shar, dev)))) == 28
    with pytest.raises(ValueError, match=f"{dev} has a weight: give --num-steps too"):
        loader(corpus, f"{dev}@4")


def test_real_speech_has_the_same_features_stored_and_in_shar(corpus: Corpus, tmp_path: Path) -> None:
    cuts, paths = speech_cuts(tmp_path), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        store_features(CutSet.from_cuts(cuts), "speech", directory=Path("fbank"), config=FeatureConfig(), exact=True)
    stored = list(CutSet.from_file(tmp_path / "fbank/cuts_speech.jsonl.gz").with_features_path_prefix(tmp_path))
    for name, source in (("stored", stored), ("recorded", cuts)):
        paths[name] = tmp_path / f"{name}.jsonl.gz"
        CutSet.from_cuts(source).to_file(paths[name])
    for name, source, fields in (
        ("audio", cuts, {"recording": "flac"}),
        ("features", stored, {"features": "lilcom"}),
        ("both", stored, {"recording": "opus", "features": "numpy"}),
    ):
        paths[name] = tmp_path / name
        write_shard(source, paths[name], 0, fields)
    plain = {"num_time_masks": 0, "num_freq_masks": 0, "max_duration": 100.0, "num_buckets": 1}
    batches = {name: list(loader(corpus, path, **plain)) for name, path in paths.items()}
    for name, (batch,) in batches.items():
        (expected,) = batches["stored"]
        order = [batch.cut_ids.index(cut_id) for cut_id in expected.cut_ids]
        assert [batch.texts[i] for i in order] == expected.texts and sum(map(len, expected.texts)) > 10
        assert torch.equal(batch.x_lens[order], expected.x_lens)
        assert (batch.x[order] - expected.x).abs().max() < (0.05 if name == "features" else 1e-3)


def speech_cuts(folder: Path) -> list[MonoCut]:
    """Parts of a real recording, and the whole at 8 kHz, which is resampled."""
    samples, rate = soundfile.read(str(SPEECH), dtype="float32")
    files = {"whole": (samples, rate), "late": (samples[rate:], rate), "telephone": (samples[::2], rate // 2)}
    cuts = []
    for name, (signal, own_rate) in files.items():
        soundfile.write(str(folder / f"{name}.wav"), signal, own_rate)
        recording = Recording.from_file(folder / f"{name}.wav", recording_id=name)
        text = {"late": "BRAVO"}.get(name, "ALPHA DELTA")
        supervision = SupervisionSegment(name, name, start=0.0, duration=recording.duration, text=text)
        cuts.append(MonoCut(name, 0.0, recording.duration, 0, recording=recording, supervisions=[supervision]))
    return cuts


def test_augmentation_is_that_of_stored_cuts(corpus: Corpus, shar: Path) -> None:
    options = {"silence_probability": 1.0, "made_noise_probability": 1.0, "cr_loss_scale": 0.2, "max_duration": 4.0}
    own = loader(corpus, shar, **options)
    durations = {cut.id: cut.num_frames for cut in corpus.cuts("train")}
    for batch in own:
        assert batch.num_copies == 2 and len(batch.cut_ids) == 2 * len(set(batch.cut_ids))
        half = len(batch.x) // 2
        assert not torch.equal(batch.x[:half], batch.x[half:])
    lengths = dict(zip(batch.cut_ids, batch.x_lens.tolist()))
    assert all(length > durations[cut_id] for cut_id, length in lengths.items())
    assert len(own.cuts) == 24, "for the largest batches and for babble"


def test_the_largest_batches_are_at_the_slowest_speed(corpus: Corpus, shar: Path) -> None:
    own, slow = (loader(corpus, shar, speed_factors=speeds) for speeds in ((1.25,), (0.5, 1.25)))
    longest, slowest = (largest_batches(its.cuts, its.dataset, max_duration=4.0)[0] for its in (own, slow))
    assert slowest.x_lens.tolist() == pytest.approx([2 * frames for frames in longest.x_lens.tolist()], abs=1)
    assert max(batch.x.size(1) for batch in slow) <= slowest.x.size(1)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("options", [{}, {"steps_per_epoch": 30}])
def test_a_shard_that_breaks_off_is_one_line(
    corpus: Corpus, shar: Path, tmp_path: Path, num_workers: int, options: dict[str, int]
) -> None:
    for path in shar.iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(
            content[: len(content) // 3] if path.name == "recording.000007.tar" else content
        )
    with pytest.raises(ValueError, match="cuts.000007.jsonl.gz and .*recording.000007.tar cannot be read") as error:
        list(loader(corpus, tmp_path, num_workers=num_workers, **options))
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)


def spoiled(shar: Path, folder: Path) -> Path:
    """The shards, of which one breaks off after a cut, and one has a cut whose audio is none."""
    for path in shar.iterdir():
        shutil.copy(path, folder)
    broken, strange = (folder / f"recording.{number:06d}.tar" for number in (7, 3))
    with tarfile.open(broken) as tar:
        second = tar.getmembers()[2]  # each cut has its audio and its manifest
        broken.write_bytes(broken.read_bytes()[: second.offset + 700])
    with tarfile.open(strange) as tar:
        audio = tar.getmembers()[0]
        content = bytearray(strange.read_bytes())
        content[audio.offset_data : audio.offset_data + audio.size] = bytes(audio.size)
        strange.write_bytes(content)
    return folder


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_cannot_be_read_is_named_left_out_and_counted(
    corpus: Corpus, shar: Path, tmp_path: Path, num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"max_unreadable": 2, "num_workers": num_workers, "max_duration": 3.0}
    own, resumed = (loader(corpus, spoiled(shar, tmp_path), **options) for _ in range(2))
    for seconds in (3.0, 2.0):
        largest_batches(own.cuts, own.dataset, max_duration=seconds)  # which counts nothing
    with caplog.at_level(logging.WARNING, "shared_moe_conformer"):
        batches = list(own)
    expected = {cut.id for cut in corpus.cuts("train")} - {"train-15", "train-6"}
    assert sorted(ids(batches)) == sorted(expected)
    messages = [record.message for record in caplog.records]
    assert len(messages) == 3 and messages[-1].startswith("epoch 1: 2 shards and cuts could not be read by process 0")
    assert any("recording.000007.tar" in m and "(after 1 cut)" in m for m in messages[:2]), messages
    assert any(m.startswith("left out: cut train-6 cannot be read") for m in messages[:2])
    resumed.load_state_dict({**own.state_dict(), "num_taken": 3})
    rest = list(resumed)
    assert 0 < len(rest) < len(batches)
    assert_equal(rest, batches[-len(rest) :])
    with pytest.raises(ValueError, match="more than --max-unreadable 1 shards and cuts cannot be read in epoch 1: "):
        list(loader(corpus, tmp_path, **{**options, "max_unreadable": 1}))


def test_what_is_met_again_and_again_counts_once_and_nothing_is_not_trained_on(
    corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cuts = corpus.cuts("train")
    for name, number, its in (("good", 0, cuts[:12]), ("bad", 0, cuts[12:])):
        write_shard(its, tmp_path / name, number, {"features": "lilcom"})
    broken = tmp_path / "bad/features.000000.tar"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    own = loader(corpus, tmp_path / "good", tmp_path / "bad", steps_per_epoch=6, num_workers=2, max_unreadable=1)
    with caplog.at_level(logging.WARNING, "shared_moe_conformer"):
        list(own)
    assert sum("left out: " in record.message for record in caplog.records) == 1
    broken.write_bytes(whole[:600])
    with pytest.raises(ValueError, match="^nothing of .*/bad can be read: .*features.000000.tar cannot be read"):
        loader(corpus, tmp_path / "good", tmp_path / "bad", max_unreadable=1)


def test_audio_that_is_missing_is_found_before_training(corpus: Corpus, tmp_path: Path) -> None:
    cuts = [cut.drop_features() for cut in corpus.cuts("train")]
    cuts[0].recording.sources[0].source = "/none/no.wav"
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    with pytest.raises(ValueError, match="cut train-0 cannot be read: .*no.wav"):
        loader(corpus, tmp_path / "cuts.jsonl.gz")
    readable = ids(list(loader(corpus, tmp_path / "cuts.jsonl.gz", max_unreadable=1)))
    assert sorted(readable) == sorted(cut.id for cut in cuts[1:])


@pytest.mark.parametrize("options", [{}, {"part": Part(0, 2)}, {"steps_per_epoch": 3}])
def test_a_training_of_which_nothing_can_be_read_ends(corpus: Corpus, tmp_path: Path, options: dict[str, Any]) -> None:
    cuts = [cut.drop_features() for cut in corpus.cuts("train")[:4]]
    for cut in cuts:
        cut.recording.sources[0].source = "/none/no.wav"
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    own = loader(corpus, tmp_path / "cuts.jsonl.gz", max_unreadable=4, **options)
    with pytest.raises(ValueError, match="no cut for process 0 that can be read: make .* see above what was left out"):
        list(own)


def test_audio_of_cuts_with_stored_features_cannot_be_changed(corpus: Corpus, shar: Path) -> None:
    with pytest.raises(ValueError, match="speed_factors, .* are for audio, and train_cuts have stored features"):
        loader(corpus, TRAIN, speed_factors=(0.9, 1.1))
    assert len(loader(corpus, TRAIN, shar, speed_factors=(0.9, 1.1))) > 0


def test_workers_that_are_not_forked_can_be_given_a_stream(corpus: Corpus, shar: Path) -> None:
    """As on macOS, also where the sample has been asked for."""
    stream = loader(corpus, shar)
    assert len(stream.cuts) == 24
    again = pickle.loads(pickle.dumps(stream.mixture)).part(0, 1, seed=0)
    assert sorted(cut.id for cut in again) == sorted(cut.id for cut in stream.mixture.part(0, 1, seed=0))


def test_fewer_shards_than_processes_are_refused(corpus: Corpus, shar: Path) -> None:
    with pytest.raises(ValueError, match="has 12 shards for 13 processes: make smaller shards"):
        loader(corpus, shar, part=Part(0, 13))
    for options in ({}, {"steps_per_epoch": 3}):
        with pytest.raises(ValueError, match="train_cuts has no cut for process 29"):
            list(loader(corpus, TRAIN, part=Part(29, 30), **options))


def test_mixed_cuts_and_long_recordings_are_trained_on(corpus: Corpus, tmp_path: Path) -> None:
    first, second, third = (cut.drop_features() for cut in corpus.cuts("train")[:3])
    noisy = first.mix(third.drop_supervisions(), snr=10).with_id("noisy")
    CutSet.from_cuts([noisy, second.append(third)]).to_file(tmp_path / "cuts.jsonl.gz")
    (batch,) = loader(corpus, tmp_path / "cuts.jsonl.gz", num_buckets=1)
    texts = {cut.id: cut.supervisions[0].text for cut in (first, second, third)}
    assert dict(zip(batch.cut_ids, batch.texts)) == {
        "noisy": texts[first.id],
        **{i: texts[i] for i in (second.id, third.id)},
    }


SPLITS = ("data/fbank/cuts_train.jsonl.gz", "data/fbank/cuts_dev.jsonl.gz")


def mixture(corpus: Corpus, *weights: float, endless: bool) -> Mixture:
    check = functools.partial(check_utterance, tokenizer=corpus.tokenizer, config=FeatureConfig())
    return Mixture(open_sources(SPLITS, corpus.recipe_dir), weights, check, endless)


@pytest.mark.parametrize("share", [0.2, 0.75])
def test_weights_are_shares_of_an_endless_mixture(corpus: Corpus, share: float) -> None:
    drawn = itertools.islice(mixture(corpus, share, 1 - share, endless=True).part(0, 1, seed=1), 1500)
    counts = Counter(cut.id.split("-")[0] for cut in drawn)
    assert counts["train"] / 1500 == pytest.approx(share, abs=0.04)


def test_a_source_of_few_shards_keeps_its_share_and_its_cuts_come_equally_often(corpus: Corpus, tmp_path: Path) -> None:
    cuts = corpus.cuts("train")
    for name, number, its in (("one", 0, cuts[:6]), *(("three", i, cuts[6 * i + 6 :][:6]) for i in range(3))):
        write_shard(its, tmp_path / name, number, {"features": "lilcom"})
    endless = loader(corpus, f"{tmp_path}/one@1", f"{tmp_path}/three@2", steps_per_epoch=5).mixture
    drawn = [cut.id for index in range(2) for cut in itertools.islice(endless.part(index, 2, seed=1), 1800)]
    counts = [Counter(drawn)[cut.id] for cut in cuts]
    assert sum(counts[:6]) / 3600 == pytest.approx(1 / 3, abs=0.02)
    assert max(counts[:6]) < 1.1 * min(counts[:6]) and max(counts[6:]) < 1.3 * min(counts[6:]), counts
    whole = loader(corpus, tmp_path / "one", tmp_path / "three", num_workers=2)
    assert sorted(ids(list(whole))) == sorted(cut.id for cut in cuts)


def test_parts_of_a_mixture_with_an_end_have_every_cut_once(corpus: Corpus) -> None:
    parts = [list(mixture(corpus, 24, 4, endless=False).part(index, 3, seed=1)) for index in range(3)]
    ids = [cut.id for part in parts for cut in part]
    assert len(ids) == len(set(ids)) == 28 and all(parts)


def test_a_survey_counts_and_leaves_out(corpus: Corpus, tmp_path: Path) -> None:
    cuts = corpus.cuts("train")
    bad = fastcopy(cuts[5], supervisions=[fastcopy(cuts[5].supervisions[0], text="")])
    check = functools.partial(check_utterance, tokenizer=corpus.tokenizer, config=FeatureConfig())
    CutSet.from_cuts([*cuts[:5], bad, *cuts[6:]]).to_file(tmp_path / "a.jsonl.gz")
    found = survey(open_sources(("a.jsonl.gz",), tmp_path), check, limit=None)
    assert len(found) == 23 and found.left_out == ["train-5: empty transcript"]
    assert found.seconds == pytest.approx(sum(cut.duration for cut in cuts) - bad.duration)
    assert len(survey(open_sources(("a.jsonl.gz",), tmp_path), check, limit=3)) == 3
    bins = found.duration_bins(4)
    assert bins == sorted(bins) and 2 <= len(bins) <= 3
    assert found.duration_bins(1) == [math.inf]
    assert found.num_batches(1, 1000.0, num_parts=4) == 2, "half a batch for each part's rest"
    assert found.num_batches(1, 3.0, num_parts=1) == pytest.approx(found.seconds / 3, rel=0.5)
    CutSet.from_cuts([*cuts[:4], bad]).to_file(tmp_path / "b.jsonl.gz")
    with pytest.raises(ValueError, match=r"1 problem in b.jsonl.gz: train-5: empty transcript"):
        survey(open_sources(("b.jsonl.gz",), tmp_path), check, limit=None)
