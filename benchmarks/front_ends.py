"""Front ends compared by their word errors: a recipe's model is trained and decoded once with each.

    python -m benchmarks.front_ends egs/asterisk/ASR --config base --num-epochs 12 --avg 3

If it was stopped, it continues there. It ends with the table. A front end takes the place of the encoder's own for its
training and decoding; nothing else differs, and the seed is the same.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.tables import Table, markdown
from shared_moe_conformer import decode, train
from shared_moe_conformer.config import subsampled_length
from shared_moe_conformer.model.encoder import Encoder
from shared_moe_conformer.model.frontend import Conv2dSubsampling
from shared_moe_conformer.params import read_configs

SPLITS = "dev", "test"
METHODS = "greedy_search", "modified_beam_search"


class Conv1dSubsampling(nn.Module):
    """Two 1-D convolutions of stride 2 over all mel bins at once."""

    def __init__(self, num_mel_bins: int, dim: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(num_mel_bins, dim, 3, stride=2)
        self.second = nn.Conv1d(dim, dim, 3, stride=2)

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, T', C) and how many of each utterance are valid (N,)."""
        x = F.silu(self.first(_long_enough(x).transpose(1, 2)))
        return F.silu(self.second(x)).transpose(1, 2), subsampled_length(x_lens)


class FullConv2dSubsampling(nn.Module):
    """2-D convolutions of all channels, then a linear map; the first may have stride 1 and is then padded."""

    def __init__(
        self, num_mel_bins: int, dim: int, channels: tuple[int, ...], strides: tuple[int, ...] = (2, 2)
    ) -> None:
        super().__init__()
        pairs = zip((1, *channels), channels)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=s, padding=int(s == 1)) for (a, b), s in zip(pairs, strides)
        )
        self.output = nn.Linear(channels[-1] * subsampled_length(num_mel_bins), dim)

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, T', C) and how many of each utterance are valid (N,)."""
        x = _long_enough(x).unsqueeze(1)
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        return self.output(x.transpose(1, 2).flatten(2)), subsampled_length(x_lens)


def _long_enough(x: Tensor) -> Tensor:
    """At least 7 frames."""
    return F.pad(x, (0, 0, 0, max(7 - x.size(1), 0)))


def front_ends(num_mel_bins: int, dim: int, channels: int) -> dict[str, Callable[[], nn.Module]]:
    """Front ends for an encoder of `dim` channels; `channels` are those of ours."""
    return {
        f"ours: two 2-D convolutions, the second depthwise, {channels} channels": lambda: Conv2dSubsampling(
            num_mel_bins, dim, channels=channels
        ),
        "half as many channels": lambda: Conv2dSubsampling(num_mel_bins, dim, channels=channels // 2),
        "two 1-D convolutions": lambda: Conv1dSubsampling(num_mel_bins, dim),
        f"WeNet's: two full 2-D convolutions, {dim} channels": lambda: FullConv2dSubsampling(
            num_mel_bins, dim, (dim, dim)
        ),
        "icefall's first: three full 2-D convolutions, 8, 32, 128 channels": lambda: FullConv2dSubsampling(
            num_mel_bins, dim, (8, 32, 128), strides=(1, 2, 2)
        ),
    }


SHORT = {"ours": 0, "half": 1, "conv1d": 2, "wenet": 3, "icefall": 4}
"""Short names of `front_ends`, for the command line and folders."""


class Result(NamedTuple):
    """A front end's parameters in millions and word error rates, method by method and split by split."""

    parameters: float
    wers: list[float]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path, help="its data must be prepared")
    parser.add_argument("--config", default="base")
    parser.add_argument("--num-epochs", type=int, default=12)
    parser.add_argument("--avg", type=int, default=3)
    parser.add_argument("--front-ends", nargs="+", choices=SHORT, default=["conv1d", "ours", "icefall"])
    args = parser.parse_args()
    recipe = args.recipe.resolve()
    rows = []
    for name in args.front_ends:
        result = compare(name, recipe, args.config, args.num_epochs, args.avg)
        rows.append(
            [_full_name(name, read_configs(recipe / "config.py")[args.config]), *result.wers, result.parameters]
        )
    columns = ["front end", *(f"{split}, {method}" for split in SPLITS for method in METHODS), "million parameters"]
    print(markdown(Table(f"WER (%), {args.num_epochs} epochs, avg {args.avg}", columns, rows)))


def compare(name: str, recipe: Path, config: str, num_epochs: int, avg: int) -> Result:
    """Train and decode with one front end."""
    configs, exp_dir = read_configs(recipe / "config.py"), recipe / "exp" / f"front-end-{name}"
    flags = ["--config", config, "--exp-dir", str(exp_dir)]
    with mock.patch("shared_moe_conformer.model.encoder.Conv2dSubsampling", _maker(name)):
        training = [*flags, "--num-epochs", str(num_epochs), "--num-threads", "1", "--resume", "true"]
        train.main(configs, recipe_dir=recipe, arguments=training)
        for method in METHODS:
            decoding = [*flags, "--avg", str(avg), "--test-splits", ",".join(SPLITS), "--decoding-method", method]
            decode.main(configs, recipe_dir=recipe, arguments=decoding)
        encoder = configs[config].model.encoder
        module = Encoder(encoder, num_mel_bins=configs[config].features.num_mel_bins).subsampling
    parameters = sum(p.numel() for p in module.parameters()) / 1e6
    return Result(
        parameters, [word_error_rate(exp_dir, method, split, avg=avg) for split in SPLITS for method in METHODS]
    )


def _maker(name: str) -> Callable[..., nn.Module]:
    def make(num_mel_bins: int, dim: int, *, channels: int) -> nn.Module:
        return list(front_ends(num_mel_bins, dim, channels).values())[SHORT[name]]()

    return make


def _full_name(name: str, config: Any) -> str:
    encoder = config.model.encoder
    found = front_ends(config.features.num_mel_bins, encoder.encoder_dim, encoder.subsampling_channels)
    return list(found)[SHORT[name]]


def word_error_rate(exp_dir: Path, method: str, split: str, *, avg: int) -> float:
    """In percent, of a decoded split; the folder may hold results of other averages, too."""
    (path,) = (exp_dir / method).glob(f"wer-summary-{split}-*-avg-{avg}-*.txt")
    with path.open() as lines:
        return float(next(csv.DictReader(lines, delimiter="\t"))["WER"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
