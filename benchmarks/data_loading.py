"""Features against real time, and the share of a training epoch that waits for data.

python -m benchmarks.data_loading
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from lhotse import CutSet

from benchmarks.corpus import FEATURES, cpu_seconds, data_module, make_config, temporary_corpus
from benchmarks.tables import Report, Table, command_line
from shared_moe_conformer.config import EncoderConfig, FeatureConfig
from shared_moe_conformer.data.features import store_features
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.training.trainer import Trainer


def measure(quick: bool) -> Report:
    """Both, one after the other."""
    with temporary_corpus(4 if quick else 60, seconds=1.0 if quick else 10.0) as cuts:
        return Report([features(cuts, jobs=[1] if quick else [1, 2]), waiting(quick)], [])


def features(cuts: CutSet, *, jobs: list[int]) -> Table:
    """CPU seconds of all processes, the clock, and from how much audio on another process is worth its start."""
    minutes = sum(cut.duration for cut in cuts) / 60
    rows: list[list[Any]] = []
    for num_jobs in jobs:
        start, cpu = time.perf_counter(), cpu_seconds()
        store_features(cuts, "train", directory=FEATURES, config=FeatureConfig(), num_jobs=num_jobs)
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


if __name__ == "__main__":
    command_line(measure, __doc__)
