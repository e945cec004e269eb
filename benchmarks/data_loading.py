"""Features against real time, the share of a training epoch that waits for data, and manifests as they grow.

python -m benchmarks.data_loading
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from benchmarks.tables import Report, Table, command_line
from benchmarks.timing import resident_memory
from shared_moe_conformer.config import Config, DataConfig, EncoderConfig, FeatureConfig, ModelConfig
from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.feature_store import store_features
from shared_moe_conformer.data.manifests import cuts_path
from shared_moe_conformer.data.tokenizer import Tokenizer, train_tokenizer
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.training.trainer import Trainer

WORDS = ["ALPHA", "BRAVO", "CHARLIE", "DELTA", "ECHO", "FOXTROT", "GOLF", "HOTEL", "INDIA", "JULIET"]
VOCAB_SIZE = 40
SECONDS_PER_CUT = 10.0


def measure(quick: bool) -> Report:
    """Everything in a temporary folder."""
    num_cuts, sizes = (4, [20, 40]) if quick else (60, [300, 3000, 30000])
    with tempfile.TemporaryDirectory() as folder, working_in(Path(folder)):
        cuts = make_cuts(num_cuts, seconds=1.0 if quick else SECONDS_PER_CUT)
        train_tokenizer([cut.supervisions[0].text for cut in cuts], Path("data/lang"), VOCAB_SIZE)
        tables = [features(cuts, jobs=[1] if quick else [1, 2]), waiting(quick), growth(sizes)]
    return Report(tables, [])


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Manifests have relative paths."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def make_cuts(number: int, *, seconds: float) -> CutSet:
    """Cuts of noise at 16 kHz, each in a file of its own, and with two words a second."""
    rng = np.random.default_rng(0)
    return CutSet.from_cuts(make_cut(f"cut-{i}", rng, seconds=seconds) for i in range(number))


def make_cut(cut_id: str, rng: np.random.Generator, *, seconds: float) -> MonoCut:
    """A cut and its file."""
    path = Path("audio") / f"{cut_id}.wav"
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, 0.1 * rng.standard_normal(int(seconds * 16000)), 16000, subtype="PCM_16")
    recording = Recording.from_file(path, recording_id=cut_id)
    text = " ".join(rng.choice(WORDS, max(int(2 * seconds), 1)))
    supervision = SupervisionSegment(cut_id, cut_id, start=0.0, duration=recording.duration, text=text)
    return MonoCut(cut_id, 0.0, recording.duration, 0, recording=recording, supervisions=[supervision])


def features(cuts: CutSet, *, jobs: list[int]) -> Table:
    """Clock time, since several processes work."""
    hours = sum(cut.duration for cut in cuts) / 3600
    rows = []
    for num_jobs in jobs:
        start = time.perf_counter()
        store_features(cuts, "train", directory=Path("data/fbank"), config=FeatureConfig(), num_jobs=num_jobs)
        seconds = time.perf_counter() - start
        rows.append([num_jobs, seconds, 3600 * hours / seconds])
    return Table(f"Features of {60 * hours:.0f} minutes of audio", ["jobs", "s, clock", "times real time"], rows)


def waiting(quick: bool) -> Table:
    """CPU seconds of reading batches and of training on them, by one process that does both."""
    encoder = EncoderConfig(
        encoder_dim=32 if quick else 256, subsampling_channels=4 if quick else 64, group_sizes=(1,) if quick else (12,)
    )
    config = make_config(dataclasses.replace(make_config().model, encoder=encoder))
    loader = data_module(config).train_loader()
    trainer = Trainer(AsrModel(config.model), config.training)
    loading, training, mark = 0.0, 0.0, time.process_time()
    for batch, _ in zip(loader, range(4)):
        now = time.process_time()
        trainer.train_step(batch, progress=0.5)
        loading, training, mark = loading + now - mark, training + time.process_time() - now, time.process_time()
    rows = [["reading batches", loading, loading / (loading + training)], ["training", training, None]]
    return Table("What a training epoch of one process waits for", ["", "s, CPU", "share"], rows)


def growth(sizes: list[int]) -> Table:
    """What it takes to read a manifest and plan an epoch, in a process for each size."""
    with gzip.open(cuts_path(Path("data/fbank"), "train")) as file:
        line = json.loads(file.readline())
    rows = []
    for number in sizes:
        write_manifest_of(number, line)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            seconds, mib = pool.submit(plan_epoch).result()
        hours = number * line["duration"] / 3600
        rows.append([number, hours, seconds, seconds / hours, mib, 1024 * mib / number])
    columns = ["cuts", "hours", "s, CPU", "s an hour of audio", "MiB", "kiB a cut"]
    return Table("A manifest read and an epoch planned", columns, rows)


def write_manifest_of(number: int, line: dict[str, Any]) -> None:
    """A manifest of copies of one cut."""
    with gzip.open(cuts_path(Path("data/fbank"), "train"), "wt", compresslevel=1) as file:
        for i in range(number):
            file.write(json.dumps({**line, "id": f"cut-{i}"}) + "\n")


def plan_epoch() -> tuple[float, float]:
    """CPU seconds and MiB of making the training split's loader."""
    data = data_module(make_config())
    before, start = resident_memory(), time.process_time()
    loader = data.train_loader()
    assert len(loader) > 0
    return time.process_time() - start, resident_memory() - before


def make_config(model: ModelConfig | None = None) -> Config:
    """A config of the temporary folder."""
    return Config(
        model=model or ModelConfig(vocab_size=VOCAB_SIZE),
        data=DataConfig(lang_dir="data/lang", max_duration=80.0, num_workers=0),
    )


def data_module(config: Config) -> AsrDataModule:
    """The temporary folder's."""
    return AsrDataModule(config, Path("."), Tokenizer.load(Path("data/lang")))


if __name__ == "__main__":
    command_line(measure, __doc__)
