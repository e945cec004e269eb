"""Memory and time of one utterance as it gets longer: memory grows linearly, because attention holds no T x T scores.

    python -m benchmarks.long_recordings

(Recordings are cut at their silences before they are recognised; this is what happens where there is none.)
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.tables import Floor, Report, Table, command_line
from benchmarks.timing import forward, peak_memory
from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.model.encoder import Encoder

FRAMES_PER_MINUTE = 6000
GROWTH_FLOOR = 1.1


def measure(quick: bool) -> Report:
    """Peaks in processes of their own."""
    minutes = [0.02, 0.04] if quick else [1.0, 2.0, 5.0, 10.0]
    num_layers = 1 if quick else 2
    rows = []
    for duration in minutes:
        call = recognise(duration, num_layers)
        start = time.process_time()
        call()
        rows.append([duration, peak_memory(recognise, duration, num_layers), time.process_time() - start])
    columns = ["minutes", "peak MiB", "s, CPU"]
    title = f"One utterance without a pause, {num_layers} layers of 128 channels, forward"
    growth = [Floor("memory a minute, 10 minutes over 2", GROWTH_FLOOR, per_minute(rows[-1]) / per_minute(rows[1]))]
    return Report([Table(title, columns, rows)], [] if quick else growth)


def per_minute(row: list[float]) -> float:
    """MiB a minute."""
    return row[1] / row[0]


def recognise(minutes: float, num_layers: int) -> Callable[[], object]:
    """A forward of a small encoder."""
    torch.manual_seed(0)
    config = EncoderConfig(
        encoder_dim=128, feed_forward_dim=512, subsampling_channels=32, group_sizes=(num_layers,), num_experts=3
    )
    num_frames = int(minutes * FRAMES_PER_MINUTE)
    encoder = Encoder(config, num_mel_bins=80).eval()
    return forward(encoder, torch.randn(1, num_frames, 80), torch.tensor([num_frames]))


if __name__ == "__main__":
    command_line(measure, __doc__)
