"""The exported experts in onnxruntime against dense feed-forwards of the same hidden size, alone and in the encoder.

    python -m benchmarks.onnx_experts

One utterance of 500 encoder frames (20 seconds), 256 channels, hidden size 1024, one expert for each frame.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.tables import Floor, Report, Table, command_line
from benchmarks.timing import Timing, take_turns
from shared_moe_conformer.config import EncoderConfig, ModelConfig
from shared_moe_conformer.forms.onnx_graphs import ExportableMoe, UtteranceGraph, write_graph
from shared_moe_conformer.forms.runtimes import load_graph
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.frames import Frames
from shared_moe_conformer.model.moe import MoeFeedForward, Router

LAYER_FLOOR, ENCODER_FLOOR = 1.5, 1.5
DENSE = "dense"


class Size(NamedTuple):
    """Model and utterance."""

    dim: int = 256
    hidden: int = 1024
    num_layers: int = 12
    channels: int = 64
    num_experts: tuple[int, ...] = (4, 8)
    num_frames: int = 500
    rounds: int = 15


QUICK = Size(16, 32, 2, 4, (2,), 20, 1)


class ExpertsAlone(nn.Module):
    """The expert feed-forward with its router, without padding."""

    def __init__(self, size: Size, num_experts: int) -> None:
        super().__init__()
        config = EncoderConfig(encoder_dim=size.dim, feed_forward_dim=size.hidden, num_experts=num_experts, top_k=1)
        self.moe = ExportableMoe(MoeFeedForward(config))
        self.router = Router(size.dim, num_experts)

    def forward(self, x: Tensor) -> Tensor:
        """Return frames (N, T, C) of frames."""
        lens = torch.ones_like(x[:, :, 0]).sum(dim=1).long()  # a traced graph keeps lengths free
        return self.moe(x, Frames(lens, x.size(1), head_dim=2), self.router)[0]


def measure(quick: bool) -> Report:
    """Feed-forwards, then whole encoders."""
    torch.manual_seed(0)
    size = QUICK if quick else Size()
    tables, floors = [], []
    for title, graphs, floor in (
        ("feed-forward", feed_forwards(size), LAYER_FLOOR),
        ("encoder", encoders(size), ENCODER_FLOOR),
    ):
        times = take_turns(graphs, rounds=size.rounds)
        tables.append(_table(f"Exported {title} in onnxruntime, {size.num_frames} frames", times))
        most = f"{max(size.num_experts)} experts"
        floors.append(Floor(f"onnxruntime: {title} with {most} against a dense one", floor, times[most].ratio))
    return Report(tables, floors)


def feed_forwards(size: Size) -> dict[str, Callable[[], object]]:
    """One call of the graph of each."""
    x = torch.randn(1, size.num_frames, size.dim)
    modules: dict[str, nn.Module] = {
        DENSE: nn.Sequential(nn.Linear(size.dim, size.hidden), nn.SiLU(), nn.Linear(size.hidden, size.dim))
    }
    modules |= {f"{experts} experts": ExpertsAlone(size, experts) for experts in size.num_experts}
    return {name: exported(module, {"x": x}) for name, module in modules.items()}


def encoders(size: Size) -> dict[str, Callable[[], object]]:
    """The same for encoders all of whose layers use one block; experts in the second of its feed-forwards."""
    x = torch.randn(1, 4 * size.num_frames + 3, 80)
    inputs = {"x": x, "x_lens": torch.tensor([x.size(1)])}
    models = {DENSE: _model(size, None)} | {f"{n} experts": _model(size, n) for n in size.num_experts}
    return {
        name: exported(UtteranceGraph(model, model.joiner.encoder_projection), inputs) for name, model in models.items()
    }


def exported(module: nn.Module, inputs: dict[str, Tensor]) -> Callable[[], object]:
    """A call of a module's graph with these inputs."""
    axes = {name: {axis: f"{name}{axis}" for axis in range(min(2, value.dim()))} for name, value in inputs.items()}
    outputs = {"y": {0: "N", 1: "T"}} | ({"y_lens": {0: "N"}} if len(inputs) > 1 else {})
    with tempfile.TemporaryDirectory() as folder:
        write_graph(module, inputs, outputs, axes, Path(folder) / "graph.onnx")
        graph = load_graph(Path(folder) / "graph.onnx")
    arrays = [value.numpy() for value in inputs.values()]
    return lambda: graph(*arrays)


def _model(size: Size, num_experts: int | None) -> AsrModel:
    config = EncoderConfig(
        encoder_dim=size.dim,
        feed_forward_dim=size.hidden,
        subsampling_channels=size.channels,
        group_sizes=(size.num_layers,),
        experts_in="none" if num_experts is None else "second",
        num_experts=num_experts or 1,
    )
    return AsrModel(ModelConfig(encoder=config)).eval()


def _table(title: str, times: dict[str, Timing]) -> Table:
    rows = [[name, 1e3 * timing.seconds, timing.ratio] for name, timing in times.items()]
    return Table(title, ["", "ms", "ratio"], rows)


if __name__ == "__main__":
    command_line(measure, __doc__)
