from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from shared_moe_conformer.reporting.experiment import experiment_page, read_experiment
from tests.reporting.conftest import EVIL
from tests.reporting.test_page import Balanced


@pytest.mark.usefixtures("log_lines")
def test_the_page_shows_everything_and_escapes_it(exp_dir: Path) -> None:
    text = experiment_page(read_experiment(exp_dir), parameters=[("unique parameters", 810_000)])
    assert "script" not in Balanced(text).seen and EVIL not in text
    for shown in (
        "<b>3 of 4</b>",
        "<b>40.0 %</b><span>best dev WER, CTC greedy, epoch 2</span>",
        "<b>60.0 %</b><span>WER on test, greedy_search, epoch-3-avg-2</span>",
        "<b>0.81 M</b>",
        "Experts that are hardly used",
        "1 warning in the log",
        "Most frequent errors",
        "<td>num_experts</td><td>3</td>",
        "<td>torch</td><td>9.9</td>",
    ):
        assert shown in text, shown


def test_a_training_that_has_only_begun_has_a_page(exp_dir: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for name in ("tensorboard", "beam", "greedy_search"):
        shutil.rmtree(exp_dir / name)
    with SummaryWriter(str(exp_dir / "tensorboard")) as writer:
        writer.add_scalar("train/loss", 10.0, 1)
    text = experiment_page(read_experiment(exp_dir))
    assert "<b>0 of 4</b>" in text and "Loss per frame" in text
    assert not {"Experts", "Results", "Environment"} & {part.split("<")[0] for part in text.split("<h2>")}


def test_the_same_method_with_other_options_is_told_apart(exp_dir: Path) -> None:
    for path in list((exp_dir / "beam").iterdir()):
        text = path.read_text().replace("\nbeam\t", "\nbeam-8\t")
        path.with_name(path.name.replace("epoch-3-avg-2-beam", "epoch-2-avg-2-beam-8")).write_text(text)
    text = experiment_page(read_experiment(exp_dir))
    assert "beam (epoch-3-avg-2): 40.00" in text and "beam-8 (epoch-2-avg-2): 40.00" in text


def test_no_experiment_or_a_damaged_one_is_refused(tmp_path: Path, exp_dir: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train first"):
        read_experiment(tmp_path)
    values = json.loads((exp_dir / "config.json").read_text())
    (exp_dir / "config.json").write_text(json.dumps({**values, "new": 1}))
    with pytest.raises(ValueError, match="no option new"):
        read_experiment(exp_dir)
