"""Features and reading against real time and against Lhotse's own pieces, and what a training waits for.

python -m benchmarks.data_loading
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lhotse import CutSet, Fbank, FbankConfig, MonoCut, Recording
from lhotse.dataset import DynamicBucketingSampler, K2SpeechRecognitionDataset
from lhotse.dataset.input_strategies import OnTheFlyFeatures, PrecomputedFeatures

from benchmarks.corpus import FEATURES, cpu_seconds, data_module, make_config, temporary_corpus
from benchmarks.tables import Floor, Report, Table, command_line
from benchmarks.timing import take_turns
from shared_moe_conformer.config import EncoderConfig, FeatureConfig, replace_fields
from shared_moe_conformer.data.feature_files import store_features
from shared_moe_conformer.data.loaders import plan_epoch
from shared_moe_conformer.data.manifests import cuts_path
from shared_moe_conformer.data.shar import write_shard
from shared_moe_conformer.data.tokenizer import tokens_of
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.training.trainer import Trainer

FORMS = {"stored features": {}, "FLAC shards": {"recording": "flac"}, "Opus shards": {"recording": "opus"}}
"""Fields of the shards that a form of the corpus has, if any."""
NUM_SHARDS = 4
MAX_DURATION = 80.0
"""Seconds in a batch."""
SLOWEST = 1.05
"""CPU time of reading, as a multiple of Lhotse's, that is allowed."""


def measure(quick: bool) -> Report:
    """One after the other."""
    with temporary_corpus(4 if quick else 60, seconds=1.0 if quick else 10.0) as cuts:
        tables = [features(cuts, jobs=[1] if quick else [1, 2]), waiting(quick), batches(500 if quick else 30_000)]
        read = reading(cuts, rounds=1 if quick else 5)
    floors = [Floor(f"CPU of reading {row[0]} over Lhotse's", SLOWEST, row[3]) for row in read.rows]
    return Report([*tables, read], [] if quick else floors)


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


def batches(number: int) -> Table:
    """What `plan_epoch` gives, and what Lhotse's sampler does, for as many made-up durations."""
    durations = np.clip(np.random.default_rng(0).lognormal(2.3, 0.5, number), 1, 30)
    recording = Recording("all", [], 16000, 30 * 16000, 30.0)
    cuts = CutSet.from_cuts(MonoCut(f"cut-{i}", 0.0, float(d), 0, recording=recording) for i, d in enumerate(durations))
    rows = []
    for count in (1, 8):
        start = time.process_time()
        plan = plan_epoch(durations, max_duration=MAX_DURATION, num_buckets=10, batches_per_update=count, seed=0)
        used = time.process_time() - start
        rows.append([f"ours, {count} processes", used, *shares([durations[indexes] for indexes, _ in plan], count)])
        start = time.process_time()
        parts = [
            [np.array([cut.duration for cut in batch]) for batch in lhotses_sampler(cuts, rank=rank, world_size=count)]
            for rank in range(count)
        ]
        used = (time.process_time() - start) / count
        together = [batch for update in zip(*parts) for batch in update]
        rows.append([f"Lhotse's, {count} processes", used, *shares(together, count)])
    columns = ["", "s, CPU, to plan an epoch", "padding", "waiting for the slowest process"]
    return Table(f"Batches of {number:,} cuts", columns, rows)


def lhotses_sampler(cuts: CutSet, *, num_buckets: int = 10, **part: int) -> DynamicBucketingSampler:
    """Its batches, of one process's part."""
    options = {"max_duration": MAX_DURATION, "num_buckets": num_buckets, "shuffle": True, "seed": 0, **part}
    return DynamicBucketingSampler(cuts, **options)


def shares(planned: list[np.ndarray], count: int) -> list[float]:
    """The share of padding, and of the time in which the processes of an update wait for the one with most to do."""
    padded = np.array([batch.max() * len(batch) for batch in planned])
    updates = padded[: len(padded) // count * count].reshape(-1, count)
    own = sum(batch.sum() for batch in planned)
    return [float(1 - own / padded.sum()), float(1 - updates.mean(axis=1).sum() / updates.max(axis=1).sum())]


def reading(cuts: CutSet, *, rounds: int) -> Table:
    """Hours of audio that become batches in an hour of CPU, without any augmentation, here and by Lhotse alone."""
    rows = []
    stored, hours = CutSet.from_file(cuts_path(FEATURES, "train")), sum(cut.duration for cut in cuts) / 3600
    for form, fields in FORMS.items():
        source = cuts_path(FEATURES, "train")
        if fields:
            source = Path("data") / form.split()[0]
            for number in range(NUM_SHARDS):
                write_shard(list(stored)[number::NUM_SHARDS], source, number, fields)
        ours, lhotses = ours_of(source), functools.partial(read_by_lhotse, source)
        times = take_turns({"Lhotse": lhotses, "ours": ours}, rounds=rounds)
        rows.append([form, hours / (times["ours"].seconds / 3600), hours / (times["Lhotse"].seconds / 3600)])
        rows[-1].append(times["ours"].ratio)
    columns = ["", "hours an hour and core", "Lhotse's own pieces", "CPU over Lhotse's"]
    return Table(f"Reading {60 * hours:.0f} minutes of audio", columns, rows)


def ours_of(source: Path) -> Callable[[], object]:
    """A function that reads an epoch of train_cuts."""
    options = {"train_cuts": (str(source),), "num_time_masks": 0, "num_freq_masks": 0, "num_buckets": 2}
    data = data_module(replace_fields(make_config(), options))
    loader = data.stream_loader(data.survey())

    def read() -> None:
        loader.set_epoch(1)
        tokens_of.cache_clear()  # each text is new in an epoch of more cuts
        assert sum(len(batch.x) for batch in loader)

    return read


def read_by_lhotse(source: Path) -> None:
    """Read all cuts as icefall's recipes do."""
    cuts = CutSet.from_shar(in_dir=source) if source.is_dir() else CutSet.from_jsonl_lazy(source)
    strategy = OnTheFlyFeatures(Fbank(FbankConfig(num_mel_bins=80))) if source.is_dir() else PrecomputedFeatures()
    dataset = K2SpeechRecognitionDataset(input_strategy=strategy)
    assert sum(len(dataset[batch]["inputs"]) for batch in lhotses_sampler(cuts, num_buckets=2, rank=0, world_size=1))


if __name__ == "__main__":
    command_line(measure, __doc__)
