"""The encoder against conformers of the same size that registries offer, and its front end.

    python -m benchmarks.encoder

All have 12 layers of 256 channels and see the same 8 utterances of 250 frames; a training step is forward, backward and
update, each with dropout where its authors put it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.conformers import Contender, Shape, contenders
from benchmarks.tables import Floor, Report, Table, command_line
from benchmarks.timing import Timing, forward, take_turns, training_step
from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.model.encoder import Encoder
from shared_moe_conformer.model.subsampling import Conv2dSubsampling

OURS = "ours, full"
YARDSTICK = "plain: rotary + SDPA (yardstick)"
FORWARD_FLOOR, TRAINING_FLOOR, FRONT_END_FLOOR = 0.85, 0.90, 0.15


def measure(quick: bool) -> Report:
    """Layers against layers, then the front end against the layers."""
    torch.manual_seed(0)
    layers, floors = against_peers(quick)
    front_ends, share = front_end(quick)
    return Report([layers, front_ends], [*floors, share])


def against_peers(quick: bool) -> tuple[Table, list[Floor]]:
    """Forward and training step of every contender, and ours over the fastest peer's."""
    shape, n, t = (Shape(16, 1, 2, 32, 3), 2, 10) if quick else (Shape(), 8, 250)
    x, lens, rounds = torch.randn(n, t, shape.dim), torch.full((n,), t), 1 if quick else 2
    table = contenders(shape)
    evaluated = take_turns({name: evaluation(it, x, lens) for name, it in table.items()}, rounds=rounds)
    trained = take_turns({name: training(it, x, lens) for name, it in table.items()}, rounds=rounds)
    peers = [name for name in table if not name.startswith("ours")]
    floors = [
        Floor(f"full against the fastest peer, {kind}", floor, over_fastest(times, peers))
        for kind, floor, times in (("forward", FORWARD_FLOOR, evaluated), ("training", TRAINING_FLOOR, trained))
    ]
    yard = evaluated[YARDSTICK].ratio, trained[YARDSTICK].ratio
    rows = [
        [
            name,
            sum(p.numel() for p in it.module.parameters()) / 1e6,
            1e3 * evaluated[name].seconds,
            evaluated[name].ratio / yard[0],
            1e3 * trained[name].seconds,
            trained[name].ratio / yard[1],
        ]
        for name, it in table.items()
    ]
    columns = ["", "million parameters", "forward ms", "ratio", "training step ms", "ratio"]
    return Table(f"Conformer layers, batch {n}, {t} frames; ratios to the yardstick", columns, rows), floors


def over_fastest(times: dict[str, Timing], peers: list[str]) -> float:
    """Ours over the fastest peer's."""
    return times[OURS].ratio / min(times[name].ratio for name in peers)


def evaluation(contender: Contender, x: Tensor, lens: Tensor) -> Callable[[], object]:
    """A forward in evaluation mode."""
    contender.module.eval()
    return forward(contender.call, x, lens)


def training(contender: Contender, x: Tensor, lens: Tensor) -> Callable[[], object]:
    """A training step; the input needs a gradient, as behind a front end."""
    contender.module.train()
    x = x.clone().requires_grad_()
    return training_step(contender.module, lambda: contender.call(x * 1.0, lens))


def front_end(quick: bool) -> tuple[Table, Floor]:
    """Ours and others, as shares of the forward of the whole `full` encoder."""
    dim, channels, layers, n, t = (16, 4, 1, 2, 40) if quick else (256, 64, 12, 8, 1006)
    config = EncoderConfig(encoder_dim=dim, subsampling_channels=channels, group_sizes=(1,) * layers, experts_in="none")
    encoder = Encoder(config, num_mel_bins=80).eval()
    x, lens = torch.randn(n, t, 80), torch.full((n,), t)
    front_ends: dict[str, Callable[..., object]] = {
        f"ours: two 2-D convolutions, the second depthwise, {channels} channels": encoder.subsampling,
        "half as many channels": Conv2dSubsampling(80, dim, channels=channels // 2).eval(),
        "two 1-D convolutions": Conv1dSubsampling(80, dim),
        f"WeNet's: two full 2-D convolutions, {dim} channels": FullConv2dSubsampling(80, dim, (dim, dim)),
        "icefall's first: three full 2-D convolutions, 8, 32, 128 channels": FullConv2dSubsampling(
            80, dim, (8, 32, 128), strides=(1, 2, 2)
        ),
    }
    calls = {"the whole encoder": forward(encoder, x, lens)}
    calls |= {name: forward(module, x, lens) for name, module in front_ends.items()}
    times = take_turns(calls, rounds=1 if quick else 2)
    rows = [[name, 1e3 * time.seconds, time.ratio] for name, time in times.items()]
    ours = next(iter(front_ends))
    table = Table("Front ends, forward, as shares of the whole encoder's", ["", "ms", "share"], rows)
    return table, Floor("front end, share of the encoder's forward", FRONT_END_FLOOR, times[ours].ratio)


class Conv1dSubsampling(nn.Module):
    """Two 1-D convolutions of stride 2 over all mel bins at once."""

    def __init__(self, num_mel_bins: int, dim: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(num_mel_bins, dim, 3, stride=2)
        self.second = nn.Conv1d(dim, dim, 3, stride=2)

    def forward(self, x: Tensor, x_lens: Tensor) -> Tensor:
        """Return (N, T', C)."""
        x = nn.functional.silu(self.first(x.transpose(1, 2)))
        return nn.functional.silu(self.second(x)).transpose(1, 2)


class FullConv2dSubsampling(nn.Module):
    """2-D convolutions of all channels, then a linear map."""

    def __init__(
        self, num_mel_bins: int, dim: int, channels: tuple[int, ...], strides: tuple[int, ...] = (2, 2)
    ) -> None:
        super().__init__()
        pairs = zip((1, *channels), channels)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride=s) for (a, b), s in zip(pairs, strides))
        bins = num_mel_bins
        for stride in strides:
            bins = (bins - 3) // stride + 1
        self.output = nn.Linear(channels[-1] * bins, dim)

    def forward(self, x: Tensor, x_lens: Tensor) -> Tensor:
        """Return (N, T', C)."""
        x = x.unsqueeze(1)
        for convolution in self.convolutions:
            x = nn.functional.relu(convolution(x))
        return self.output(x.transpose(1, 2).flatten(2))


if __name__ == "__main__":
    command_line(measure, __doc__)
