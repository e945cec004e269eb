from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from lhotse import CutSet, MonoCut
from lhotse.utils import fastcopy

from shared_moe_conformer.config import replace_fields
from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.manifests import cuts_path, write_manifest
from tests.data.conftest import Corpus


@pytest.fixture
def faulty(corpus: Corpus, tmp_path: Path) -> Callable[..., AsrDataModule]:
    """A data module whose training cuts went through a function."""

    def make(fault: Callable[[MonoCut], MonoCut]) -> AsrDataModule:
        cuts = CutSet.from_cuts(map(fault, corpus.cuts("train")))
        write_manifest(cuts, cuts_path(tmp_path / "data/fbank", "train"))
        return AsrDataModule(corpus.config, tmp_path, corpus.tokenizer)

    return make


def test_a_prepared_recipe_works_from_any_folder(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(corpus.recipe_dir, moved)
    monkeypatch.chdir("/")
    data = AsrDataModule(corpus.config, moved, corpus.tokenizer)
    assert sum(len(batch.cut_ids) for batch in data.train_loader()) == 24
    assert [cut_id for batch in data.dev_loader() for cut_id in batch.cut_ids] == ["dev-3", "dev-2", "dev-1", "dev-0"]
    assert {name: len(loader) for name, loader in data.test_loaders().items()} == {"test": 1}
    assert all(cut.load_audio().shape == (1, cut.num_samples) for cut in data.cuts("test"))


def test_the_config_names_the_splits(corpus: Corpus) -> None:
    config = replace_fields(corpus.config, {"test_splits": ("dev", "test"), "train_split": "dev"})
    data = AsrDataModule(config, corpus.recipe_dir, corpus.tokenizer)
    assert list(data.test_loaders()) == ["dev", "test"]
    assert sum(len(batch.cut_ids) for batch in data.train_loader()) == 4


def test_an_unprepared_split_says_what_to_do(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="prepare.sh"):
        AsrDataModule(corpus.config, tmp_path, corpus.tokenizer).train_loader()


@pytest.mark.parametrize(
    ("text", "reason"), [("", "empty transcript"), ("JF" * 25, "tokens need"), ("éêè", "does not know")]
)
def test_unusable_cuts_are_left_out_of_training_and_refused_elsewhere_by_name(
    faulty: Callable[..., AsrDataModule], text: str, reason: str
) -> None:
    def plant(cut: MonoCut) -> MonoCut:
        wrong = cut.id == "train-11"
        return fastcopy(cut, supervisions=[fastcopy(cut.supervisions[0], text=text)]) if wrong else cut

    data = faulty(plant)
    ids = {cut_id for batch in data.train_loader() for cut_id in batch.cut_ids}
    assert len(ids) == 23 and "train-11" not in ids
    assert all(problem.startswith("train-11: ") for problem in data.left_out) and reason in "; ".join(data.left_out)
    with pytest.raises(ValueError, match=f"train-11: .*{reason}") as error:
        data.cuts("train")
    assert "\n" not in str(error.value)


def test_many_problems_make_a_short_message(faulty: Callable[..., AsrDataModule]) -> None:
    with pytest.raises(ValueError, match="24 problems") as error:
        faulty(lambda cut: fastcopy(cut, supervisions=[])).train_loader()
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_mel_bins": 40}, "80 mel bins, the config says 40"),
        (
            {"sampling_rate": 8000},
            "computed at 16000 Hz, the config says 8000: prepare them again with --sampling-rate 8000, or train",
        ),
    ],
)
def test_features_of_another_config_are_refused(corpus: Corpus, option: dict[str, int], message: str) -> None:
    config = replace_fields(corpus.config, option)
    with pytest.raises(ValueError, match=message):
        AsrDataModule(config, corpus.recipe_dir, corpus.tokenizer).dev_loader()
