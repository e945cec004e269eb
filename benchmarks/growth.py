"""Does an hour of audio take as long in a large corpus as in a small one? And the manifest of a million cuts?

    python -m benchmarks.growth

Each step does what its program does with a cut set: reads and checks the manifest, plans batches, and goes through all
of it. The model is small, so that it does not hide what surrounds it.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr
from typing import Any

import numpy as np
from lhotse import CutSet
from tqdm import tqdm

from benchmarks.corpus import FEATURES, VOCAB_SIZE, cpu_seconds, data_module, make_config, part_of, temporary_corpus
from benchmarks.tables import Floor, Report, Table, command_line
from benchmarks.timing import peak_resident_memory, resident_memory
from shared_moe_conformer.config import Config, EncoderConfig, FeatureConfig, ModelConfig
from shared_moe_conformer.data.feature_files import store_features
from shared_moe_conformer.data.manifests import cuts_path
from shared_moe_conformer.decode import write_scores
from shared_moe_conformer.decoding.comparison import decode_batches
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.training.trainer import Trainer

SIZES, MANIFEST_SIZES = [10, 100, 1_000, 10_000], [3_000, 30_000, 1_000_000]
SHORTEST, LONGEST = 1.0, 4.0
"""Seconds of a cut."""
FEWEST_IN_ALL = 300
"""Cuts that are gone through for a row; small sets are gone through several times."""
TIME_FLOOR, MEMORY_FLOOR = 1.2, 1024


def measure(quick: bool) -> Report:
    """Both tables, each size in turn."""
    sizes, manifest_sizes = ([2, 4], [20, 40]) if quick else (SIZES, MANIFEST_SIZES)
    with temporary_corpus(4 if quick else 100, seconds=LONGEST + 1) as cuts:
        steps = time_per_hour(cuts, sizes, times=1 if quick else FEWEST_IN_ALL)
        manifests = manifest_table(manifest_sizes)
    return Report([steps, manifests], [] if quick else floors(steps.rows, manifests.rows))


def floors(steps: list[list[Any]], manifests: list[list[Any]]) -> list[Floor]:
    """Time grows as the audio does, and memory stays."""
    names = ["features", "training", "decoding"]
    largest, fewer = steps[-1], steps[:-1]
    most = [max(largest[column] / row[column] for row in fewer) for column in (2, 3, 4)]
    return [
        *[
            Floor(f"s an hour of audio, {name}, {largest[0]:,} cuts over any fewer", TIME_FLOOR, ratio)
            for name, ratio in zip(names, most, strict=True)
        ],
        Floor(
            f"s an hour of audio, manifest of {manifests[-1][0]:,} cuts over {manifests[0][0]:,}",
            TIME_FLOOR,
            manifests[-1][3] / manifests[0][3],
        ),
        Floor(f"MiB for {manifests[-1][0]:,} cuts", MEMORY_FLOOR, manifests[-1][4]),
    ]


def time_per_hour(recordings: CutSet, sizes: list[int], *, times: int) -> Table:
    """CPU seconds of features, of an epoch of training and of decoding with scores, by number of cuts."""
    encoder = EncoderConfig(
        encoder_dim=128, feed_forward_dim=512, subsampling_channels=32, group_sizes=(2,), num_experts=3
    )
    config = make_config(ModelConfig(encoder=encoder, vocab_size=VOCAB_SIZE), max_duration=60.0)
    rows = []
    every = cuts_of(recordings, max(sizes))
    for number in tqdm([sizes[0], *sizes], desc="sizes", unit="size"):  # the first once more: libraries load
        cuts = every.subset(first=number)
        hours = sum(cut.duration for cut in cuts) / 3600
        calls = [functools.partial(step, cuts, config) for step in (features, training, decoding)]
        repeats = max(times // number, 1)
        rows.append([number, hours, *(seconds_of(call, repeats) / hours for call in calls)])
    columns = ["cuts", "hours", "features", "training, an epoch", "decoding, greedy search"]
    return Table("CPU seconds an hour of audio, by number of cuts", columns, rows[1:])


def cuts_of(recordings: CutSet, number: int) -> CutSet:
    """Cuts of different lengths, each somewhere in one of the recordings."""
    rng = np.random.default_rng(1)
    whole = list(recordings)
    cuts = []
    for i in range(number):
        duration = round(float(rng.uniform(SHORTEST, LONGEST)), 2)
        start = round(float(rng.uniform(0, whole[0].duration - duration)), 2)
        recording = whole[i % len(whole)].recording
        cuts.append(part_of(recording, f"part-{i}", rng, start=start, duration=duration))
    return CutSet.from_cuts(cuts)


def seconds_of(call: Callable[[], object], repeats: int) -> float:
    """CPU seconds of a call, the mean over `repeats`."""
    before = cpu_seconds()
    for _ in range(repeats):
        call()
    return (cpu_seconds() - before) / repeats


def features(cuts: CutSet, config: Config) -> None:
    """Run the features stage of prepare.sh; the cuts are then the training split and the test split."""
    with redirect_stderr(io.StringIO()):  # its progress
        store_features(cuts, "train", directory=FEATURES, config=FeatureConfig())
    cuts_path(FEATURES, "test").write_bytes(cuts_path(FEATURES, "train").read_bytes())


def training(cuts: CutSet, config: Config) -> None:
    """An epoch."""
    trainer = Trainer(AsrModel(config.model), config.training)
    for batch in data_module(config).train_loader():
        trainer.train_step(batch, progress=0.5)


def decoding(cuts: CutSet, config: Config) -> None:
    """All of the test split by an untrained model, and its error rates and their files."""
    data = data_module(config)
    batches = data.test_loaders()["test"]
    to_text = data.tokenizer.decode
    result = decode_batches(AsrModel(config.model).eval(), batches, [DecodingConfig()], to_text=to_text)[0]
    write_scores(result, FEATURES.parent, test_set="test", checkpoint="untrained")


def manifest_table(sizes: list[int]) -> Table:
    """Time and memory of reading a manifest and planning an epoch, in a process for each size."""
    with gzip.open(cuts_path(FEATURES, "train")) as file:
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


def write_manifest_of(number: int, line: dict[str, Any]) -> None:
    """Write a manifest of copies of one cut, of different lengths; its words fit into all of them."""
    line["supervisions"][0]["duration"] = line["duration"] / 2
    before, after = json.dumps({**line, "id": "cut-NUMBER"}).split("NUMBER")
    after = after.replace(f'"duration": {line["duration"]}', '"duration": SECONDS', 1)
    with gzip.open(cuts_path(FEATURES, "train"), "wt", compresslevel=1) as file:
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


if __name__ == "__main__":
    command_line(measure, __doc__)
