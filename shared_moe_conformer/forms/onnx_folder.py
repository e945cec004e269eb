"""A released model as a folder of ONNX files, float32, float16 and int8.

sherpa-onnx loads them as they are: encoder, decoder and joiner as an offline transducer, ctc as an offline zipformer
CTC model (whose contract is features in, log-probabilities out, and nothing of a zipformer).
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared_moe_conformer.atomic import atomic_folder
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import require
from shared_moe_conformer.forms.onnx_files import (
    CTC,
    DECODER,
    ENCODER,
    JOINER,
    SHRUNK,
    fp16_name,
    int8_name,
    load_graph,
)
from shared_moe_conformer.forms.onnx_graphs import MAX_DIFFERENCE, CtcGraph, DecoderGraph, EncoderGraph, require_close
from shared_moe_conformer.forms.onnx_precisions import halve, quantise
from shared_moe_conformer.forms.onnx_writer import write_graph
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.release.manifest import TEST_TEXT, TEST_WAV
from shared_moe_conformer.release.zoo_index import write_sums
from shared_moe_conformer.speech.audio import read_audio


def write_onnx(source: Path, target: Path, *, overwrite: bool = False) -> dict[str, float]:
    """Write a bundle's model as ONNX files, float32, float16 and int8, with its tokens and test wav.

    Args:
      source: the bundle's folder.
      target: the folder to be made; it appears whole or not at all.
      overwrite: replace such a folder.

    Returns:
      By float32 file, the largest difference of its output from the model's, on the test wav.

    Raises:
      FileExistsError: the target exists and may not be replaced.
      ValueError: the bundle is damaged, onnx or onnxruntime is not installed, or the graphs differ from the model.
    """
    for package in ("onnx", "onnxruntime"):
        found = importlib.util.find_spec(package) is not None
        require(found, f"the package {package} is not installed: pip install onnx onnxruntime")
    bundle = Bundle.load(source)
    with atomic_folder(target, marker=ENCODER, overwrite=overwrite) as folder:
        write_graphs(bundle, folder)
        for name in SHRUNK:
            quantise(folder / name, folder / int8_name(name))
            halve(folder / name, folder / fp16_name(name))
        for name in ("tokens.txt", TEST_WAV, TEST_TEXT):
            shutil.copyfile(source / name, folder / name)
        differences = compare(bundle, folder)
        write_sums(folder)
    return differences


def write_graphs(bundle: Bundle, folder: Path) -> None:
    """Write the four float32 graphs."""
    model, num_mel_bins = bundle.model, bundle.config.features.num_mel_bins
    joiner_dim = model.config.joiner_dim
    batch, frames = {0: "N"}, {0: "N", 1: "T"}
    features = {"x": torch.zeros(2, 100, num_mel_bins), "x_lens": torch.tensor([100, 60])}
    axes = {"x": frames, "x_lens": batch}
    encoder = EncoderGraph(model)
    write_graph(encoder, features, {"encoder_out": frames, "encoder_out_lens": batch}, axes, folder / ENCODER)
    write_graph(CtcGraph(model), features, {"log_probs": frames, "log_probs_lens": batch}, axes, folder / CTC)
    context = {"y": torch.zeros(2, model.config.context_size, dtype=torch.int64)}
    decoder = DecoderGraph(model.decoder, model.joiner)
    write_graph(decoder, context, {"decoder_out": batch}, {"y": batch}, folder / DECODER)
    pair = {name: torch.zeros(2, joiner_dim) for name in ("encoder_out", "decoder_out")}
    write_graph(model.joiner, pair, {"logits": batch}, dict.fromkeys(pair, batch), folder / JOINER)
    _describe(bundle, folder)


def compare(bundle: Bundle, folder: Path) -> dict[str, float]:
    """The largest difference of each float32 graph's output from the model's, on the test wav.

    Raises:
      ValueError: it is too large.
    """
    x = bundle.features(*read_audio(folder / TEST_WAV))[None]
    differences = {}
    for name, (inputs, output) in _model_outputs(bundle.model, x).items():
        (found, *_) = run_graph(folder / name, *inputs)
        differences[name] = float(np.abs(found - output.numpy()).max(initial=0.0))
        require_close(differences[name], name, MAX_DIFFERENCE)
    return differences


def run_graph(path: Path, *inputs: Tensor) -> list[np.ndarray]:
    """Outputs of a graph in onnxruntime, on one CPU thread; inputs by order."""
    return load_graph(path)(*(value.numpy() for value in inputs))


@torch.inference_mode()
def _model_outputs(model: AsrModel, x: Tensor) -> Mapping[str, tuple[tuple[Tensor, ...], Tensor]]:
    """Inputs and the model's own output for each graph."""
    x_lens = torch.tensor([x.size(1)])
    encoder_out = model.encode(x, x_lens).encoder_out
    encoder_frames = model.joiner.encoder_projection(encoder_out)
    context = torch.tensor([model.decoder.start_context])
    decoder_frame = model.joiner.decoder_projection(model.decoder.step(context))
    pair = encoder_frames[0], decoder_frame.expand(encoder_frames.size(1), -1)
    return {
        ENCODER: ((x, x_lens), encoder_frames),
        CTC: ((x, x_lens), model.ctc_log_probs(encoder_out)),
        DECODER: ((context,), decoder_frame),
        JOINER: (pair, model.joiner(*pair)),
    }


def _describe(bundle: Bundle, folder: Path) -> None:
    """Add the metadata that sherpa-onnx reads, and where the graphs come from."""
    import onnx

    source = {
        "model_author": f"shared-moe-conformer {bundle.manifest.package_version}",
        "comment": f"{bundle.manifest.name}, trained on {bundle.manifest.corpus}, licence {bundle.manifest.licence}",
        "version": "1",
    }
    model = bundle.config.model
    read: dict[str, dict[str, object]] = {
        ENCODER: {"model_type": "conformer"},
        DECODER: {"vocab_size": model.vocab_size, "context_size": model.context_size},
        JOINER: {"joiner_dim": model.joiner_dim},
        CTC: {"model_type": "zipformer2_ctc", "vocab_size": model.vocab_size, "subsampling_factor": 4},
    }
    for name, values in read.items():
        graph = onnx.load(folder / name)
        onnx.helper.set_model_props(graph, {key: str(value) for key, value in {**source, **values}.items()})
        onnx.checker.check_model(graph)
        onnx.save(graph, folder / name)
