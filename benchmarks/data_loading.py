"""Features against real time, the share of a training epoch that waits for data, and manifests as they grow.

python -m benchmarks.data_loading
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import multiprocessing
import os
import resource
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

from benchmarks.tables import Floor, Report, Table, command_line
from benchmarks.timing import peak_resident_memory, resident_memory
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
TIME_FLOOR, MEMORY_FLOOR = 1.2, 1024


def measure(quick: bool) -> Report:
    """Everything in a temporary folder."""
    num_cuts, sizes = (4, [20, 40]) if quick else (60, [3_000, 30_000, 1_000_000])
    with tempfile.TemporaryDirectory() as folder, working_in(Path(folder)):
        cuts = make_cuts(num_cuts, seconds=1.0 if quick else SECONDS_PER_CUT)
        train_tokenizer([cut.supervisions[0].text for cut in cuts], Path("data/lang"), VOCAB_SIZE)
        tables = [features(cuts, jobs=[1] if quick else [1, 2]), waiting(quick), growth(sizes)]
    return Report(tables, [] if quick else growth_floors(tables[-1].rows))


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
    """CPU seconds of all processes, the clock, and from how much audio on another process is worth its start."""
    minutes = sum(cut.duration for cut in cuts) / 60
    rows: list[list[Any]] = []
    for num_jobs in jobs:
        start, cpu = time.perf_counter(), cpu_seconds()
        store_features(cuts, "train", directory=Path("data/fbank"), config=FeatureConfig(), num_jobs=num_jobs)
        cpu = cpu_seconds() - cpu
        rows.append([num_jobs, time.perf_counter() - start, cpu, 60 * minutes / cpu, None])
    for row in rows[1:]:  # starting takes this much; n processes at work save (1 - 1 / n) of one's time
        starting = (row[2] - rows[0][2]) / row[0]
        row[4] = minutes * starting / (rows[0][2] * (1 - 1 / row[0]))
    columns = [
        "jobs",
        "s, clock, on one core",
        "s, CPU",
        "times real time, a core",
        "faster on free cores from, minutes",
    ]
    return Table(f"Features of {minutes:.0f} minutes of audio", columns, rows)


def cpu_seconds() -> float:
    """Of this process and of those that it has started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


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
    return Table("A manifest read and checked, and an epoch planned", columns, rows)


def growth_floors(rows: list[list[Any]]) -> list[Floor]:
    """Time grows as the audio does, and memory stays."""
    per_hour = rows[-1][3] / rows[0][3]
    return [
        Floor(f"s an hour of audio, {rows[-1][0]:,} cuts over {rows[0][0]:,}", TIME_FLOOR, per_hour),
        Floor(f"MiB for {rows[-1][0]:,} cuts", MEMORY_FLOOR, rows[-1][4]),
    ]


def write_manifest_of(number: int, line: dict[str, Any]) -> None:
    """A manifest of copies of one cut, of different lengths, in all of which its words fit."""
    line["supervisions"][0]["duration"] = line["duration"] / 2
    before, after = json.dumps({**line, "id": "cut-NUMBER"}).split("NUMBER")
    after = after.replace(f'"duration": {line["duration"]}', '"duration": SECONDS', 1)
    with gzip.open(cuts_path(Path("data/fbank"), "train"), "wt", compresslevel=1) as file:
        for i in range(number):
            seconds = line["duration"] * (1 - i % 7 / 20)
            file.write(f"{before}{i}{after.replace('SECONDS', f'{seconds:.2f}', 1)}\n")


def plan_epoch() -> tuple[float, float]:
    """CPU seconds and MiB, at the most, of making the training split's loader."""
    data = data_module(make_config())
    before, start = resident_memory(), time.process_time()
    loader = data.train_loader()
    assert len(loader) > 0
    return time.process_time() - start, max(peak_resident_memory() - before, 0.0)


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
