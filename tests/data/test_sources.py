from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from lhotse import CutSet, MonoCut
from lhotse.cut import Cut
from lhotse.utils import fastcopy

from shared_moe_conformer.config import FeatureConfig
from shared_moe_conformer.data.checks import check_utterance, unfit
from shared_moe_conformer.data.shar import write_shard
from shared_moe_conformer.data.sources import open_sources, utterances
from tests.data.conftest import Corpus


@pytest.fixture(scope="module")
def folder(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards of four cuts, with audio and features."""
    folder, cuts = tmp_path_factory.mktemp("shar"), corpus.cuts("train")
    for number in range(6):
        assert write_shard(cuts[4 * number :][:4], folder, number, {"recording": "flac", "features": "lilcom"})
    return folder


TRAIN = "data/fbank/cuts_train.jsonl.gz"


def test_a_source_is_a_manifest_or_shar_with_a_weight(corpus: Corpus, tmp_path: Path) -> None:
    plain, weighted = open_sources((TRAIN, f"{TRAIN}@2.5"), corpus.recipe_dir)
    assert (plain.weight, weighted.weight, weighted.name) == (None, 2.5, TRAIN)
    assert [cut.id for cut in weighted] == [cut.id for cut in corpus.cuts("train")]
    assert [cut.id for cut in plain.part(1, 10)] == ["train-1", "train-11", "train-21"]
    assert next(iter(plain)).load_features().shape[1] == 80, "its paths begin at the recipe's folder"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("data/none", FileNotFoundError, "train_cuts data/none: no file or folder .*data/none: give manifests"),
        ("s3://bucket/shar", FileNotFoundError, "JSON files that list the shards' URLs"),
        (f"{TRAIN}@0", ValueError, "give a weight above 0"),
        ("data/lang/tokens.txt", ValueError, "tokens.txt is no manifest of cuts"),
        ("data", ValueError, "data has no cuts.000000.jsonl.gz: it is not a folder of Shar"),
    ],
)
def test_what_is_no_source_is_refused(corpus: Corpus, name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_sources((name,), corpus.recipe_dir)


def test_a_manifest_of_something_else_is_named(corpus: Corpus) -> None:
    path = corpus.recipe_dir / "recordings.jsonl.gz"
    CutSet.from_cuts(corpus.cuts("train")).decompose()[0].to_file(path)
    with pytest.raises(ValueError, match="recordings.jsonl.gz is not a readable manifest of cuts"):
        list(open_sources((path.name,), corpus.recipe_dir)[0])


def test_a_long_recording_becomes_its_utterances(corpus: Corpus) -> None:
    first, second, third = corpus.cuts("train")[:3]
    row = first.append(second).append(third)
    trimmed = list(utterances([row, first]))
    assert [cut.id for cut in trimmed] == [first.id, second.id, third.id, first.id]
    assert [len(cut.supervisions) for cut in trimmed] == [1] * 4
    assert trimmed[1].duration == pytest.approx(second.duration)
    assert abs(trimmed[1].load_features() - second.load_features()).max() < 1e-5


def without_text(cut: MonoCut) -> MonoCut:
    return fastcopy(cut, supervisions=[fastcopy(cut.supervisions[0], text=None)])


def of_few_bins(cut: MonoCut) -> MonoCut:
    return fastcopy(cut, features=fastcopy(cut.features, num_features=40))


def of_many_frames(cut: MonoCut) -> MonoCut:
    return fastcopy(cut, features=fastcopy(cut.features, frame_shift=0.0125))


def of_dense_text(cut: MonoCut) -> MonoCut:
    supervision = fastcopy(cut.supervisions[0], text="JFJFJFJF", duration=0.3)
    return fastcopy(cut.drop_features(), duration=0.3, supervisions=[supervision])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_text, "empty transcript"),
        (lambda cut: fastcopy(cut, supervisions=[]), "0 supervisions"),
        (of_few_bins, "40 mel bins, the config says 80"),
        (of_many_frames, "a frame every 0.0125 s, not every 0.01 s"),
        (lambda cut: fastcopy(cut, features=None, recording=None), "neither features nor a recording"),
        (of_dense_text, "6 frames after subsampling, its tokens need"),
    ],
)
def test_an_unusable_cut_is_told_by_its_manifest(corpus: Corpus, spoil: Callable[[MonoCut], Cut], message: str) -> None:
    check, cut = (
        functools.partial(check_utterance, tokenizer=corpus.tokenizer, config=FeatureConfig()),
        corpus.cuts("train")[4],
    )
    assert check(cut) == check(cut.drop_features()) == []
    assert message in "; ".join(check(spoil(cut))) and cut.id in check(spoil(cut))[0]


def test_features_of_another_rate_are_told_also_in_mixed_cuts(corpus: Corpus) -> None:
    cut = corpus.cuts("train")[4]
    other = fastcopy(cut, features=fastcopy(cut.features, sampling_rate=8000), recording=None)
    same = fastcopy(cut, recording=None)
    assert unfit(same.append(same), FeatureConfig()) == ""
    for told in (other, other.append(other)):
        assert unfit(told, FeatureConfig()).startswith("computed at 8000 Hz, the config says 16000")
