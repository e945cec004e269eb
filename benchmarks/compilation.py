"""torch.compile of the unshared encoder, once: what it costs at the start and what it gains.

python -m benchmarks.compilation
"""

from __future__ import annotations

import time

import torch

from benchmarks.tables import Report, Table, command_line
from benchmarks.timing import forward, take_turns
from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.model.encoder import Encoder


def measure(quick: bool) -> Report:
    """One table; without rows where torch cannot compile."""
    columns = ["", "start, s (clock)", "forward ms", "ratio"]
    title = "torch.compile of full's forward, 12 layers of 256 channels, batch 8 of 10.06 s"
    if not hasattr(torch, "compile") or quick:
        return Report([Table(title, columns, [])], [])
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(group_sizes=(1,) * 12, experts_in="none"), num_mel_bins=80).eval()
    batch = torch.randn(8, 1006, 80), torch.full((8,), 1006)
    compiled = forward(torch.compile(encoder), *batch)
    start = time.perf_counter()
    compiled()
    seconds = time.perf_counter() - start
    times = take_turns({"eager": forward(encoder, *batch), "compiled": compiled}, rounds=5)
    starts = {"eager": 0.0, "compiled": seconds}
    rows = [[name, starts[name], 1e3 * timing.seconds, timing.ratio] for name, timing in times.items()]
    return Report([Table(title, columns, rows)], [])


if __name__ == "__main__":
    command_line(measure, __doc__)
