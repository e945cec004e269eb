"""The verb on an experiment of random weights and a corpus of noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from lhotse import CutSet
from lhotse.utils import fastcopy

from shared_moe_conformer import report
from shared_moe_conformer.config import Config, replace_fields, save_config
from shared_moe_conformer.data.manifests import cuts_path, write_manifest
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.training.folder import epoch_path, save_checkpoint
from tests.conftest import TINY
from tests.data.conftest import Corpus, corpus  # noqa: F401

CONFIG: Config = replace_fields(TINY, {"lang_dir": "data/lang", "num_workers": 0, "max_duration": 8.0})


@pytest.fixture
def exp_dir(corpus: Corpus) -> Path:  # noqa: F811
    """An experiment with two epochs, in the corpus's recipe."""
    folder = corpus.recipe_dir / "exp" / "base"
    folder.mkdir(parents=True, exist_ok=True)
    save_config(CONFIG, folder / "config.json")
    for epoch in (1, 2):
        torch.manual_seed(epoch)
        save_checkpoint(epoch_path(folder, epoch), {"model": AsrModel(CONFIG.model).state_dict()})
    return folder


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        report.main([*map(str, arguments)])
    assert stopped.value.code == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_expert_usage_is_a_picture_and_a_table(exp_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    report.main([str(exp_dir), "--expert-usage", str(tmp_path / "new" / "usage.svg"), "--avg", "2", "--split", "dev"])
    picture = (tmp_path / "new" / "usage.svg").read_text()
    assert "base, dev" in picture and ElementTree.fromstring(picture).tag.endswith("svg")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["layer", str(n)] for n in (1, 2, 3)]
    shares = [float(share.rstrip("%")) for share in lines[1].split()[2:5]]
    assert sum(shares) == pytest.approx(100, abs=0.2)


def test_expert_usage_by_group_has_a_row_for_each(
    corpus: Corpus,  # noqa: F811
    exp_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    manifest_dir = corpus.recipe_dir / CONFIG.data.manifest_dir
    cuts = CutSet.from_file(cuts_path(manifest_dir, "dev"))
    spoken = cuts.map_supervisions(lambda says: fastcopy(says, speaker=says.id[-1]))
    write_manifest(spoken, cuts_path(manifest_dir, "spoken"))
    usage = str(exp_dir), "--expert-usage", str(tmp_path / "usage.svg"), "--split", "spoken"
    report.main([*usage, "--by", "speaker"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("layer 1: the speaker explains ")
    assert [line.split()[0] for line in lines[1:5]] == sorted(cut.id[-1] for cut in cuts)
    assert "by speaker" in (tmp_path / "usage.svg").read_text()
    assert "has no corpus: the corpus does not say it" in refused(capsys, *usage, "--by", "corpus")


def test_a_training_that_was_not_decoded_has_a_page(exp_dir: Path, tmp_path: Path, capsys: Any) -> None:
    from torch.utils.tensorboard import SummaryWriter

    assert "train first" in refused(capsys, exp_dir)
    with SummaryWriter(str(exp_dir / "tensorboard")) as writer:
        writer.add_scalar("dev/loss", 2.0, 10)
    report.main([str(exp_dir)])
    assert capsys.readouterr().out == f"wrote {exp_dir}/report.html\n"
    text = (exp_dir / "report.html").read_text()
    assert text.startswith("<!doctype html>") and "unrolled parameters" in text and "Loss per frame" in text
    report.main([str(exp_dir), "--output", str(tmp_path / "new" / "page.html")])
    assert (tmp_path / "new" / "page.html").read_text() == text


def test_mistakes_are_one_line(exp_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    usage = "--expert-usage", tmp_path / "usage.svg"
    assert "train first" in refused(capsys, tmp_path, *usage)
    assert "no epoch-9.pt" in refused(capsys, exp_dir, *usage, "--epoch", 9)
    assert "cuts_other.jsonl.gz" in refused(capsys, exp_dir, *usage, "--split", "other")
    assert "--output is for the page" in refused(capsys, exp_dir, *usage, "--output", tmp_path / "page.html")
    assert "--epoch, --split only with" in refused(capsys, exp_dir, "--epoch", 1, "--split", "dev")
    save_config(replace_fields(CONFIG, {"experts_in": "none"}), exp_dir / "config.json")
    assert "has no experts" in refused(capsys, exp_dir, *usage)
    assert not (tmp_path / "usage.svg").exists()
