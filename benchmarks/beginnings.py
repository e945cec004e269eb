"""Does a training of 30,000,000 cuts begin, and resume, as soon as one of 3,000? Does its memory stay over a million?

    python -m benchmarks.beginnings

Each row is a training by the program itself, of a small model, in two processes of its own: the first begins, the
second resumes. The cuts are copies of a few. 30,000,000 are simulated: a manifest of 1,000,000 or a shard of 1,000 is
read again and again.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.corpus import FEATURES, VOCAB_SIZE, data_module, make_config, temporary_corpus
from benchmarks.growth import write_manifest_of
from benchmarks.tables import Report, Table, command_line
from benchmarks.timing import peak_resident_memory, resident_memory
from shared_moe_conformer.config import EncoderConfig, FeatureConfig, ModelConfig, replace_fields
from shared_moe_conformer.data.feature_files import store_features
from shared_moe_conformer.data.manifests import cuts_path
from shared_moe_conformer.data.shar import write_shard
from shared_moe_conformer.train import train
from shared_moe_conformer.training.experiment import RunOptions

REAL = 1_000_000
"""Lines of the largest manifest that is written line by line."""
CUTS_PER_SHARD = 1000
SHARES = (0.05, 0.3, 1.0)
"""Of a pass, after which memory is looked at."""
ENCODER = EncoderConfig(
    encoder_dim=32, feed_forward_dim=64, subsampling_channels=4, conv_kernel_size=5, group_sizes=(1,), experts_in="none"
)
ENDLESS = {"num_steps": 1_000_000, "num_time_masks": 0, "num_freq_masks": 0}


class Stop(Exception):
    """Ends a training."""


def measure(quick: bool) -> Report:
    """All sizes in turn, and then a pass over many cuts."""
    sizes, more = ([20, 40], 2) if quick else ([3_000, REAL, 30 * REAL], 50)
    real, per_shard = (20, 10) if quick else (REAL, CUTS_PER_SHARD)
    call = here if quick else alone
    with temporary_corpus(2, seconds=1.0) as cuts:
        for split in ("train", "dev"):
            stored = list(store_features(cuts, split, directory=FEATURES, config=FeatureConfig()))
        write_shard([stored[0].with_id(f"cut-{i}") for i in range(per_shard)], Path("shard"), 0, {"features": "lilcom"})
        with gzip.open(cuts_path(FEATURES, "train")) as file:
            line = json.loads(file.readline())
        rows = []
        for number in sizes:
            manifest, shards = write_sources(number, real, per_shard, line)
            ways: dict[str, dict[str, Any]] = {
                "manifest, by steps": {"train_cuts": (manifest,), **ENDLESS},
                "Shar, by steps": {"train_cuts": (shards,), **ENDLESS},
                **({"the training split": {}} if number <= real else {}),
            }
            rows += [[f"{number:,} cuts, {way}", *begun_and_resumed(call, way, ways[way], more)] for way in ways]
        flat = [[kind, *call(memory_of_pass, f"{real}.{end}", real)] for kind, end in KINDS.items()]
    columns = ["", "s to the first update", "the same, resumed", "MiB", f"MiB {more} updates later"]
    return Report(
        [
            Table("The beginning of a training", columns, rows),
            Table(f"Reading {real:,} cuts", ["", *(f"MiB after {share:.0%}" for share in SHARES)], flat),
        ],
        [],
    )


KINDS = {"manifest": "jsonl.gz", "Shar": "json"}


def write_sources(number: int, real: int, per_shard: int, line: dict[str, Any]) -> tuple[str, str]:
    """Write a manifest and a list of shards of `number` cuts; up to `real` of them become the training split, too."""
    manifest, shards = f"{number}.jsonl.gz", Path(f"{number}.json")
    if number <= real:
        write_manifest_of(number, line)
        shutil.copy(cuts_path(FEATURES, "train"), manifest)
    else:  # members of a gzip file follow each other
        Path(manifest).write_bytes(Path(f"{real}.jsonl.gz").read_bytes() * (number // real))
    files = {"cuts": "shard/cuts.000000.jsonl.gz", "features": "shard/features.000000.tar"}
    shards.write_text(json.dumps({field: [path] * (number // per_shard) for field, path in files.items()}))
    return manifest, str(shards)


Call = Callable[..., list[float]]
"""Calls a function with arguments."""


def begun_and_resumed(call: Call, name: str, options: dict[str, Any], more: int) -> list[float]:
    """Seconds to the first update of a training that begins and of one that resumes, and memory of the latter."""
    exp_dir = Path("exp") / name.replace(" ", "-")
    shutil.rmtree(exp_dir, ignore_errors=True)
    first, *_ = call(train_for, exp_dir, options, 1)
    return [first, *call(train_for, exp_dir, options, more)]


def alone(function: Callable[..., list[float]], *arguments: Any) -> list[float]:
    """What a function returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def here(function: Callable[..., list[float]], *arguments: Any) -> list[float]:
    """What a function returns in this process, at once."""
    return function(*arguments)


def train_for(exp_dir: Path, options: dict[str, Any], updates: int) -> list[float]:
    """Train, or continue; seconds to the first update, MiB at the most until then and until the last."""
    config = replace_fields(make_config(ModelConfig(encoder=ENCODER, vocab_size=VOCAB_SIZE)), options)
    run, found = RunOptions(resume=True, save_every_n_steps=1, num_threads=1), list[float]()
    before, start = resident_memory(), time.perf_counter()

    def updated() -> None:
        found.append(time.perf_counter() - start if not found else peak_resident_memory() - before)
        if len(found) == 1:
            found.append(peak_resident_memory() - before)
        if len(found) > updates:
            raise Stop

    with contextlib.suppress(Stop), open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        train(config, exp_dir, recipe_dir=Path(), options=run, between_steps=updated)
    return [found[0], found[1], found[-1]]


def memory_of_pass(source: str, number: int) -> list[float]:
    """The peak memory in MiB after each of the shares of the cuts."""
    before = resident_memory()
    data = data_module(replace_fields(make_config(), {"train_cuts": (source,), "steps_per_epoch": number, **ENDLESS}))
    given, found = 0, list[float]()
    for batch in data.stream_loader(data.survey()):
        given += len(batch.x)
        found += [peak_resident_memory() - before for share in SHARES[len(found) :] if given >= share * number]
        if len(found) == len(SHARES):
            break
    return found


if __name__ == "__main__":
    command_line(measure, __doc__)
