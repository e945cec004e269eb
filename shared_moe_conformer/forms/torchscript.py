"""A released model as TorchScript graphs, which need only torch, from Python or C++.

docs/released-models.md has a program that runs them. The files store merged sets as they are; `torch.jit.freeze` merges
them when a graph is loaded.

features.pt   samples (N, num_samples), at the model's rate, to features (N, T, F)
encoder.pt    features and their valid frames (N,) to encoder frames (N, T', J), projected for the joiner, and theirs
decoder.pt    the last tokens (N, context_size), -1 before the beginning, to decoder frames (N, J), projected too
joiner.pt     an encoder frame (N, J) and a decoder frame (N, J) to logits (N, V)
ctc.pt        features and their valid frames (N,) to log-probabilities (N, T', V) and theirs
stream.pt     of models that were trained in chunks, of any size: a chunk's features (N, 4 S + 3, F), their valid frames
              (N,) and the streams' state to what encoder.pt and ctc.pt return of it, (N, S, J), (N, S, V) and (N,), and
              the state after it; `start(N, left_context)` is the first one
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.atomic import atomic_folder
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import (
    FRAME_LENGTH,
    MIN_NUM_FRAMES,
    SUBSAMPLING_FACTOR,
    Chunking,
    EncoderConfig,
    FeatureConfig,
)
from shared_moe_conformer.data.features import filter_banks, resample
from shared_moe_conformer.forms.onnx_chunks import num_features
from shared_moe_conformer.forms.onnx_graphs import DecoderGraph, UtteranceGraph, exportable_encoder, heads_of
from shared_moe_conformer.forms.runtimes import (
    MAX_DIFFERENCE,
    checked_differences,
    require_close,
    torch_parts,
    torchscript_parts,
)
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import EncoderState
from shared_moe_conformer.release.card import form_card
from shared_moe_conformer.release.manifest import CARD_FILE, TEST_TEXT, TEST_WAV
from shared_moe_conformer.release.zoo_index import write_sums
from shared_moe_conformer.speech.audio import read_audio

MAX_FEATURES_DIFFERENCE = 1e-2
"""Tolerance of logarithms: float32 alone is off by 1e-3 in bins that are almost empty."""


CARD = """
# {name}

A speech recogniser (language: {language}) trained on *{corpus}*, as graphs for plain torch, from Python or C++: a
transducer (`encoder.pt`, `decoder.pt`, `joiner.pt`) and, with the same encoder, a CTC model (`ctc.pt`); `features.pt`
computes the features from samples at {sampling_rate} Hz.
Licence: {licence}, that of the corpus.

In this folder, with nothing but torch:

```python
import wave

import torch

features, encoder, decoder, joiner = map(torch.jit.load, ("features.pt", "encoder.pt", "decoder.pt", "joiner.pt"))
encoder = torch.jit.freeze(encoder)  # merges the sets of `merged` models once instead of in every call
with open("tokens.txt", encoding="utf-8") as file:
    pieces = [line.split()[0] for line in file]
with wave.open("test.wav") as file:  # one channel, 16 bits a sample, {sampling_rate} Hz
    samples = torch.frombuffer(bytearray(file.readframes(file.getnframes())), dtype=torch.int16) / 2**15
x = features(samples[None])
tokens = [-1, 0]  # nothing, and blank
frames, lens = encoder(x, torch.tensor([x.size(1)]))
for frame in frames[0, : lens[0]]:
    token = int(joiner(frame[None], decoder(torch.tensor([tokens[-2:]]))).argmax())
    tokens += [token] if token else []
print("".join(pieces[token] for token in tokens[2:]).replace("▁", " ").strip())
```

