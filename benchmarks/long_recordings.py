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
    minutes = [0.02, 0.04] if quick else [1.0, 2.0, 5.0, 10.0, 20.0]
    num_layers = 1 if quick else 2
    rows = []
    for duration in minutes:
        call = recognise(duration, num_layers)
        start = time.process_time()
        call()
        rows.append([duration, peak_memory(recognise, duration, num_layers), time.process_time() - start])
    columns = ["minutes", "peak MiB", "s, CPU"]
    title = f"One utterance without a pause, {num_layers} layers of 128 channels, forward"
    return Report([Table(title, columns, rows)], [] if quick else [floor(rows)])


def floor(rows: list[list[float]]) -> Floor:
    """The last two rows: in short utterances what does not depend on the length weighs too much."""
    (shorter, less, _), (longer, more, _) = rows[-2:]
    name = f"memory a minute, {longer:.0f} minutes over {shorter:.0f}"
    return Floor(name, GROWTH_FLOOR, (more / longer) / (less / shorter))


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
