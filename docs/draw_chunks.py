"""Draw docs/chunks.png: what each encoder frame sees in a stream. Run: python docs/draw_chunks.py."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from shared_moe_conformer.config import Chunking
from shared_moe_conformer.model.frames import visible_frames

CHUNKING = Chunking(4, left_context=6)
NUM_FRAMES = 16
COLOURS = ListedColormap(["#f4f4f4", "#9db8d9", "#2f5f9e"])
"""Colours of frames that are not seen, of the left context and of the chunk."""


def main() -> None:
    """Write the picture."""
    positions = torch.arange(NUM_FRAMES)
    seen = visible_frames(positions, CHUNKING)
    chunk = positions // CHUNKING.chunk_size
    kinds = seen.int() + (seen & (chunk == chunk.unsqueeze(1))).int()
    figure = Figure(figsize=(5.2, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.pcolormesh(kinds.numpy(), cmap=COLOURS, edgecolor="white", linewidth=1.5)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.set_xlabel("frame that may be attended to (40 ms each)")
    axes.set_ylabel("frame that attends")
    for edge in range(0, NUM_FRAMES + 1, CHUNKING.chunk_size):
        axes.axhline(edge, color="black", linewidth=0.8)
    ticks = [t + 0.5 for t in range(0, NUM_FRAMES, CHUNKING.chunk_size)]
    axes.set_xticks(ticks, [str(int(t)) for t in ticks])
    axes.set_yticks(ticks, [str(int(t)) for t in ticks])
    axes.set_title("Chunks of 4 frames (dark) with 6 frames of left context (light)", fontsize=10)
    figure.savefig(Path(__file__).with_name("chunks.png"), dpi=100)


if __name__ == "__main__":
    main()
