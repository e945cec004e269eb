"""The verb that compares a model's forms on a test set: their texts in other runtimes, and the cost of small files.

`python -m shared_moe_conformer.compare_forms --model zoo/NAME --recipe-dir egs/CORPUS/ASR`
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import tempfile
from collections.abc import Sequence
from math import isnan
from pathlib import Path

from shared_moe_conformer.ablation.results import read_transcripts
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.cli import add_flags, apply_flags, program, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.device import tune_cpu
from shared_moe_conformer.forms.comparison import (
    SEARCHES,
    Row,
    Utterance,
    compare,
    write_test_set,
)
from shared_moe_conformer.forms.onnx_folder import write_onnx
from shared_moe_conformer.forms.torchscript import write_torchscript
from shared_moe_conformer.pretrained import load_experiment
from shared_moe_conformer.release.transfer import add_model_flags, resolve
from shared_moe_conformer.training.averaging import Selection


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    args = _parser().parse_args(arguments)
    run_main(lambda: _compare(args))


def decoded_texts(exp_dir: Path, checkpoint: str, split: str, utterances: Sequence[Utterance]) -> dict[str, list[str]]:
    """The texts that ./decode.py wrote for the test set with these checkpoints, by kind of search, if it did.

    Raises:
      ValueError: a damaged file, or one of another test set.
    """
    found = {}
    for kind, search in SEARCHES.items():
        for path in sorted(exp_dir.glob(f"{search}/recogs-{split}-{checkpoint}-*.txt"))[:1]:
            texts = {decoded.cut_id: decoded.hyp for decoded in read_transcripts(path)}
            require(texts.keys() == {u.name for u in utterances}, f"{path} is not of this test set: run ./decode.py")
            found[kind] = [texts[u.name] for u in utterances]
    return found


def round_trip_table(rows: Sequence[Row], *, recordings: int) -> str:
    """The rows as a Markdown table."""
    cells = [
        (r.kind, r.form, f"{r.same} of {recordings}", "not told" if isnan(r.difference) else f"{r.difference:.2g}")
        for r in rows
    ]
    return _table(("model", "form", "recordings with the same text", "largest difference"), cells)


def precision_table(rows: Sequence[Row], *, recordings: int) -> str:
    """The rows as a Markdown table; times as ratios to float32's of the same model."""
    base = {row.kind: row.seconds for row in rows if row.form == "float32"}
    cells = [
        [
            *(row.kind, row.form, f"{row.megabytes:.2f}", f"{row.word_error_rate:.2f}", f"{row.same} of {recordings}"),
            *(f"{row.difference:.2g}", f"{row.seconds / base[row.kind]:.2f}"),
        ]
        for row in rows
    ]
    heads = ("model", "precision", "MB", "WER %", "recordings with the same text", "largest difference", "CPU time")
    return _table(heads, cells)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first, *others = (f"| {' | '.join(row)} |" for row in (heads, *rows))
    return "\n".join([first, f"|{'---|' * len(heads)}", *others])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("compare_forms"),
        description="Compare a released model in torch, TorchScript, onnxruntime and sherpa-onnx, and its float32, "
        "float16 and int8 files, on a recipe's whole test set.",
    )
    add_model_flags(parser)
    parser.add_argument("--recipe-dir", type=Path, required=True, help="the recipe that has the cut set")
    parser.add_argument("--split", default="test", help="the cut set that is recognised [test]")
    parser.add_argument(
        "--exp-dir", type=Path, help="the experiment that was released, as the reference [the model itself]"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds that are timed; the median counts [5]")
    add_flags(parser, Selection)
    return parser


def _compare(args: argparse.Namespace) -> None:
    tune_cpu()
    require(args.rounds >= 1, f"rounds is {args.rounds}: give 1 or more")
    source = resolve(args.model, zoo_dir=args.zoo_dir)
    found = importlib.util.find_spec("sherpa_onnx") is not None  # which is called last
    require(found, "the package sherpa_onnx is not installed: pip install sherpa-onnx soundfile")
    bundle, experiment, checkpoint = Bundle.load(source), None, ""
    if args.exp_dir:
        selection = apply_flags(Selection(), args)
        config, model = load_experiment(args.exp_dir, selection)
        experiment = dataclasses.replace(bundle, config=config, model=model)
        checkpoint = selection.name(args.exp_dir)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        onnx_dir, torchscript_dir, wavs = (folder / name for name in ("onnx", "torchscript", "wavs"))
        write_onnx(source, onnx_dir)
        wavs.mkdir()
        utterances = write_test_set(args.recipe_dir, args.split, wavs, bundle=bundle)
        number = len(utterances)
        write_torchscript(source, torchscript_dir)
        trips, precisions = compare(
            bundle,
            utterances,
            onnx_dir=onnx_dir,
            torchscript_dir=torchscript_dir,
            experiment=experiment,
            decoded=decoded_texts(args.exp_dir, checkpoint, args.split, utterances) if experiment else {},
            rounds=args.rounds,
        )
    against = f"the experiment's {checkpoint}" if experiment else "the bundle"
    print(f"{bundle.manifest.name}, {args.split}, {number} recordings, compared with {against} in torch\n")
    print(f"{round_trip_table(trips, recordings=number)}\n\nIn sherpa-onnx:\n")
    print(precision_table(precisions, recordings=number))


if __name__ == "__main__":
    main()
