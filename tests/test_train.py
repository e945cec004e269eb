"""The verb, from prepared cuts to an experiment's folder, on a tiny corpus of noise."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from shared_moe_conformer import train
from shared_moe_conformer.config import Config, FeatureConfig, load_config, replace_fields
from shared_moe_conformer.data.feature_files import store_features
from shared_moe_conformer.data.manifests import OpenFile
from shared_moe_conformer.data.shar import write_shard
from shared_moe_conformer.data.tokenizer import train_tokenizer
from shared_moe_conformer.training.distributed import World
from shared_moe_conformer.training.folder import MID_EPOCH_NAME, load_checkpoint, saved_epochs
from shared_moe_conformer.training.metrics import StepReport
from shared_moe_conformer.training.trainer import Trainer
from tests.torchrun import torchrun
from tests.training.test_experiment import held_by_another

ROOT = Path(__file__).resolve().parent.parent
WORDS = ["ALPHA", "BRAVO", "CHARLIE", "DELTA", "ECHO", "FOXTROT", "GOLF", "HOTEL", "INDIA", "JULIET"]
TINY = replace_fields(
    Config(),
    {
        "encoder_dim": 16,
        "num_attention_heads": 2,
        "feed_forward_dim": 24,
        "conv_kernel_size": 5,
        "subsampling_channels": 4,
        "group_sizes": (2,),
        "num_experts": 3,
        "vocab_size": 40,
        "decoder_dim": 8,
        "joiner_dim": 12,
        "lang_dir": "data/lang",
        "max_duration": 6.0,
        "num_buckets": 2,
        "num_workers": 0,
        "num_epochs": 2,
        "warmup_steps": 3,
        "loss_warmup_steps": 4,
    },
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe's folder with cuts of noise."""
    recipe_dir = tmp_path_factory.mktemp("recipe")
    texts = [f"{WORDS[i % 10]} {WORDS[(7 * i + 3) % 10]}" for i in range(20)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(recipe_dir)
        for split, ids in (("train", range(16)), ("dev", range(16, 20))):
            cuts = CutSet.from_cuts(noise_cut(f"{split}-{i}", texts[i], duration=0.8 + 0.05 * i) for i in ids)
            store_features(cuts, split, directory=Path("data/fbank"), config=FeatureConfig())
    train_tokenizer(texts, recipe_dir / "data/lang", 40)
    return recipe_dir


def noise_cut(cut_id: str, text: str, *, duration: float) -> MonoCut:
    samples = 0.1 * np.random.default_rng(len(text)).standard_normal(int(duration * 16000))
    soundfile.write(f"{cut_id}.wav", samples, 16000)
    recording = Recording.from_file(f"{cut_id}.wav", recording_id=cut_id)
    supervision = SupervisionSegment(cut_id, cut_id, start=0.0, duration=recording.duration, text=text)
    return MonoCut(cut_id, 0.0, recording.duration, 0, recording=recording, supervisions=[supervision])


def test_help_shows_the_values_of_the_named_config(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configs = {"base": TINY, "wide": replace_fields(TINY, {"encoder_dim": 32, "corpus": "100 %"})}
    for arguments, name, value in (([], "base", 16), (["--config", "wide"], "wide", 32)):
        with pytest.raises(SystemExit):
            train.main(configs, recipe_dir=recipe, arguments=[*arguments, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        assert f"in brackets stand the values of {name}." in shown
        assert f"Channels of a frame inside the encoder (C). [{value}]" in shown
        assert "Continue from the newest checkpoint if there is one; otherwise begin. [false]" in shown


def run(recipe: Path, exp_dir: Path, *arguments: str, config: Config = TINY) -> dict[str, torch.Tensor]:
    """Train and return the last epoch's weights."""
    train.main({"base": config}, recipe_dir=recipe, arguments=["--exp-dir", str(exp_dir), *arguments])
    return load_checkpoint(exp_dir / f"epoch-{saved_epochs(exp_dir)[-1]}.pt")["model"]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.fixture(scope="module")
def whole_dir(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that was never stopped."""
    exp_dir = tmp_path_factory.mktemp("whole")
    run(recipe, exp_dir, "--num-threads", "1")
    return exp_dir


@pytest.fixture(scope="module")
def whole(whole_dir: Path) -> dict[str, torch.Tensor]:
    """The weights of that training."""
    return load_checkpoint(whole_dir / "epoch-2.pt")["model"]


def test_training_leaves_a_complete_experiment(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    late = replace_fields(TINY, {"conditions_after": 1})  # without conditions, which goes without saying
    run(recipe, tmp_path / "a" / "b", "--num-epochs", "1", "--num-experts", "2", config=late)
    names = {path.name for path in (tmp_path / "a" / "b").iterdir()}
    written = {"config.json", "tokens.txt", "training-cuts.json", "epoch-1.pt", "tensorboard", "log"}
    assert names == {*written, "best-valid-wer.pt"}
    config = load_config(tmp_path / "a" / "b" / "config.json")
    assert config == replace_fields(TINY, {"num_epochs": 1, "num_experts": 2, "conditions_after": 1})
    shown = capsys.readouterr().err
    assert "epoch 1/1" in shown and "dev loss" in shown and "WER" in shown and "done: 1 epoch in" in shown
    assert "never hears" not in shown


def test_conditions_that_never_begin_are_named(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run(recipe, tmp_path, "--num-epochs", "1", "--conditions-after", "1", "--gain-probability", "0.5")
    (shown,) = (line for line in capsys.readouterr().err.splitlines() if "never hears" in line)
    assert "this training of 1 epoch never hears gains, made noises, rooms or band limits, since cond" in shown


def test_a_ctc_head_that_is_not_trained_chooses_no_best_epoch(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run(recipe, tmp_path, "--num-epochs", "1", "--ctc-loss-scale", "0")
    shown = capsys.readouterr().err
    assert "dev loss" in shown and "WER" not in shown and not (tmp_path / "best-valid-wer.pt").exists()


def test_the_default_folder_is_beside_train_py(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(train, "tune_cpu", asked.append)
    train.main({"full": TINY}, recipe_dir=recipe, arguments=["--num-epochs", "1", "--num-threads", "3"])
    assert (recipe / "exp" / "full" / "epoch-1.pt").is_file() and asked == [3]


def test_workers_that_load_batches_change_no_bit(recipe: Path, whole: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert_same(whole, run(recipe, tmp_path, "--num-threads", "1", "--num-workers", "2"))


def test_a_scan_of_the_largest_batches_changes_no_bit(
    recipe: Path, whole: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert_same(whole, run(recipe, tmp_path, "--num-threads", "1", "--prescan", "true"))
    assert "the largest batches of 6 s fit into memory" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("stop_at", "save_every_n_steps"), [(2, 0), (2, 1), (7, 0), (7, 2)])
def test_a_signal_and_resuming_change_no_bit(
    recipe: Path,
    whole: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    stop_at: int,
    save_every_n_steps: int,
) -> None:
    flags = "--num-threads", "1", "--resume", "true", "--save-every-n-steps", str(save_every_n_steps)
    step = Trainer.train_step

    def interrupted(self: Trainer, *args, **kwargs) -> StepReport:
        if self.state.step == stop_at:
            os.kill(os.getpid(), number)
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(Trainer, "train_step", interrupted)
        run(recipe, tmp_path, *flags)
    assert stopped.value.code == 128 + number
    assert (tmp_path / MID_EPOCH_NAME).exists() == (save_every_n_steps > 0)
    assert_same(whole, run(recipe, tmp_path, *flags))


def test_recomputed_layers_change_next_to_nothing_and_half_precision_little(
    recipe: Path, whole_dir: Path, tmp_path: Path
) -> None:
    expected = dev_losses(whole_dir, "loss")
    run(recipe, tmp_path / "recomputed", "--num-threads", "1", "--checkpoint-activations", "true")
    assert dev_losses(tmp_path / "recomputed", "loss") == pytest.approx(expected, rel=1e-3)
    run(recipe, tmp_path / "half", "--num-threads", "1", "--precision", "bfloat16")
    assert dev_losses(tmp_path / "half", "loss") == pytest.approx(expected, rel=0.02)


def test_start_epoch_goes_on_as_in_icefall(recipe: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path, "--num-epochs", "1")
    run(recipe, tmp_path, "--num-epochs", "2", "--start-epoch", "2")
    assert saved_epochs(tmp_path) == [1, 2]
    assert load_config(tmp_path / "config.json").training.num_epochs == 2


def test_a_training_goes_on_in_another_folder_from_before_its_decay(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    wsd = ["--lr-schedule", "wsd", "--decay-epochs", "1", "--num-threads", "1"]
    long = run(recipe, tmp_path / "long", *wsd, "--num-epochs", "3")
    run(recipe, tmp_path / "short", *wsd, "--num-epochs", "2")
    more = [*wsd, "--num-epochs", "3", "--resume-from", str(tmp_path / "short" / "epoch-1.pt")]
    assert "seed 42 there, 7 now" in refused(recipe, tmp_path / "more", capsys, *more, "--seed", "7")
    assert_same(long, run(recipe, tmp_path / "more", *more))
    assert saved_epochs(tmp_path / "more") == [2, 3]
    assert_same(long, run(recipe, tmp_path / "more", *more, "--resume", "true"))


def test_two_copies_become_consistent_and_resume_at_the_same_bits(
    recipe: Path, whole_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--cr-loss-scale", "0.2", "--num-threads", "1", "--prescan", "true"]
    whole = run(recipe, tmp_path / "whole", *flags)
    step = Trainer.train_step

    def interrupted(self: Trainer, *batches: Any, **options: Any) -> StepReport:
        assert batches[0].num_copies == 2
        if (self.state.epoch, self.state.num_batches) == (2, 1):
            raise KeyboardInterrupt
        return step(self, *batches, **options)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Trainer, "train_step", interrupted)
        run(recipe, tmp_path / "stopped", *flags, "--save-every-n-steps", "1")
    assert_same(whole, run(recipe, tmp_path / "stopped", *flags, "--resume", "true"))
    log = next((tmp_path / "whole" / "log").iterdir()).read_text()
    assert "cr 0." in log and "cr 0." not in next((whole_dir / "log").iterdir()).read_text()


def test_a_seed_changes_the_run(recipe: Path, whole: dict[str, torch.Tensor], tmp_path: Path) -> None:
    other = run(recipe, tmp_path, "--num-threads", "1", "--seed", "1")
    assert not torch.equal(whole["ctc_head.weight"], other["ctc_head.weight"])


@pytest.fixture
def nan_cut(monkeypatch: pytest.MonkeyPatch) -> str:
    """A cut of the training split whose features are NaN."""
    load, bad = MonoCut.load_features, "train-7"
    monkeypatch.setattr(MonoCut, "load_features", lambda cut: load(cut) * (np.nan if cut.id == bad else 1))
    return bad


@pytest.mark.parametrize("backend", ["torch", "k2"])
def test_a_cut_with_nan_is_skipped_and_named(
    recipe: Path, tmp_path: Path, nan_cut: str, capsys: pytest.CaptureFixture, backend: str
) -> None:
    if backend == "k2":
        pytest.importorskip("k2")
    weights = run(recipe, tmp_path, "--transducer-backend", backend)
    assert all(value.isfinite().all() for value in weights.values())
    assert f"the update is skipped (2 so far). Cuts: {nan_cut}\n" in capsys.readouterr().err
    assert len(list((tmp_path / "skipped").glob("epoch-*.pt"))) == 2


def test_too_many_skipped_updates_end_the_training(
    recipe: Path, tmp_path: Path, nan_cut: str, capsys: pytest.CaptureFixture
) -> None:
    message = refused(recipe, tmp_path, capsys, "--max-skipped-steps", "0")
    assert "loss is nan" in message and nan_cut in message and "train-8" not in message
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lang-dir", "data/other"], "run ./prepare.sh first"),
        (["--vocab-size", "50"], "has 40 units, the config's vocab_size is 50: give --vocab-size 40"),
        (["--train-split", "other"], "cuts_other.jsonl.gz"),
        (["--device", "abacus"], "--device abacus"),
        (["--top-k", "4"], "top_k is 4 of num_experts 3"),
        (["--start-epoch", "3"], "epoch-2.pt"),
        (["--save-every-n-steps", "-1"], "save_every_n_steps is -1"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture, flags: list[str], message: str
) -> None:
    assert message in refused(recipe, tmp_path / "exp", capsys, *flags)
    assert not (tmp_path / "exp").exists()


def test_a_folder_with_another_experiment_is_refused(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = run(recipe, tmp_path, "--num-epochs", "1")
    assert "already holds a training of 1 epoch:" in refused(recipe, tmp_path, capsys)
    shown = refused(recipe, tmp_path, capsys, "--resume", "true", "--feed-forward-dim", "32")
    assert "feed_forward_dim" in shown
    assert_same(before, load_checkpoint(tmp_path / "epoch-1.pt")["model"])


def test_a_folder_in_which_another_process_trains_is_refused(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with held_by_another(tmp_path / "exp"):
        message = refused(recipe, tmp_path / "exp", capsys, "--resume", "true")
    assert message.startswith(f"error: another process trains in {tmp_path}/exp: wait until it has ended")


def test_a_model_learns_to_be_like_its_teacher(recipe: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path / "teacher", "--group-sizes", "1,1", "--experts-in", "none")
    flags = ["--teacher", str(tmp_path / "teacher"), "--teacher-avg", "2", "--num-epochs", "4"]
    strong = [*flags, "--hidden-distillation-loss-scale", "2", "--ctc-distillation-loss-scale", "1"]
    strong += ["--transducer-distillation-loss-scale", "1"]
    run(recipe, tmp_path / "taught", *strong)
    run(
        recipe,
        tmp_path / "alone",
        *flags,
        "--hidden-distillation-loss-scale",
        "0",
        "--ctc-distillation-loss-scale",
        "0",
    )
    for name in ("hidden_distillation", "ctc_distillation"):
        first, *_, last = dev_losses(tmp_path / "taught", name)
        assert last < first and last < dev_losses(tmp_path / "alone", name)[-1]


def test_a_teacher_that_does_not_fit_is_refused(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture, whole_dir: Path
) -> None:
    teacher = ["--teacher", str(whole_dir)]
    assert "train first" in refused(recipe, tmp_path / "exp", capsys, "--teacher", str(tmp_path / "none"))
    assert "16 channels, the model's 24" in refused(recipe, tmp_path / "exp", capsys, *teacher, "--encoder-dim", "24")
    assert "no epoch-9.pt" in refused(recipe, tmp_path / "exp", capsys, *teacher, "--teacher-epoch", "9")
    assert "has other features" in refused(recipe, tmp_path / "exp", capsys, *teacher, "--num-mel-bins", "40")
    both = ["--teacher-epoch", "1", "--teacher-iter", "5"]
    assert "teacher_epoch is 1 and teacher_iter 5: give one" in refused(recipe, tmp_path / "exp", capsys, *both)
    averaged = [*teacher, "--teacher-use-averaged-model", "true"]
    assert "holds no sum of weights" in refused(recipe, tmp_path / "exp", capsys, *averaged)
    assert not (tmp_path / "exp").exists()


def test_a_shared_model_begins_with_a_dense_one_and_other_units(recipe: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path / "dense", "--group-sizes", "1,1", "--experts-in", "none", "--num-epochs", "1")
    texts = [" ".join(WORDS[i : i + 3]) for i in range(8)]
    train_tokenizer(texts, recipe / "data/lang_other", 38)
    flags = ["--init-from", str(tmp_path / "dense"), "--lang-dir", "data/lang_other", "--vocab-size", "38"]
    flags += ["--num-epochs", "1", "--freeze", "encoder.subsampling"]
    begun = run(recipe, tmp_path / "begun", *flags)
    dense = load_checkpoint(tmp_path / "dense" / "epoch-1.pt")["model"]
    assert begun["ctc_head.weight"].size(0) == 38
    names = [name for name in dense if name.startswith("encoder.subsampling")]
    assert names and all(torch.equal(dense[name], begun[name]) for name in names)
    (log,) = (tmp_path / "begun" / "log").iterdir()
    found = re.search(r"begins with .*dense; (\d+) of 38 units are among its own", log.read_text())
    assert found and 10 < int(found[1]) < 38
    before = saved_epochs(tmp_path / "begun")
    run(recipe, tmp_path / "begun", *flags, "--resume", "true")
    assert before == saved_epochs(tmp_path / "begun") == [1]


def test_weights_to_begin_with_that_do_not_fit_are_refused(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture, whole_dir: Path
) -> None:
    begin = ["--init-from", str(whole_dir)]
    assert "train first" in refused(recipe, tmp_path / "exp", capsys, "--init-from", str(tmp_path / "none"))
    assert "number of layers 2 there, 3 here" in refused(recipe, tmp_path / "exp", capsys, *begin, "--group-sizes", "3")
    assert "--freeze encodr: give parts" in refused(recipe, tmp_path / "exp", capsys, "--freeze", "encodr")
    assert not (tmp_path / "exp").exists()


def dev_losses(exp_dir: Path, name: str) -> list[float]:
    """A loss on the validation set after each epoch, from the log."""
    (log,) = (exp_dir / "log").iterdir()
    return [float(loss) for loss in re.findall(rf"dev .*?{name} ([\d.e-]+)", log.read_text())]


def test_units_that_are_others_than_at_the_beginning_are_refused(recipe: Path, tmp_path: Path, capsys: Any) -> None:
    """The lang folder has been made again from other texts, with the same number of units."""
    flags = ["--lang-dir", "data/lang_again", "--vocab-size", "38", "--num-epochs", "1"]
    train_tokenizer([" ".join(WORDS[i : i + 3]) for i in range(8)], recipe / "data/lang_again", 38)
    run(recipe, tmp_path, *flags)
    train_tokenizer([" ".join(WORDS[i : i + 3]) for i in (0, 7, 4, 4, 4)], recipe / "data/lang_again", 38)
    assert "was trained with other units" in refused(recipe, tmp_path, capsys, *flags, "--resume", "true")


def test_going_on_with_other_cuts_is_told(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(recipe / "data", tmp_path / "data")
    path, told = tmp_path / "data/fbank/cuts_train.jsonl.gz", "training cuts are not those"

    def go_on(num_epochs: int) -> str:
        capsys.readouterr()
        run(tmp_path, tmp_path / "exp", "--num-epochs", str(num_epochs), "--resume", "true")
        return capsys.readouterr().err

    lines = gzip.decompress(path.read_bytes()).decode()
    assert told not in go_on(1) + go_on(2)
    path.write_bytes(gzip.compress(lines.replace("ALPHA DELTA", "ALPHA ECHO", 1).encode()))
    assert f"{told} that {tmp_path / 'exp'} was trained on (other ids, times, texts" in " ".join(go_on(3).split())
    path.write_bytes(gzip.compress("".join(lines.splitlines(keepends=True)[1:]).encode()))
    shown = " ".join(go_on(4).split())
    assert "(16 cuts then, 15 now): results are of both" in shown
    assert told not in go_on(5)


def test_other_cuts_inside_an_epoch_are_refused_and_not_written_down(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(recipe / "data", tmp_path / "data")
    flags = "--num-epochs", "2", "--num-threads", "1", "--save-every-n-steps", "1", "--resume", "true"
    step = Trainer.train_step

    def interrupted(self: Trainer, *args, **kwargs) -> StepReport:
        if self.state.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Trainer, "train_step", interrupted)
        run(tmp_path, tmp_path / "exp", *flags)
    before = {path: path.read_bytes() for path in (tmp_path / "exp").rglob("*") if path.is_file()}
    path = tmp_path / "data/fbank/cuts_train.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines(keepends=True)
    path.write_bytes(gzip.compress("".join(lines[1:]).encode()))
    assert "has other batches than when the checkpoint was written" in refused(
        tmp_path, tmp_path / "exp", capsys, *flags
    )
    assert {path: path.read_bytes() for path in (tmp_path / "exp").rglob("*") if path.is_file()} == before


def refused(recipe: Path, exp_dir: Path, capsys: pytest.CaptureFixture, *flags: str) -> str:
    """The last line of a training that must fail."""
    with pytest.raises(SystemExit) as stopped:
        run(recipe, exp_dir, *flags)
    assert stopped.value.code == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_flags_about_experts_are_refused_without_experts(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    merged = replace_fields(TINY, {"experts_in": "none", "merged_sets": 2})
    with pytest.raises(SystemExit):
        run(recipe, tmp_path / "exp", "--num-experts", "4", config=merged)
    assert "--num-experts: nothing in this config uses it" in capsys.readouterr().err
    assert not (tmp_path / "exp").exists()


def start(recipe: Path, exp_dir: Path, *flags: str) -> subprocess.Popen:
    code = "import sys; from tests.test_train import *; run(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])"
    command = [sys.executable, "-c", code, str(recipe), str(exp_dir), "--num-threads", "1", *flags]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_two_processes_train_as_one_that_accumulates(recipe: Path, two_dir: Path, tmp_path: Path) -> None:
    alone = start(recipe, tmp_path / "alone", *OF_TWO, "--accumulate-batches", "2")
    assert alone.wait() == 0
    assert {path.name for path in two_dir.iterdir()} == {path.name for path in (tmp_path / "alone").iterdir()}
    (log,) = (two_dir / "log").iterdir()
    assert "processes: 2, device: cpu" in log.read_text() and log.read_text().count("done: 3 epochs") == 1
    curves = [loss_curve(folder) for folder in (tmp_path / "alone", two_dir)]
    assert len(curves[0]) == 3 and curves[1] == pytest.approx(curves[0], rel=5e-4)


def test_a_process_that_cannot_read_what_another_has_stored_stores_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Data:
        def training_cuts(self) -> str:
            return "own"

    monkeypatch.setattr(train, "world", lambda: World(rank=1, size=2, local_rank=1))
    monkeypatch.setattr(train, "from_local_leader", lambda make: OpenFile("/proc/0/fd/0", 1, "00"))
    assert train.training_cuts(Data()) == "own"


@pytest.fixture(scope="module")
def two_dir(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training in two processes that nothing happens to."""
    exp_dir = tmp_path_factory.mktemp("two") / "exp"
    train_two(recipe, exp_dir, *OF_TWO)
    return exp_dir


OF_TWO = ("--num-epochs", "3", "--dropout", "0", "--max-duration", "3", "--resume", "true", "--save-every-n-steps", "1")


@pytest.mark.slow
def test_torchrun_goes_on_from_the_last_checkpoint_when_a_process_dies(
    recipe: Path, two_dir: Path, tmp_path: Path
) -> None:
    """The two processes are started by two agents, as on two machines."""
    shown = train_two(recipe, tmp_path / "exp", *OF_TWO, num_nodes=2, dies=tmp_path / "dead")
    assert (tmp_path / "dead").exists() and "going on from" in shown
    assert_same(*(load_checkpoint(folder / "epoch-3.pt")["model"] for folder in (two_dir, tmp_path / "exp")))


DIES = """
import os, signal
from tests.test_train import *
marker, step = Path(sys.argv.pop(1)), Trainer.train_step
def step_or_die(self, *batches, **kwargs):
    if self.state.step == 5 and os.environ["RANK"] == "1" and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *batches, **kwargs)
Trainer.train_step = step_or_die
"""
RUNS = """
import sys
from tests.test_train import *
"""


def train_two(recipe: Path, exp_dir: Path, *flags: str, num_nodes: int = 1, dies: Path | None = None) -> str:
    """Train in two processes; return their output. With `dies`, the second kills itself once and leaves that file."""
    script = exp_dir.with_suffix(".py")
    script.write_text((DIES if dies else RUNS) + "run(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])\n")
    arguments = [*([dies] if dies else []), recipe, exp_dir, *flags]
    return torchrun(script, *arguments, num_nodes=num_nodes, max_restarts=int(dies is not None))


def loss_curve(exp_dir: Path) -> list[float]:
    """The training loss of each epoch, from the log."""
    (log,) = (exp_dir / "log").iterdir()
    return [float(loss) for loss in re.findall(r"train loss ([\d.]+)", log.read_text())]


@pytest.fixture(scope="module")
def shar(recipe: Path) -> Path:
    """The training cuts' audio in four shards."""
    folder, cuts = recipe / "data/shar", list(CutSet.from_file(recipe / "data/fbank/cuts_train.jsonl.gz"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(recipe)
        for number in range(4):
            write_shard(cuts[4 * number :][:4], folder, number, {"recording": "flac"})
    return folder


def interrupted_at(step: int) -> Callable[..., StepReport]:
    """`Trainer.train_step` that is interrupted before an update."""
    train_step = Trainer.train_step

    def interrupted(self: Trainer, *args: Any, **kwargs: Any) -> StepReport:
        if self.state.step == step:
            raise KeyboardInterrupt
        return train_step(self, *args, **kwargs)

    return interrupted


def test_shar_trains_for_epochs_and_resumes_at_the_same_bits(
    recipe: Path, shar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    flags = ["--train-cuts", "data/shar", "--num-threads", "1", "--save-every-n-steps", "1", "--resume", "true"]
    whole = run(recipe, tmp_path / "whole", *flags, "--prescan", "true")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Trainer, "train_step", interrupted_at(2))
        run(recipe, tmp_path / "stopped", *flags)
    assert_same(whole, run(recipe, tmp_path / "stopped", *flags))
    assert (tmp_path / "whole" / "training-cuts.json").is_file() and saved_epochs(tmp_path / "whole") == [1, 2]
    assert "WER" in capsys.readouterr().err


def test_endless_shar_trains_by_steps_and_resumes_in_a_new_order(
    recipe: Path, shar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    sources = ["--train-cuts", "data/shar@3,data/fbank/cuts_train.jsonl.gz@1"]
    flags = [*sources, *BY_STEPS, "--num-workers", "1"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Trainer, "train_step", interrupted_at(4))
        run(recipe, tmp_path, *flags)
    assert "new order" not in capsys.readouterr().err
    run(recipe, tmp_path, *flags)
    shown = capsys.readouterr().err
    assert "shards and cuts come in a new order from here on" in shown and "done: 8 steps in" in shown
    assert progress(tmp_path) == [(3, 3 / 8), (6, 6 / 8), (8, 1.0)]
    run(recipe, tmp_path, *flags, "--num-steps", "10")
    assert "epoch 4/4" in capsys.readouterr().err and progress(tmp_path)[2:] == [(8, 1.0), (10, 1.0)]
    assert "num_steps 10 there, 0 now" in refused(recipe, tmp_path, capsys, *flags, "--num-steps", "0")


def test_the_split_trains_by_steps(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run(recipe, tmp_path / "exp", "--num-steps", "3")
    assert progress(tmp_path / "exp") == [(3, 1.0)] and "million parameters, 3 batches" in capsys.readouterr().err
    flags = ("--num-steps", "3", "--train-split", "none")
    assert "cuts_none.jsonl.gz: run ./prepare.sh first" in refused(recipe, tmp_path / "other", capsys, *flags)


BY_STEPS = ("--num-steps", "8", "--steps-per-epoch", "3", "--save-every-n-steps", "1", "--resume", "true")


def progress(exp_dir: Path) -> list[tuple[int, float]]:
    """Updates and share of the training at the end of each epoch."""
    paths = [exp_dir / f"epoch-{epoch}.pt" for epoch in saved_epochs(exp_dir)]
    states = [json.loads(load_checkpoint(path)["train_state"]) for path in paths]
    return [(state["step"], state["progress"]) for state in states]


@pytest.mark.slow
def test_two_processes_train_on_endless_shar_to_the_last_step(recipe: Path, shar: Path, tmp_path: Path) -> None:
    """The second has one shard where the first has three, and dies once."""
    sources = {name: sorted(map(str, shar.glob(f"{name}.*"))) for name in ("cuts", "recording")}
    order = [0, 1, 2, 1, 3, 1]
    listed = {name: [paths[number] for number in order] for name, paths in sources.items()}
    (tmp_path / "shards.json").write_text(json.dumps(listed))
    flags = ["--train-cuts", str(tmp_path / "shards.json"), *BY_STEPS]
    shown = train_two(recipe, tmp_path / "exp", *flags, dies=tmp_path / "dead")
    assert (tmp_path / "dead").exists() and "come in a new order from here on" in shown
    assert progress(tmp_path / "exp") == [(3, 3 / 8), (6, 6 / 8), (8, 1.0)]


@pytest.mark.parametrize("sources", [[], ["--train-cuts", "data/shar", "--num-steps", "6"]])
def test_a_dry_run_says_what_it_would_take_and_writes_nothing(
    recipe: Path, shar: Path, tmp_path: Path, capsys: pytest.CaptureFixture, sources: list[str]
) -> None:
    arguments = ["--exp-dir", str(tmp_path / "exp"), "--dry-run", "true", *sources]
    train.main({"base": TINY}, recipe_dir=recipe, arguments=arguments)
    said = capsys.readouterr().out
    assert re.search(r"reads .*data/(fbank, train|shar, 4 shards, weight 1)", said), said
    assert re.search(
        r"needs [\d,]+ MB for .*takes (2 epochs|6 steps), [\d,]+ batches an epoch of each of 1 processes",
        said,
        re.DOTALL,
    )
    assert not (tmp_path / "exp").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train-cuts", "data/none"], "train_cuts data/none: no file or folder"),
        (["--train-cuts", "data/shar@2"], "has a weight: give --num-steps too"),
        (
            ["--dry-run", "true", "--accumulate-batches", "99"],
            "there are fewer training cuts than batches in an update",
        ),
        (["--noise-snr", "0,9"], "--noise-snr: nothing in this config uses it, since noise_manifest is empty"),
        (["--train-cuts", "data/shar", "--num-mel-bins", "40"], "40"),
        (["--buffer-cuts", "0"], "buffer_cuts is 0: give 1 or more"),
    ],
)
def test_mistakes_about_sources_are_one_line(
    recipe: Path, shar: Path, tmp_path: Path, capsys: pytest.CaptureFixture, flags: list[str], message: str
) -> None:
    assert message in refused(recipe, tmp_path / "exp", capsys, *flags)
    assert not (tmp_path / "exp").exists()
