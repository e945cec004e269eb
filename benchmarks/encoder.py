"""The encoder against conformers of the same size that registries offer, and its front end.

    python -m benchmarks.encoder

All have 12 layers of 256 channels and see the same 8 utterances of 250 frames; a training step is forward, backward and
update, each with dropout where its authors put it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.conformers import Contender, Shape, contenders
from benchmarks.front_ends import front_ends
from benchmarks.tables import Floor, Ratio, Report, Table, command_line
from benchmarks.timing import Timing, forward, take_turns, training_step
from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.model.encoder import Encoder

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
    x, lens, rounds = torch.randn(n, t, shape.dim), torch.full((n,), t), 1 if quick else 3
    table = contenders(shape)
    evaluated = take_turns({name: evaluation(it, x, lens) for name, it in table.items()}, rounds=rounds)
    trained = take_turns({name: training(it, x, lens) for name, it in table.items()}, rounds=rounds)
    peers = [name for name in table if not name.startswith("ours")]
    floors = [
        Floor(f"full against the fastest peer, {kind}", floor, over_fastest(OURS, times, peers))
        for kind, floor, times in (("forward", FORWARD_FLOOR, evaluated), ("training", TRAINING_FLOOR, trained))
    ]
    rows = [
        [
            name,
            sum(p.numel() for p in it.module.parameters()) / 1e6,
            1e3 * evaluated[name].seconds,
            evaluated[name].over(evaluated[YARDSTICK]),
            1e3 * trained[name].seconds,
            trained[name].over(trained[YARDSTICK]),
        ]
        for name, it in table.items()
    ]
    columns = ["", "million parameters", "forward ms", "ratio", "training step ms", "ratio"]
    return Table(f"Conformer layers, batch {n}, {t} frames; ratios to the yardstick", columns, rows), floors


def over_fastest(name: str, times: dict[str, Timing], peers: list[str]) -> Ratio:
    """One of ours over the fastest peer."""
    return times[name].over(min((times[name] for name in peers), key=lambda timing: timing.seconds))


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
    modules = {name: make().eval() for name, make in front_ends(80, dim, channels).items()}
    ours = next(iter(modules))
    calls = {"the whole encoder": forward(encoder, x, lens)}
    calls |= {name: forward(module, x, lens) for name, module in modules.items()}
    times = take_turns(calls, rounds=1 if quick else 5)
    rows = [[name, 1e3 * time.seconds, time.ratio] for name, time in times.items()]
    table = Table("Front ends, forward, as shares of the whole encoder's", ["", "ms", "share"], rows)
    return table, Floor("front end, share of the encoder's forward", FRONT_END_FLOOR, times[ours].ratio)


if __name__ == "__main__":
    command_line(measure, __doc__)
