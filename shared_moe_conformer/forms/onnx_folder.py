"""A released model as a folder of ONNX files, float32, float16 and int8.

sherpa-onnx loads them as they are: encoder, decoder and joiner as an offline transducer, ctc as an offline zipformer
CTC model (whose contract is only features in, log-probabilities out).

The int8 files have feed-forwards and experts in int8, which are most of a model, or all matrices of merged sets.
Routers stay in float32, because they choose the experts.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared_moe_conformer.atomic import atomic_folder
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import require
from shared_moe_conformer.forms.onnx_graphs import (
    DecoderGraph,
    UtteranceGraph,
    describe,
    heads_of,
    write_graph,
    write_language_models,
)
from shared_moe_conformer.forms.runtimes import (
    CTC,
    DECODER,
    ENCODER,
    JOINER,
    SHRUNK,
    checked_differences,
    fp16_name,
    int8_name,
    onnx_parts,
    torch_parts,
)
from shared_moe_conformer.release.card import form_card
from shared_moe_conformer.release.manifest import CARD_FILE, TEST_TEXT, TEST_WAV
from shared_moe_conformer.release.zoo_index import write_sums
from shared_moe_conformer.speech.audio import read_audio

CARD = """
# {name}

A speech recogniser (language: {language}) trained on *{corpus}*, as graphs for sherpa-onnx and onnxruntime: a
transducer (`encoder`, `decoder`, `joiner`) and, with the same encoder, a CTC model (`ctc`).
Licence: {licence}, that of the corpus.

`*.fp16.onnx` have their weights in float16; `*.int8.onnx` have those of feed-forwards and experts, or all merged
weights, in int8. Features are of {sampling_rate} Hz. `test.txt` says what is spoken in `test.wav`.

`pip install sherpa-onnx soundfile`, then in this folder:

```python
import sherpa_onnx
import soundfile

recogniser = sherpa_onnx.OfflineRecognizer.from_transducer(
    encoder="encoder.int8.onnx",
    decoder="decoder.onnx",
    joiner="joiner.onnx",
    tokens="tokens.txt",
    sample_rate={sampling_rate},  # of the features; other recordings are resampled
)
stream = recogniser.create_stream()
samples, sampling_rate = soundfile.read("test.wav", dtype="float32")
stream.accept_waveform(sampling_rate, samples)
recogniser.decode_stream(stream)
print(stream.result.text)
```

The CTC model: `sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(model="ctc.int8.onnx", tokens="tokens.txt",
sample_rate={sampling_rate})`.
"""


def write_onnx(source: Path, target: Path, *, overwrite: bool = False) -> dict[str, float]:
    """Write a bundle's model as ONNX files, float32, float16 and int8, with its tokens, test wav and README.md.

    Arguments, result and errors: see `forms.catalogue.Form`.
    """
    require_onnx()
    bundle = Bundle.load(source)
    with atomic_folder(target, marker=ENCODER, overwrite=overwrite) as folder:
        differences = write_offline_graphs(bundle, source / TEST_WAV, folder)
        for name in SHRUNK:
            halve(folder / name, folder / fp16_name(name))
        for name in ("tokens.txt", TEST_WAV, TEST_TEXT):
            shutil.copyfile(source / name, folder / name)
        card = form_card(bundle.manifest, bundle.config, CARD, name=target.name, library="sherpa-onnx")
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        write_sums(folder)
    return differences


def write_offline_graphs(bundle: Bundle, recording: Path, folder: Path) -> dict[str, float]:
    """Write all graphs of whole utterances, float32 and int8, language models included.

    Returns:
      The largest difference of each float32 file's output from the model's, on the recording.
    """
    write_graphs(bundle, folder)
    for name in SHRUNK:
        quantise(folder / name, folder / int8_name(name))
    differences = write_language_models(bundle, folder, for_streams=False)
    x, start = bundle.features(*read_audio(recording)).numpy(), bundle.model.decoder.start_context
    own, parts = torch_parts(bundle.model), onnx_parts(folder)
    return differences | checked_differences(own, parts, x, start, suffix=".onnx")


def require_onnx() -> None:
    """Raise `ValueError` if a package that writes or checks graphs is missing."""
    for package in ("onnx", "onnxruntime"):
        found = importlib.util.find_spec(package) is not None
        require(found, f"the package {package} is not installed: pip install onnx onnxruntime")


def write_graphs(bundle: Bundle, folder: Path) -> None:
    """Write the four float32 graphs."""
    model, num_mel_bins = bundle.model, bundle.config.features.num_mel_bins
    batch, frames = {0: "N"}, {0: "N", 1: "T"}
    features = {"x": torch.zeros(2, 100, num_mel_bins), "x_lens": torch.tensor([100, 60])}
    axes = {"x": frames, "x_lens": batch}
    for file, (output, head) in zip((ENCODER, CTC), heads_of(model).items()):
        outputs = {output: frames, f"{output}_lens": batch}
        write_graph(UtteranceGraph(model, head), features, outputs, axes, folder / file)
    write_decoder_and_joiner(bundle, folder)
    describe(folder / ENCODER, bundle, {"model_type": "conformer"})
    vocab_size = bundle.config.model.vocab_size
    describe(folder / CTC, bundle, {"model_type": "zipformer2_ctc", "vocab_size": vocab_size, "subsampling_factor": 4})


def write_decoder_and_joiner(bundle: Bundle, folder: Path) -> None:
    """Write the two small graphs, which serve whole utterances and chunks."""
    model, config, batch = bundle.model, bundle.config.model, {0: "N"}
    context = {"y": torch.zeros(2, config.context_size, dtype=torch.int64)}
    decoder = DecoderGraph(model.decoder, model.joiner)
    write_graph(decoder, context, {"decoder_out": batch}, {"y": batch}, folder / DECODER)
    describe(folder / DECODER, bundle, {"vocab_size": config.vocab_size, "context_size": config.context_size})
    pair = {name: torch.zeros(2, config.joiner_dim) for name in ("encoder_out", "decoder_out")}
    write_graph(model.joiner, pair, {"logits": batch}, dict.fromkeys(pair, batch), folder / JOINER)
    describe(folder / JOINER, bundle, {"joiner_dim": config.joiner_dim})


def quantise(source: Path, target: Path) -> None:
    """Write a graph with the weights of feed-forwards and experts, or of merged sets, in int8."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

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
            nodes_to_quantize=feed_forward_products(onnx.load(source).graph),
        )
    model = onnx.load(target)
    store_sets(model.graph, in_int8=True)
    _save_lean(model, target)


