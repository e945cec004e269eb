"""The verb that turns a released model into other toolkits' forms: `python -m shared_moe_conformer.convert --to FORM`.

torchscript: graphs that torch alone runs, from Python or C++; icefall: an experiment's folder with pretrained.pt and
lang_bpe_V; espnet: an archive as espnet_model_zoo unpacks it. ONNX has a verb of its own, `onnx_export`.
"""

from __future__ import annotations

import argparse
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from shared_moe_conformer import __version__
from shared_moe_conformer.atomic import atomic_file, atomic_folder, check_free
from shared_moe_conformer.bundle import CARD_FILE, CONFIG_FILE, FILES, TEST_TEXT, TEST_WAV, TOKENIZER_FILES, Bundle
from shared_moe_conformer.cli import run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.release.checksums import write_sums
from shared_moe_conformer.release.manifest import WEIGHTS_FILE
from shared_moe_conformer.release.onnx_graphs import CtcGraph, DecoderGraph, EncoderGraph
from shared_moe_conformer.release.transfer import ZOO, resolve
from shared_moe_conformer.speech.audio import read_audio

MAX_DIFFERENCE = 1e-3
"""Largest difference from the model, on its own test wav, with which a TorchScript graph is written."""
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every member of an archive, so that equal models give equal archives."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    args = _parser().parse_args(arguments)
    run_main(lambda: _convert(args))


def write_torchscript(source: Path, target: Path, *, overwrite: bool = False) -> None:
    """Write encoder.pt, decoder.pt, joiner.pt and ctc.pt, with the inputs and outputs of the ONNX graphs.

    Raises:
      FileExistsError: the target exists and may not be replaced.
      ValueError: the bundle is damaged, or a graph differs from the model.
    """
    bundle = Bundle.load(source)
    with atomic_folder(target, marker="encoder.pt", overwrite=overwrite) as folder, torch.no_grad():
        x = bundle.features(*read_audio(source / TEST_WAV))[None]
        for name, (graph, example, inputs) in _graphs(bundle, x).items():
            traced = torch.jit.trace(graph.eval(), example, check_trace=False)
            _require_equal(graph(*inputs), traced(*inputs), name=name)
            torch.jit.save(traced, folder / name)
        _copy(("tokens.txt", TEST_WAV, TEST_TEXT), source, folder)
        write_sums(folder)


def write_icefall(source: Path, target: Path, *, overwrite: bool = False) -> None:
    """Write exp/pretrained.pt (`{"model": state_dict}`), exp/config.json and data/lang_bpe_V, as icefall releases.

    Source: icefall's export.py and its released models' repositories.

    Raises:
      FileExistsError: the target exists and may not be replaced.
      ValueError: the bundle is damaged.
    """
    bundle = Bundle.load(source)
    lang = f"data/lang_bpe_{bundle.config.model.vocab_size}"
    with atomic_folder(target, marker="exp/pretrained.pt", overwrite=overwrite) as folder:
        for name in ("exp", lang, "test_wavs"):
            (folder / name).mkdir(parents=True)
        torch.save({"model": bundle.model.state_dict()}, folder / "exp" / "pretrained.pt")
        _copy((CONFIG_FILE,), source, folder / "exp")
        _copy(TOKENIZER_FILES, source, folder / lang)
        _copy((TEST_WAV, TEST_TEXT), source, folder / "test_wavs")
        _copy((CARD_FILE,), source, folder)


def write_espnet(source: Path, target: Path, *, overwrite: bool = False) -> None:
    """Write a zip archive with meta.yaml, as espnet_model_zoo unpacks it.

    ESPnet itself cannot run the model; its zoo's tools can list, download and unpack it.

    Source: espnet2/main_funcs/pack_funcs.py, `pack` and `unpack`.

    Raises:
      FileExistsError: the target exists and may not be replaced.
      ValueError: the bundle is damaged.
    """
    if not overwrite:
        check_free(target, marker="")
    bundle = Bundle.load(source)
    meta = {
        "files": {"asr_model_file": WEIGHTS_FILE, "bpemodel": "bpe.model", "token_list": "tokens.txt"},
        "yaml_files": {"asr_train_config": "config.yaml"},
        "torch": str(torch.__version__),
        "shared_moe_conformer": __version__,
        "corpus": bundle.manifest.corpus,
        "lang": bundle.manifest.language,
        "fs": bundle.config.features.sampling_rate,
    }
    config = yaml.safe_load((source / CONFIG_FILE).read_text(encoding="utf-8"))  # JSON is YAML
    files = {"token_list": "tokens.txt", "bpemodel": "bpe.model"}
    with atomic_file(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "meta.yaml", yaml.safe_dump(meta, sort_keys=False, allow_unicode=True).encode())
        _add(archive, "config.yaml", yaml.safe_dump({**files, **config}, sort_keys=False, allow_unicode=True).encode())
        for name in FILES:
            _add(archive, name, (source / name).read_bytes())


FORMS: dict[str, tuple[Callable[..., None], str]] = {
    "torchscript": (write_torchscript, "-torchscript"),
    "icefall": (write_icefall, "-icefall"),
    "espnet": (write_espnet, "-espnet.zip"),
}
"""Who writes each form, and the end of its name."""


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


def _require_equal(expected: Tensor | tuple[Tensor, ...], found: Tensor | tuple[Tensor, ...], *, name: str) -> None:
    """Refuse a graph whose (first) output differs from the model's."""
    first, other = (part if isinstance(part, Tensor) else part[0] for part in (expected, found))
    difference = float((first - other).abs().max())
    require(
        difference <= MAX_DIFFERENCE, f"{name} differs from the model by {difference:.2g} on {TEST_WAV}: not written"
    )


def _copy(names: Sequence[str], source: Path, target: Path) -> None:
    for name in names:
        shutil.copyfile(source / name, target / name)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    member = zipfile.ZipInfo(name, ZIP_TIME)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o644 << 16
    archive.writestr(member, content)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shared_moe_conformer.convert", description="Write a released model in another toolkit's form."
    )
    parser.add_argument("--model", required=True, help="a released model: its folder, or its name in the zoo")
    parser.add_argument("--zoo-dir", type=Path, default=Path(ZOO), help=f"the folder of released models [{ZOO}]")
    parser.add_argument("--to", choices=FORMS, required=True, help="the form")
    parser.add_argument("--output", type=Path, help="to be made [the model's folder, with -<form> at its end]")
    parser.add_argument("--overwrite", action="store_true", help="replace what such a call wrote")
    return parser


def _convert(args: argparse.Namespace) -> None:
    source = resolve(args.model, zoo_dir=args.zoo_dir).resolve()
    write, suffix = FORMS[args.to]
    target = args.output or source.with_name(source.name + suffix)
    write(source, target, overwrite=args.overwrite)
    print(f"{target}: {args.to} form of {source.name}")


if __name__ == "__main__":
    main()
