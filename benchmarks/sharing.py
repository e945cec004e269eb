"""Blocks that are shared (`base`, `merged`) against twelve blocks of their own (`full`): time, memory and checkpoints.

    python -m benchmarks.sharing

The encoder has 12 layers of 256 channels. `base` has one block with 8 experts, one of which computes each frame; it
computes as much for a frame as `full`. `merged` has two stored sets of a narrower block, merged for each layer.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.tables import Floor, Report, Table, command_line
from benchmarks.timing import forward, peak_memory, take_turns, training_step
from shared_moe_conformer.config import EncoderConfig, ModelConfig, TrainingConfig
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import Encoder
from shared_moe_conformer.sizes import narrower
from shared_moe_conformer.training.trainer import Trainer

FLOORS = {"base": (1.07, 1.07, 0.4, 0.4), "merged": (1.02, 1.05, 0.4, 0.4)}
"""Targets for forward, training step, state and checkpoint, over those of `full`."""


class Size(NamedTuple):
    """Encoder and batch."""

    dim: int = 256
    hidden: int = 1024
    num_layers: int = 12
    num_experts: int = 8
    channels: int = 64
    batch: int = 8
    num_frames: int = 1006


QUICK = Size(16, 32, 2, 2, 4, 2, 40)


def configs(size: Size) -> dict[str, EncoderConfig]:
    """`full`, `base` and `merged`, as recipes have them."""
    common = {
        "encoder_dim": size.dim,
        "feed_forward_dim": size.hidden,
        "num_experts": size.num_experts,
        "subsampling_channels": size.channels,
    }
    shared = EncoderConfig(**common, group_sizes=(size.num_layers,), experts_in="second")  # type: ignore[arg-type]
    plain = {"experts_in": "none", "feed_forward_dim": narrower(size.hidden), "merged_sets": 2}
    return {
        "full": dataclasses.replace(shared, group_sizes=(1,) * size.num_layers, experts_in="none"),
        "base": shared,
        "merged": dataclasses.replace(shared, **plain),  # type: ignore[arg-type]
    }


def measure(quick: bool) -> Report:
    """Times in turns, peaks in processes of their own, sizes from the objects themselves."""
    torch.manual_seed(0)
    size = QUICK if quick else Size()
    encoders = {name: Encoder(config, num_mel_bins=80) for name, config in configs(size).items()}
    for encoder in encoders.values():
        encoder.eval()
    rounds = 1 if quick else 7
    evaluated = take_turns({name: one_forward(it, size) for name, it in encoders.items()}, rounds=rounds)
    for encoder in encoders.values():
        encoder.train()
    trained = take_turns({name: one_step(it, size) for name, it in encoders.items()}, rounds=rounds)
    figures = {
        "forward, ms": {name: 1e3 * time.seconds for name, time in evaluated.items()},
        "training step, ms": {name: 1e3 * time.seconds for name, time in trained.items()},
        "weights, gradients and AdamW's state, MiB": {name: stored(it, size) for name, it in encoders.items()},
        "checkpoint of the whole model, MiB": {name: checkpoint(c) for name, c in configs(size).items()},
        "peak of a forward beside the weights, MiB": {name: peak_memory(forward_of, name, size) for name in encoders},
        "peak of a training step beside weights and state, MiB": {
            name: peak_memory(step_of, name, size) for name in encoders
        },
    }
    tables, floors = [], []
    for other, targets in FLOORS.items():
        ratios: list[Any] = [evaluated[other].ratio, trained[other].ratio]
        ratios += [row[other] / row["full"] for row in list(figures.values())[2:]]
        rows: list[list[Any]] = [[name, row["full"], row[other], r] for (name, row), r in zip(figures.items(), ratios)]
        floors += [Floor(f"{other} against full, {name}", limit, r) for name, limit, r in zip(figures, targets, ratios)]
        title = f"{other} against full, batch {size.batch} of {size.num_frames / 100:g} s"
        tables.append(Table(title, ["", "full", other, "ratio"], rows))
    return Report(tables, floors)


def features(size: Size) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch without padding."""
    return torch.randn(size.batch, size.num_frames, 80), torch.full((size.batch,), size.num_frames)


def one_forward(encoder: Encoder, size: Size) -> Callable[[], object]:
    """A forward in evaluation mode."""
    return forward(encoder, *features(size))


def one_step(encoder: Encoder, size: Size) -> Callable[[], object]:
    """A training step."""
    batch = features(size)
    return training_step(encoder, lambda: encoder(*batch).encoder_out)


def forward_of(name: str, size: Size) -> Callable[[], object]:
    """`one_forward` of a new encoder, for a process of its own."""
    return one_forward(Encoder(configs(size)[name], num_mel_bins=80).eval(), size)


def step_of(name: str, size: Size) -> Callable[[], object]:
    """`one_step` of a new encoder, for a process of its own."""
    return one_step(Encoder(configs(size)[name], num_mel_bins=80), size)


def stored(encoder: Encoder, size: Size) -> float:
    """MiB of the weights, their gradients and AdamW's state after a training step."""
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.0)
    encoder(*features(size)).encoder_out.square().mean().backward()
    optimizer.step()
    tensors = [t for p in encoder.parameters() for t in (p, p.grad, *optimizer.state[p].values())]
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor)) / 2**20


def checkpoint(config: EncoderConfig) -> float:
    """MiB of what training writes for its resumption, after a step."""
    trainer = Trainer(AsrModel(ModelConfig(encoder=config)), TrainingConfig())
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        torch.save(trainer.checkpoint(), path)
        return path.stat().st_size / 2**20


if __name__ == "__main__":
    command_line(measure, __doc__)
