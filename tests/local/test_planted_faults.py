"""Real clips with every fault that corpora have: each is named, left out, and the training comes to its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.utils import fastcopy

from shared_moe_conformer import train
from shared_moe_conformer.config import replace_fields
from shared_moe_conformer.data.manifests import cuts_path, read_cuts, write_manifest
from shared_moe_conformer.training.folder import load_checkpoint
from tests.conftest import TINY
from tests.local.conftest import Result

MANIFESTS, FBANK, LANG = Path("data/manifests"), Path("data/fbank"), Path("data/lang")
NUM_GOOD = 70


def clip(
    folder: Path, cut_id: str, samples: np.ndarray, rate: int = 8000, *, declared: int = 8000, text: str
) -> MonoCut:
    """A cut of samples in a file of its own; `declared` is the rate that its manifest says."""
    path = folder / f"{cut_id}.wav"
    soundfile.write(path, samples, rate, subtype="FLOAT")
    duration = len(samples) / declared
    recording = fastcopy(Recording.from_file(path, recording_id=cut_id), sampling_rate=declared, duration=duration)
    supervision = SupervisionSegment(cut_id, cut_id, start=0.0, duration=duration, text=text)
    return MonoCut(cut_id, 0.0, duration, 0, recording=recording, supervisions=[supervision])


def plant(folder: Path, like: MonoCut) -> dict[str, tuple[MonoCut, str]]:
    """One cut for each fault, and what must be said of it."""
    samples = like.load_audio()[0]
    nan = samples.copy()
    nan[1000:1010] = np.nan
    second = np.tile(samples, 2)[:8000]
    return {
        "empty": (clip(folder, "empty", samples, text=""), "empty transcript"),
        "short": (clip(folder, "short", samples[:160], text="A"), "0.02 s long, not 0.3 to 30"),
        "long": (clip(folder, "long", np.resize(samples, 480_000), text="PRESS ONE"), "60.00 s long, not 0.3 to 30"),
        "nan": (clip(folder, "nan", nan, text="PRESS TWO"), "recording holds NaN or infinity"),
        "rate": (clip(folder, "rate", samples, 16000, text="PRESS THREE"), "at 16000 Hz, its manifest says 8000 Hz"),
        "tokens": (clip(folder, "tokens", second, text="PRESS ONE " * 60), "characters cannot be said in 1.00 s"),
    }


@pytest.mark.slow
def test_a_corpus_with_every_fault_trains_to_the_end(
    prepared_recipe: Path, tmp_path: Path, run_local: Callable[..., Result], capfd: pytest.CaptureFixture
) -> None:
    splits = {s: list(read_cuts(prepared_recipe / MANIFESTS, s, recipe_dir=prepared_recipe)) for s in ("train", "dev")}
    good = splits["train"][:NUM_GOOD]
    planted = plant(tmp_path, good[0])
    parts = {"train": [*good, *(cut for cut, _ in planted.values())], "dev": splits["dev"][:6]}
    for split, cuts in parts.items():
        write_manifest(CutSet.from_cuts(cuts), cuts_path(tmp_path / MANIFESTS, split))
    check = "validate_cuts", "--splits", "train", "dev", "--read-audio", "--manifest-dir"

    refused = run_local(*check, MANIFESTS)
    assert refused.status == 1 and "--drop-faulty true" in refused.err
    dropped = run_local(*check, MANIFESTS, "--drop-faulty")
    assert dropped.status == 0, dropped.err
    report = (tmp_path / MANIFESTS / "checks.txt").read_text()
    for cut_id, (_, fault) in planted.items():
        assert any(line.startswith(f"  {cut_id}: ") and fault in line for line in report.splitlines()), cut_id
    assert f"LEFT OUT of train: 6 of {NUM_GOOD + 6} cuts: {', '.join(sorted(planted))}" in dropped.out
    assert run_local("compute_fbank", "--splits", "train", "dev", "--speeds").status == 0
    assert run_local("train_tokenizer", "--vocab-size", 40, "--lang-dir", LANG, "--covered-splits", "dev").status == 0
    assert run_local(*check, FBANK, "--lang-dir", LANG, "--read-features").status == 0

    cuts = read_cuts(tmp_path / FBANK, "train", recipe_dir=Path())
    too_dense = [fastcopy(c, supervisions=[fastcopy(c.supervisions[0], text="A B " * 60)]) for c in list(cuts)[:1]]
    write_manifest(CutSet.from_cuts([*too_dense, *list(cuts)[1:]]), cuts_path(tmp_path / FBANK, "train"))
    config = replace_fields(TINY, {"lang_dir": str(LANG), "num_epochs": 1, "num_workers": 0, "max_duration": 30.0})
    train.main({"base": config}, recipe_dir=tmp_path, arguments=["--exp-dir", str(tmp_path / "exp")])
    assert f"left out of the training: {too_dense[0].id}: " in capfd.readouterr().err
    assert all(value.isfinite().all() for value in load_checkpoint(tmp_path / "exp" / "epoch-1.pt")["model"].values())