`test.txt` says what is spoken in `test.wav`.
"""


def write_torchscript(source: Path, target: Path, *, overwrite: bool = False) -> dict[str, float]:
    """Write features.pt, encoder.pt, decoder.pt, joiner.pt, ctc.pt and, if the model was trained in chunks, stream.pt.

    Arguments, result and errors: see `forms.catalogue.Form`.
    """
    bundle = Bundle.load(source)
    bundle.model.requires_grad_(False)  # graphs that could be trained fail in torch 1.13 once their sizes change
    samples, sampling_rate = read_audio(source / TEST_WAV)
    x, start = bundle.features(samples, sampling_rate).numpy(), bundle.model.decoder.start_context
    with atomic_folder(target, marker="encoder.pt", overwrite=overwrite) as folder, torch.no_grad():
        difference = _write_features(bundle.config.features, samples, sampling_rate, folder)
        for name, (graph, example) in _graphs(bundle.model, num_mel_bins=x.shape[1]).items():
            torch.jit.save(_traced(graph, example), folder / name)
        own = torch_parts(bundle.model)
        differences = checked_differences(own, torchscript_parts(folder), x, start, suffix=".pt")
        if chunking := largest_chunks(bundle.config.model.encoder):
            differences["stream.pt"] = _write_stream(bundle.model, chunking, x, folder)
        for file in ("tokens.txt", TEST_WAV, TEST_TEXT):
            shutil.copyfile(source / file, folder / file)
        card = form_card(bundle.manifest, bundle.config, CARD, name=target.name, library="torch")
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
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


class StepGraph(nn.Module):
    """The next chunks of N streams, and what the encoder remembers of them, to both heads' input and output."""

    def __init__(self, model: AsrModel) -> None:
        super().__init__()
        self.encoder = exportable_encoder(model.encoder)
        self.projection, self.head = model.joiner.encoder_projection, model.ctc_head

    def forward(self, x: Tensor, x_lens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Return (N, S, J), (N, S, V), the valid frames (N,), and the three tensors of the state after the chunk."""
        (encoder_out, lens, _), after = self.encoder.step(x, x_lens, EncoderState(*state))
        return self.projection(encoder_out), F.log_softmax(self.head(encoder_out), dim=-1), lens, *after


class StreamGraph(nn.Module):
    """A traced `StepGraph` with the state as one argument, and a method for the first state."""

    def __init__(self, step: torch.jit.ScriptModule, first: EncoderState) -> None:
        """`first`: a state of one stream, with any left context."""
        super().__init__()
        self.step = step
        self.num_layers, self.half_kernel, self.channels = first.convolved.shape[1:]
        self.heads, self.head_dim = first.keys_values.shape[4:]

    def forward(
        self, x: Tensor, x_lens: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Return what `StepGraph` does."""
        frames, log_probs, lens, keys_values, convolved, num_frames = self.step(x, x_lens, *state)
        return frames, log_probs, lens, (keys_values, convolved, num_frames)

    @torch.jit.export  # type: ignore[untyped-decorator]
    def start(self, num_streams: int, left_context: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the state of streams before their first chunk."""
        return (
            torch.zeros(num_streams, self.num_layers, left_context, 2, self.heads, self.head_dim),
            torch.zeros(num_streams, self.num_layers, self.half_kernel, self.channels),
            torch.zeros(num_streams, dtype=torch.int64),
        )


def largest_chunks(config: EncoderConfig) -> Chunking | None:
    """The largest chunks and left context that the encoder was trained with; None: it never saw a chunk."""
    size = max(config.chunk_sizes, default=0)
    return Chunking(size, max(config.left_contexts) or size) if size else None


def in_chunks(stream: Any, x: Tensor, chunking: Chunking) -> tuple[Tensor, Tensor]:
    """The frames (T', J) and log-probabilities (T', V) that `stream.pt` finds in features (T, F), chunk by chunk."""
    size, step = num_features(chunking), SUBSAMPLING_FACTOR * chunking.chunk_size
    state, found = stream.start(1, chunking.left_context), []
    for begin in range(0, len(x) - MIN_NUM_FRAMES + 1, step):
        chunk = x[begin : begin + size]
        padded = F.pad(chunk, (0, 0, 0, size - len(chunk)))[None]
        frames, log_probs, lens, state = stream(padded, torch.tensor([len(chunk)]), state)
        found.append((frames[0, : lens[0]], log_probs[0, : lens[0]]))
    frames, log_probs = (torch.cat(parts) for parts in zip(*found))
    return frames, log_probs


def _write_stream(model: AsrModel, chunking: Chunking, x: np.ndarray, folder: Path) -> float:
    """Write stream.pt; return its largest difference from the model with a mask of chunks, given features (T, F)."""
    state = model.encoder.start(2, left_context=64)
    step = _traced(StepGraph(model), (torch.zeros(2, 67, x.shape[1]), torch.tensor([67, 40]), *state))
    stream = torch.jit.script(StreamGraph(step, state).eval())
    features = torch.from_numpy(x)
    encoder_out = model.encode(features[None], torch.tensor([len(x)]), chunking).encoder_out
    expected = model.joiner.encoder_projection(encoder_out)[0], model.ctc_log_probs(encoder_out)[0]
    found = in_chunks(stream, features, chunking)
    difference = max(float((a - b).abs().max()) for a, b in zip(found, expected))
    require_close(difference, "stream.pt", MAX_DIFFERENCE)
    torch.jit.save(stream, folder / "stream.pt")
    return difference


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
    encoder, ctc = (UtteranceGraph(model, head) for head in heads_of(model).values())
    return {
        "encoder.pt": (encoder, example),
        "ctc.pt": (ctc, example),
        "decoder.pt": (DecoderGraph(model.decoder, model.joiner), (context,)),
        "joiner.pt": (model.joiner, (frames, frames)),
    }


def _traced(graph: nn.Module, example: tuple[Tensor, ...]) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # about sizes that no input changes
        return torch.jit.trace(graph.eval(), example, check_trace=False)
