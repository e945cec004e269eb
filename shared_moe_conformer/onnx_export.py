"""The verb that turns a released model into ONNX files: `python -m shared_moe_conformer.onnx_export --model zoo/NAME`.

sherpa-onnx loads them as they are: encoder, decoder and joiner as an offline transducer, ctc as an offline zipformer
CTC model (whose contract is features in, log-probabilities out, and nothing of a zipformer).
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared_moe_conformer.atomic import atomic_folder
from shared_moe_conformer.bundle import TEST_TEXT, TEST_WAV, Bundle
from shared_moe_conformer.cli import run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.release.checksums import write_sums
from shared_moe_conformer.release.onnx_files import (
    CTC,
    DECODER,
    ENCODER,
    JOINER,
    QUANTISED,
    fp16_name,
    int8_name,
    load_graph,
)
from shared_moe_conformer.release.onnx_graphs import CtcGraph, DecoderGraph, EncoderGraph
from shared_moe_conformer.release.transfer import resolve
from shared_moe_conformer.speech.audio import read_audio

OPSET = 17
MAX_DIFFERENCE = 1e-3
"""Largest difference from the model, on its own test wav, with which a float32 graph is released."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    args = _parser().parse_args(arguments)
    run_main(lambda: _export(args))


def export_onnx(source: Path, target: Path, *, overwrite: bool = False) -> dict[str, float]:
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
        for name in QUANTISED:
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


def quantise(source: Path, target: Path) -> None:
    """Write a graph with the weights of its matrix products in int8, the routers' excepted: they choose the experts."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    routers = router_products(onnx.load(source).graph)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / source.name
        # its optimisation would rename the routers' products
        quant_pre_process(source, prepared, skip_optimization=True, skip_symbolic_shape=True)
        quantize_dynamic(
            prepared,
            target,
            op_types_to_quantize=["MatMul"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=routers,
        )
    _save_lean(onnx.load(target), target)


def halve(source: Path, target: Path) -> None:
    """Write a graph that stores and computes in float16, its inputs and outputs and the routers' products excepted."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph = onnx.shape_inference.infer_shapes(onnx.load(source))
    routers = router_products(graph.graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tiny weights that become 0
        half = convert_float_to_float16(graph, keep_io_types=True, disable_shape_infer=True, node_block_list=routers)
    _save_lean(half, target)


def _save_lean(model: Any, target: Path) -> None:
    """Write a graph without what nobody reads: onnxruntime's tools leave float32 copies of weights that several layers
    use, and the shapes that they inferred."""
    import onnx

    graph = model.graph
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    assert not any(attribute.HasField("g") for node in graph.node for attribute in node.attribute), "graphs in nodes"
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(kept)
    onnx.save(model, target)


def router_products(graph: Any) -> list[str]:
    """Names of the matrix products whose softmax ranks the experts."""
    producer = {output: node for node in graph.node for output in node.output}
    softmaxes = [producer[node.input[0]] for node in graph.node if node.op_type == "TopK"]
    return [producer[softmax.input[0]].name for softmax in softmaxes]


def compare(bundle: Bundle, folder: Path) -> dict[str, float]:
    """The largest difference of each float32 graph's output from the model's, on the test wav.

    Raises:
      ValueError: it is too large.
    """
    x = bundle.features(*read_audio(folder / TEST_WAV))[None]
    wanted = _model_outputs(bundle.model, x)
    differences = {}
    for name, (inputs, output) in wanted.items():
        (found, *_) = run_graph(folder / name, *inputs)
        differences[name] = float(np.abs(found - output.numpy()).max(initial=0.0))
        require(
            differences[name] <= MAX_DIFFERENCE,
            f"{name} differs from the model by {differences[name]:.2g} on {TEST_WAV}: not written",
        )
    return differences


def run_graph(path: Path, *inputs: Tensor) -> list[np.ndarray]:
    """Outputs of a graph in onnxruntime, on one CPU thread; inputs by order."""
    return load_graph(path)(*(value.numpy() for value in inputs))


@torch.inference_mode()
def _model_outputs(model: AsrModel, x: Tensor) -> dict[str, tuple[tuple[Tensor, ...], Tensor]]:
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


def write_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, dict[int, str]],
    input_axes: Mapping[str, dict[int, str]],
    path: Path,
) -> None:
    """Trace a module into an ONNX file, by the exporter that torch 1.13 and 2.x share."""
    import onnx

    legacy: dict[str, Any] = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    with warnings.catch_warnings(), torch.inference_mode(mode=False), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own age, and of sizes that no input changes
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={**input_axes, **outputs},
            opset_version=OPSET,
            **legacy,
        )
    model = onnx.load(path)
    _read_weights_directly(model.graph)
    onnx.save(model, path)


def _read_weights_directly(graph: Any) -> None:
    """Have every node read the stored weights themselves.

    The exporter lets all but one of a shared block's layers read a copy (Identity), which no quantiser takes for a
    weight.
    """
    stored = {tensor.name for tensor in graph.initializer}
    outputs = {output.name for output in graph.output}
    copies = [n for n in graph.node if n.op_type == "Identity" and n.input[0] in stored and n.output[0] not in outputs]
    original = {node.output[0]: node.input[0] for node in copies}
    for node in copies:
        graph.node.remove(node)
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = original.get(name, name)


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shared_moe_conformer.onnx_export", description="Write a released model as ONNX files."
    )
    parser.add_argument("--model", required=True, help="a released model: its folder, or its name in the zoo")
    parser.add_argument("--zoo-dir", type=Path, default=Path("zoo"), help="the folder of released models [zoo]")
    parser.add_argument("--output-dir", type=Path, help="folder to be made [the model's, with -onnx at its end]")
    parser.add_argument("--overwrite", action="store_true", help="replace such a folder")
    return parser


def _export(args: argparse.Namespace) -> None:
    source = resolve(args.model, zoo_dir=args.zoo_dir)
    target = args.output_dir or source.resolve().with_name(f"{source.resolve().name}-onnx")
    differences = export_onnx(source, target, overwrite=args.overwrite)
    for path in sorted(target.glob("*.onnx")):
        difference = f", differs from the model by {differences[path.name]:.1e}" if path.name in differences else ""
        print(f"{path} ({path.stat().st_size / 1e6:.2f} MB){difference}")


if __name__ == "__main__":
    main()
