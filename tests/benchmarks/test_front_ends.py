"""Every front end can stand before the encoder: frames and lengths are those of the package's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.front_ends import SHORT, front_ends, word_error_rate
from shared_moe_conformer.config import MIN_NUM_FRAMES, subsampled_length

BINS, DIM = 20, 8
NAMES = list(front_ends(BINS, DIM, 4))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_frames", [3, MIN_NUM_FRAMES, 8, 50])
def test_frames_and_lengths(name: str, num_frames: int) -> None:
    x_lens = torch.tensor([num_frames, num_frames - 1])
    out, lens = front_ends(BINS, DIM, 4)[name]()(torch.randn(2, num_frames, BINS), x_lens)
    assert out.shape == (2, subsampled_length(max(num_frames, MIN_NUM_FRAMES)), DIM)
    assert torch.equal(lens, subsampled_length(x_lens))


def test_error_rates_are_those_of_the_averaged_epochs(tmp_path: Path) -> None:
    for avg, wer in ((1, 60.0), (3, 55.5)):
        path = tmp_path / "greedy_search" / f"wer-summary-dev-epoch-12-avg-{avg}-greedy_search-max-sym-per-frame-1.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"settings\tWER\ngreedy_search\t{wer}\n")
    assert word_error_rate(tmp_path, "greedy_search", "dev", avg=3) == 55.5


def test_each_has_a_short_name() -> None:
    assert list(SHORT.values()) == list(range(len(NAMES)))
