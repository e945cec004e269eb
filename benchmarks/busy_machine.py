"""Recognition beside processes that keep every core busy: how much longer does it take?

    python -m benchmarks.busy_machine

Utterances of two seconds, one by one, by a model of asterisk's size with random weights, greedy search. Each time is
that of a process of its own; the ways take turns, and the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.tables import Table, markdown
from shared_moe_conformer.config import EncoderConfig, ModelConfig
from shared_moe_conformer.decoding.methods import decode_batch
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.device import limit_threads, tune_cpu
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.params import counts_of

ROOT = Path(__file__).resolve().parent.parent
WAYS = {
    "torch's own threads": ("torch", False),
    "threads that wait passively": ("shared_moe_conformer", False),
    "these, no more than the model has work for (as the verbs do)": ("shared_moe_conformer", True),
}
"""By name: the first module that is imported, before OpenMP reads its settings, and whether threads are limited."""
OF_THREADS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS")
LONGEST = 120.0
"""Seconds after which a process is not waited for."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--utterances", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=os.cpu_count(), help="busy processes [number of cores]")
    args = parser.parse_args()
    print(markdown(table(args.utterances, num_busy=args.busy, rounds=args.rounds)))


def table(num_utterances: int, *, num_busy: int, rounds: int) -> Table:
    """Seconds by the clock of each way, alone and not."""
    alone: dict[str, list[float]] = {name: [] for name in WAYS}
    beside: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            alone[name].append(seconds(*way, num_utterances))
            with busy(num_busy):
                beside[name].append(seconds(*way, num_utterances))
    medians = [(name, statistics.median(alone[name]), statistics.median(beside[name])) for name in WAYS]
    rows = [[name, without, among, among / without] for name, without, among in medians]
    columns = [f"{num_utterances} utterances", "s alone", f"s beside {num_busy} busy processes", "times"]
    return Table("Recognition on a busy machine, s by the clock", columns, rows)


@contextlib.contextmanager
def busy(number: int) -> Iterator[None]:
    """Processes that compute without end."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds(first: str, limits: bool, num_utterances: int) -> float:
    """`recognise` in a process of its own; `LONGEST` if it takes longer."""
    code = (
        f"import {first}; from benchmarks.busy_machine import recognise; print(recognise({limits}, {num_utterances}))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in OF_THREADS}
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return LONGEST
    return float(done.stdout)


@torch.inference_mode()
def recognise(limits: bool, num_utterances: int) -> float:
    """Seconds by the clock, without the first utterance."""
    tune_cpu()
    encoder = EncoderConfig(encoder_dim=128, feed_forward_dim=512, group_sizes=(6,), num_experts=3)
    model = AsrModel(ModelConfig(encoder=encoder, vocab_size=64, decoder_dim=128, joiner_dim=128)).eval()
    if limits:
        limit_threads(counts_of(model)["total"].active)
    search = DecodingConfig(decoding_method="greedy_search")
    x, x_lens = torch.randn(1, 200, 80), torch.tensor([200])
    for number in range(num_utterances + 1):
        if number == 1:
            start = time.perf_counter()
        decode_batch(model, model.encode(x, x_lens), search)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
