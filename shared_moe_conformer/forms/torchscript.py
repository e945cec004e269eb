"""A released model as TorchScript graphs, which torch alone runs, from Python or C++; README.md has a program.

features.pt   samples (N, num_samples), at the model's rate, to features (N, T, F)
encoder.pt    features and their valid frames (N,) to encoder frames (N, T', J), projected for the joiner, and theirs
decoder.pt    the last tokens (N, context_size), -1 before the beginning, to decoder frames (N, J), projected too
joiner.pt     an encoder frame (N, J) and a decoder frame (N, J) to logits (N, V)
ctc.pt        features and their valid frames (N,) to log-probabilities (N, T', V) and theirs
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from shared_moe_conformer.atomic import atomic_folder
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.data.features import filter_banks, resample
from shared_moe_conformer.forms.onnx_graphs import MAX_DIFFERENCE, CtcGraph, DecoderGraph, EncoderGraph, require_close
from shared_moe_conformer.release.manifest import TEST_TEXT, TEST_WAV
from shared_moe_conformer.release.zoo_index import write_sums
from shared_moe_conformer.speech.audio import read_audio

MAX_FEATURES_DIFFERENCE = 1e-2
"""Of logarithms, where float32 is wrong by 1e-3 by itself in bins that hold next to nothing."""


def write_torchscript(source: Path, target: Path, *, overwrite: bool = False) -> dict[str, float]:
    """Write features.pt, encoder.pt, decoder.pt, joiner.pt and ctc.pt.

    Returns:
      By file, the largest difference of its output from the model's, on the test wav.

    Raises:
      FileExistsError: the target exists and may not be replaced.
      ValueError: the bundle is damaged, or a graph differs from the model.
    """
    bundle, differences = Bundle.load(source), {}
    with atomic_folder(target, marker="encoder.pt", overwrite=overwrite) as folder, torch.no_grad():
        for name, (graph, example, inputs, limit) in _graphs(bundle, *read_audio(source / TEST_WAV)).items():
            compiled = _compiled(graph.eval(), example)
            differences[name] = difference = _difference(graph(*inputs), compiled(*inputs))
            require_close(difference, name, limit)
            torch.jit.save(compiled, folder / name)
        for file in ("tokens.txt", TEST_WAV, TEST_TEXT):
            shutil.copyfile(source / file, folder / file)
        write_sums(folder)
    return differences


class _Graph(NamedTuple):
    module: nn.Module
    example: tuple[Tensor, ...] | None
    """Inputs to trace it with; None: its branches depend on its input, so it is scripted."""
    inputs: tuple[Tensor, ...]
    """Others, to compare it on."""
    limit: float = MAX_DIFFERENCE
    """How much its output may differ from the model's."""


def _graphs(bundle: Bundle, samples: np.ndarray, sampling_rate: int) -> dict[str, _Graph]:
    model, config = bundle.model, bundle.config.features
    x = bundle.features(samples, sampling_rate)[None]
    x_lens = torch.tensor([x.size(1)])
    resampled = torch.from_numpy(resample(samples, sampling_rate, config.sampling_rate))[None]
    example = torch.zeros(2, 100, x.size(2)), torch.tensor([100, 60])
    zeros = torch.zeros(2, model.config.joiner_dim)
    encoder, context = EncoderGraph(model), torch.tensor([model.decoder.start_context] * 2)
    frames = encoder.eval()(x, x_lens)[0][0]
    return {
        "features.pt": _Graph(filter_banks(config), None, (resampled,), MAX_FEATURES_DIFFERENCE),
        "encoder.pt": _Graph(encoder, example, (x, x_lens)),
        "ctc.pt": _Graph(CtcGraph(model), example, (x, x_lens)),
        "decoder.pt": _Graph(DecoderGraph(model.decoder, model.joiner), (context,), (context[:1],)),
        "joiner.pt": _Graph(model.joiner, (zeros, zeros), (frames, frames.flip(0))),
    }


def _compiled(graph: nn.Module, example: tuple[Tensor, ...] | None) -> torch.jit.ScriptModule:
    if example is None:
        return torch.jit.script(graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of sizes that no input changes
        return torch.jit.trace(graph, example, check_trace=False)


def _difference(expected: Tensor | tuple[Tensor, ...], found: Tensor | tuple[Tensor, ...]) -> float:
    """Between the (first) outputs, at most."""
    first, other = (part if isinstance(part, Tensor) else part[0] for part in (expected, found))
    return float((first - other).abs().max())
