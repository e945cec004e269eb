"""A released model as TorchScript graphs, which torch alone runs, from Python or C++.

docs/released-models.md has a program that runs them.

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

import numpy as np
import torch
from torch import Tensor, nn

from shared_moe_conformer.atomic import atomic_folder
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import FRAME_LENGTH, FeatureConfig
from shared_moe_conformer.data.features import filter_banks, resample
from shared_moe_conformer.forms.onnx_graphs import CtcGraph, DecoderGraph, EncoderGraph
from shared_moe_conformer.forms.runtimes import checked_differences, require_close, torch_parts, torchscript_parts
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.release.manifest import TEST_TEXT, TEST_WAV
from shared_moe_conformer.release.zoo_index import write_sums
from shared_moe_conformer.speech.audio import read_audio

MAX_FEATURES_DIFFERENCE = 1e-2
"""Tolerance of logarithms, where float32 is wrong by 1e-3 by itself in bins that hold next to nothing."""


def write_torchscript(source: Path, target: Path, *, overwrite: bool = False) -> dict[str, float]:
    """Write features.pt, encoder.pt, decoder.pt, joiner.pt and ctc.pt.

    Returns:
      By file, the largest difference of its output from the model's, on the test wav.

    Raises:
      FileExistsError: the target exists and may not be replaced.
      ValueError: the bundle is damaged, or a graph differs from the model.
    """
    bundle = Bundle.load(source)
    samples, sampling_rate = read_audio(source / TEST_WAV)
    x, start = bundle.features(samples, sampling_rate).numpy(), bundle.model.decoder.start_context
    with atomic_folder(target, marker="encoder.pt", overwrite=overwrite) as folder, torch.no_grad():
        difference = _write_features(bundle.config.features, samples, sampling_rate, folder)
        for name, (graph, example) in _graphs(bundle.model, num_mel_bins=x.shape[1]).items():
            torch.jit.save(_traced(graph, example), folder / name)
        own = torch_parts(bundle.model)
        differences = checked_differences(own, torchscript_parts(folder), x, start, suffix=".pt")
        for file in ("tokens.txt", TEST_WAV, TEST_TEXT):
            shutil.copyfile(source / file, folder / file)
        write_sums(folder)
    return {"features.pt": difference, **differences}


class Features(nn.Module):
    """Samples (N, num_samples) to features (N, T, F); T is 0 where there are not enough samples for one."""

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.filter_banks = filter_banks(config)
        self.frame_length, self.num_mel_bins = int(FRAME_LENGTH * config.sampling_rate), config.num_mel_bins

    def forward(self, samples: Tensor) -> Tensor:
        """Return features."""
        if samples.size(1) < self.frame_length:
            return samples.new_zeros(samples.size(0), 0, self.num_mel_bins)
        return self.filter_banks(samples)


def _write_features(config: FeatureConfig, samples: np.ndarray, sampling_rate: int, folder: Path) -> float:
    """Write features.pt, scripted, since its branches depend on its input; return its largest difference."""
    features = Features(config).eval()
    compiled = torch.jit.script(features)
    resampled = torch.from_numpy(resample(samples, sampling_rate, config.sampling_rate))[None]
    difference = float((features(resampled) - compiled(resampled)).abs().max())
    require_close(difference, "features.pt", MAX_FEATURES_DIFFERENCE)
    torch.jit.save(compiled, folder / "features.pt")
    return difference


def _graphs(model: AsrModel, *, num_mel_bins: int) -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    """The graphs, and an example of each one's inputs to trace it with."""
    example = torch.zeros(2, 100, num_mel_bins), torch.tensor([100, 60])
    frames = torch.zeros(2, model.config.joiner_dim)
    context = torch.tensor([model.decoder.start_context] * 2)
    return {
        "encoder.pt": (EncoderGraph(model), example),
        "ctc.pt": (CtcGraph(model), example),
        "decoder.pt": (DecoderGraph(model.decoder, model.joiner), (context,)),
        "joiner.pt": (model.joiner, (frames, frames)),
    }


def _traced(graph: nn.Module, example: tuple[Tensor, ...]) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of sizes that no input changes
        return torch.jit.trace(graph.eval(), example, check_trace=False)
