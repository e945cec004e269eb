"""A released model as TorchScript graphs, which torch alone runs, from Python or C++."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from shared_moe_conformer.atomic import atomic_folder
from shared_moe_conformer.bundle import TEST_TEXT, TEST_WAV, Bundle
from shared_moe_conformer.forms.onnx_graphs import CtcGraph, DecoderGraph, EncoderGraph, require_small
from shared_moe_conformer.release.checksums import write_sums
from shared_moe_conformer.speech.audio import read_audio


def write_torchscript(source: Path, target: Path, *, overwrite: bool = False) -> dict[str, float]:
    """Write encoder.pt, decoder.pt, joiner.pt and ctc.pt, with the inputs and outputs of the ONNX graphs.

    Returns:
      By file, the largest difference of its output from the model's, on the test wav.

    Raises:
      FileExistsError: the target exists and may not be replaced.
      ValueError: the bundle is damaged, or a graph differs from the model.
    """
    bundle, differences = Bundle.load(source), {}
    with atomic_folder(target, marker="encoder.pt", overwrite=overwrite) as folder, torch.no_grad():
        x = bundle.features(*read_audio(source / TEST_WAV))[None]
        for name, (graph, example, inputs) in _graphs(bundle, x).items():
            traced = _traced(graph.eval(), example)
            differences[name] = difference = _difference(graph(*inputs), traced(*inputs))
            require_small(difference, name)
            torch.jit.save(traced, folder / name)
        for file in ("tokens.txt", TEST_WAV, TEST_TEXT):
            shutil.copyfile(source / file, folder / file)
        write_sums(folder)
    return differences


def _graphs(bundle: Bundle, x: Tensor) -> dict[str, tuple[nn.Module, tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """By file: the graph, inputs to trace it with, and others to compare it on."""
    model, x_lens = bundle.model, torch.tensor([x.size(1)])
    example = torch.zeros(2, 100, x.size(2)), torch.tensor([100, 60])
    zeros = torch.zeros(2, model.config.joiner_dim)
    encoder, context = EncoderGraph(model), torch.tensor([model.decoder.start_context] * 2)
    frames = encoder.eval()(x, x_lens)[0][0]
    return {
        "encoder.pt": (encoder, example, (x, x_lens)),
        "ctc.pt": (CtcGraph(model), example, (x, x_lens)),
        "decoder.pt": (DecoderGraph(model.decoder, model.joiner), (context,), (context[:1],)),
        "joiner.pt": (model.joiner, (zeros, zeros), (frames, frames.flip(0))),
    }


def _traced(graph: nn.Module, example: tuple[Tensor, ...]) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of sizes that no input changes
        return torch.jit.trace(graph, example, check_trace=False)


def _difference(expected: Tensor | tuple[Tensor, ...], found: Tensor | tuple[Tensor, ...]) -> float:
    """Between the (first) outputs, at most."""
    first, other = (part if isinstance(part, Tensor) else part[0] for part in (expected, found))
    return float((first - other).abs().max())