def store_sets(graph: Any, *, in_int8: bool) -> None:
    """Let a graph store the matrices that it merges in int8 with a scale for each row, or in float16.

    They are weights of no product, so a quantiser does not find them. onnxruntime restores and merges them once, when
    it loads the graph, and then computes in float32.
    """
    import onnx
    from onnx import helper, numpy_helper

    restoring = []

    def keep(values: np.ndarray, name: str) -> str:
        graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    for tensor in matrices_of_sets(graph):
        name, weight = tensor.name, numpy_helper.to_array(tensor)
        graph.initializer.remove(tensor)
        if in_int8:
            scale = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True) / 127
            scale[scale == 0] = 1
            stored = keep(np.rint(weight / scale).astype(np.int8), f"{name}.int8")
            restoring.append(helper.make_node("Cast", [stored], [f"{name}.whole"], to=onnx.TensorProto.FLOAT))
            scales = keep(scale.astype(np.float32), f"{name}.scale")
            restoring.append(helper.make_node("Mul", [f"{name}.whole", scales], [name]))
        else:
            stored = keep(weight.astype(np.float16), f"{name}.float16")
            restoring.append(helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    others = list(graph.node)
    del graph.node[:]
    graph.node.extend([*restoring, *others])


def matrices_of_sets(graph: Any) -> list[Any]:
    """The stored matrices of merged sets, convolutions' kernels included."""
    return [tensor for tensor in graph.initializer if ".sets." in tensor.name and len(tensor.dims) > 1]


def halve(source: Path, target: Path) -> None:
    """Write a graph that stores and computes in float16, except for inputs, outputs and the routers' products.

    What depends on weights alone, gates and merged sets, is computed in float32. onnxruntime does that once, when it
    loads the graph; for float16 its CPU lacks the kernels to do so, and it would merge again in every run.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph = onnx.shape_inference.infer_shapes(onnx.load(source))
    routers, merging = router_products(graph.graph), merging_nodes(graph.graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tiny weights that become 0
        half = convert_float_to_float16(
            graph, keep_io_types=True, disable_shape_infer=True, node_block_list=routers + merging
        )
    _leave_in_float32(half.graph, {*merging})
    store_sets(half.graph, in_int8=False)
    _save_lean(half, target)


def merging_nodes(graph: Any) -> list[str]:
    """Names of the nodes that compute only from weights; none where no sets are merged."""
    known, names = {tensor.name for tensor in graph.initializer}, []
    for node in graph.node if matrices_of_sets(graph) else ():
        if all(name in known for name in node.input if name):
            known.update(node.output)
            names += [node.name] if node.op_type != "Constant" else []
    return names


def _leave_in_float32(graph: Any, exact: set[str]) -> None:
    """Let nodes of these names read each other's outputs as they are, not through float16, as the converter wants."""
    from onnx import TensorProto

    def casts(to: int) -> list[Any]:
        return [node for node in graph.node if node.op_type == "Cast" and node.attribute[0].i == to]

    whole = {output for node in graph.node if node.name in exact for output in node.output}
    halved = {node.output[0]: node.input[0] for node in casts(TensorProto.FLOAT16) if node.input[0] in whole}
    original = {c.output[0]: halved[c.input[0]] for c in casts(TensorProto.FLOAT) if c.input[0] in halved}
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = original.get(name, name)
    for to in (TensorProto.FLOAT, TensorProto.FLOAT16):
        read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        for node in casts(to):
            if node.output[0] not in read:
                graph.node.remove(node)


def router_products(graph: Any) -> list[str]:
    """Names of the matrix products behind the softmax that ranks the experts, the only softmax of a feed-forward."""
    producer = {output: node for node in graph.node for output in node.output}
    products = []
    for softmax in (node for node in graph.node if node.op_type == "Softmax" and "/feed_forward" in node.name):
        node = producer[softmax.input[0]]
        while node.op_type == "Transpose":
            node = producer[node.input[0]]
        products.append(node.name)
    return products


def feed_forward_products(graph: Any) -> list[str]:
    """Names of the matrix products of feed-forwards and experts; the exporter names them after their modules."""
    routers = router_products(graph)
    found = (node.name for node in graph.node if node.op_type == "MatMul" and "/feed_forward" in node.name)
    return [name for name in found if name not in routers]


def _save_lean(model: Any, target: Path) -> None:
    """Write a graph without unused tensors: onnxruntime's tools leave inferred shapes, and float32 copies of weights
    that several layers use."""
    import onnx

    graph = model.graph
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    assert not any(attribute.HasField("g") for node in graph.node for attribute in node.attribute), "graphs in nodes"
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(kept)
    onnx.save(model, target)
