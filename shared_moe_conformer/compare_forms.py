"""The verb that compares a model's forms on a test set: texts in other runtimes, and the cost of smaller files.

`python -m shared_moe_conformer.compare_forms --model zoo/NAME --recipe-dir egs/CORPUS/ASR`
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from math import isnan
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.cli import Parser, add_flags, apply_flags, program, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.data.features import resample
from shared_moe_conformer.data.manifests import read_cuts
from shared_moe_conformer.decoding.methods import settings
from shared_moe_conformer.decoding.options import DecodingConfig, DecodingMethod
from shared_moe_conformer.decoding.scoring import Decoded, read_transcripts, short_name, word_error_rate
from shared_moe_conformer.device import tune_cpu
from shared_moe_conformer.forms.onnx_folder import write_onnx
from shared_moe_conformer.forms.runtimes import (
    CTC,
    DECODER,
    ENCODER,
    JOINER,
    Parts,
    ctc_log_probs,
    fp16_name,
    greedy_ctc,
    greedy_transducer,
    int8_name,
    onnx_parts,
    torch_parts,
    torchscript_parts,
    transducer_logits,
)
from shared_moe_conformer.forms.sherpa import recognise
from shared_moe_conformer.forms.torchscript import write_torchscript
from shared_moe_conformer.pretrained import load_experiment
from shared_moe_conformer.release.transfer import add_model_flags, resolve
from shared_moe_conformer.speech.audio import read_audio
from shared_moe_conformer.text import markdown_table, words_of
from shared_moe_conformer.training.averaging import Selection

PRECISIONS: dict[str, Callable[[str], str]] = {"float32": str, "float16": fp16_name, "int8": int8_name}
SEARCHES: dict[str, DecodingMethod] = {"transducer": "greedy_search", "ctc": "ctc_greedy_search"}
"""A bundle's two models, and the search that all runtimes repeat."""
NOT_TOLD = float("nan")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    args = _parser().parse_args(arguments)
    run_main(lambda: _compare(args))


class Utterance(NamedTuple):
    """A recording of the set."""

    name: str
    wav: Path
    """File at the model's sampling rate, in float32."""
    text: str
    """The words that were said."""


class Texts(NamedTuple):
    """The texts that one search in one runtime found in the set."""

    texts: list[str]
    difference: float = NOT_TOLD
    """Largest difference of a logit (transducer, along the reference's path) or log-probability (ctc) from the
    reference's, over all frames and units."""


class Row(NamedTuple):
    """One form of one model, against the reference."""

    kind: str
    """transducer or ctc."""
    form: str
    """A runtime or a precision."""
    word_error_rate: float
    """In percent."""
    same: int
    """Number of recordings with the reference's text."""
    difference: float = NOT_TOLD
    """See `Texts`."""
    megabytes: float = NOT_TOLD
    """Size of all graphs that are loaded."""
    seconds: float = NOT_TOLD
    """CPU time for all recordings, the median of the rounds."""


class Comparison(NamedTuple):
    """The rows of both tables."""

    round_trips: list[Row]
    """By runtime, in float32."""
    precisions: list[Row]
    """By precision, in sherpa-onnx; differences as onnxruntime computes them."""


def decoded_texts(exp_dir: Path, checkpoint: str, split: str, utterances: Sequence[Utterance]) -> dict[str, list[str]]:
    """The texts that ./decode.py wrote for the test set with these checkpoints by searches at their defaults, by kind.

    Raises:
      ValueError: a damaged file, or one of another test set.
    """
    found = {}
    for kind, search in SEARCHES.items():
        of_search = settings(DecodingConfig(decoding_method=search))
        path = exp_dir / search / f"recogs-{short_name(f'{split}-{checkpoint}-{of_search}')}.txt"
        if path.is_file():
            texts = {decoded.cut_id: decoded.hyp for decoded in read_transcripts(path)}
            require(texts.keys() == {u.name for u in utterances}, f"{path} is not of this test set: run ./decode.py")
            found[kind] = [texts[u.name] for u in utterances]
    return found


def write_test_set(recipe_dir: Path, split: str, folder: Path, *, bundle: Bundle) -> list[Utterance]:
    """A recipe's split as wav files at the model's sampling rate, which every runtime reads.

    Raises:
      FileNotFoundError: the recipe has not been prepared.
    """
    rate, utterances = bundle.config.features.sampling_rate, []
    cuts = read_cuts(recipe_dir / bundle.config.data.manifest_dir, split, recipe_dir=recipe_dir)
    for number, cut in enumerate(cuts):
        samples = resample(cut.load_audio().mean(axis=0).astype(np.float32), cut.sampling_rate, rate)
        path = folder / f"{number}.wav"
        soundfile.write(path, samples, rate, subtype="FLOAT")
        utterances.append(Utterance(cut.id, path, " ".join(s.text or "" for s in cut.supervisions)))
    return utterances


def compare(
    bundle: Bundle,
    utterances: Sequence[Utterance],
    *,
    onnx_dir: Path,
    torchscript_dir: Path,
    experiment: Bundle | None = None,
    decoded: Mapping[str, Sequence[str]] = MappingProxyType({}),
    rounds: int = 1,
) -> Comparison:
    """Compare all forms of a model with it.

    Args:
      bundle: the released model.
      utterances: the test set.
      onnx_dir, torchscript_dir: folders that `write_onnx` and `write_torchscript` wrote.
      experiment: the model as training left it, the reference; None: the bundle is.
      decoded: texts of ./decode.py by kind, if there are any.
      rounds: number of times that sherpa-onnx recognises all; the median time counts.

    Raises:
      ValueError: sherpa-onnx is missing or refuses the files.
    """
    reference = experiment or bundle
    runtimes = {"bundle": torch_parts(bundle.model)} if experiment else {}
    runtimes |= {"TorchScript": torchscript_parts(torchscript_dir), "onnxruntime": onnx_parts(onnx_dir)}
    smaller = {name: onnx_parts(onnx_dir, name_of) for name, name_of in PRECISIONS.items() if name != "float32"}
    found = in_runtimes(reference, utterances, {**runtimes, **smaller})
    rate = bundle.config.features.sampling_rate
    heard = recognise(_sherpa_files(), [u.wav for u in utterances], folder=onnx_dir, sampling_rate=rate, rounds=rounds)
    trips, precisions = [], []
    for kind, search in SEARCHES.items():
        own = _own_texts(reference, utterances, search)
        forms = {"decode.py": Texts(list(decoded[kind]))} if kind in decoded else {}
        forms |= {form: found[kind, form] for form in runtimes}
        if experiment:
            forms["bundle"] = forms["bundle"]._replace(texts=_own_texts(bundle, utterances, search))
        forms["sherpa-onnx"] = Texts(heard[f"{kind} float32"].texts)
        trips += [_row(kind, form, texts, own, utterances) for form, texts in forms.items()]
        for name in PRECISIONS:
            texts, seconds = heard[f"{kind} {name}"]
            difference = found[kind, "onnxruntime" if name == "float32" else name].difference
            row = _row(kind, name, Texts(texts, difference), own, utterances)
            sizes = [(onnx_dir / file).stat().st_size for file in _sherpa_files()[f"{kind} {name}"].values()]
            precisions.append(row._replace(megabytes=sum(sizes) / 1e6, seconds=float(np.median(seconds))))
    return Comparison(trips, precisions)


def in_runtimes(
    reference: Bundle, utterances: Sequence[Utterance], runtimes: Mapping[str, Parts]
) -> dict[tuple[str, str], Texts]:
    """The texts of all recordings, and the largest difference from the reference, by model and runtime."""
    texts: dict[tuple[str, str], list[str]] = {(kind, name): [] for name in runtimes for kind in SEARCHES}
    largest = dict.fromkeys(texts, 0.0)
    own, start = torch_parts(reference.model), reference.model.decoder.start_context
    for utterance in tqdm(utterances, desc="comparing", unit="recording", disable=None):
        x = reference.features(*read_audio(utterance.wav)).numpy()
        _, contexts = greedy_transducer(own, x, start)
        logits, log_probs = transducer_logits(own, x, contexts), ctc_log_probs(own, x)
        for name, parts in runtimes.items():
            outputs = {
                "transducer": (greedy_transducer(parts, x, start)[0], transducer_logits(parts, x, contexts) - logits),
                "ctc": (greedy_ctc(parts, x), ctc_log_probs(parts, x) - log_probs),
            }
            for kind, (tokens, difference) in outputs.items():
                texts[kind, name].append(reference.tokenizer.decode(tokens))
                largest[kind, name] = max(largest[kind, name], float(np.abs(difference).max(initial=0.0)))
    return {key: Texts(texts[key], largest[key]) for key in texts}


def _row(kind: str, form: str, found: Texts, own: Sequence[str], utterances: Sequence[Utterance]) -> Row:
    decoded = [Decoded(u.name, u.text, text) for u, text in zip(utterances, found.texts, strict=True)]
    same = sum(words_of(text) == words_of(other) for text, other in zip(found.texts, own, strict=True))
    return Row(kind, form, word_error_rate(decoded).percent, same, found.difference)


def _own_texts(bundle: Bundle, utterances: Sequence[Utterance], search: DecodingMethod) -> list[str]:
    decoding = DecodingConfig(decoding_method=search)
    return [t.text for t in bundle.transcribe_many([u.wav for u in utterances], decoding=decoding)]


def _sherpa_files() -> dict[str, dict[str, str]]:
    """The graphs of each model, by kind and precision."""
    files: dict[str, dict[str, str]] = {}
    for precision, name_of in PRECISIONS.items():
        parts = {"encoder": name_of(ENCODER), "decoder": DECODER, "joiner": JOINER}
        files |= {f"transducer {precision}": parts, f"ctc {precision}": {"ctc": name_of(CTC)}}
    return files


def round_trip_table(rows: Sequence[Row], *, recordings: int) -> str:
    """The rows as a Markdown table."""
    cells = [
        (r.kind, r.form, f"{r.same} of {recordings}", "not told" if isnan(r.difference) else f"{r.difference:.2g}")
        for r in rows
    ]
    return markdown_table(("model", "form", "recordings with the same text", "largest difference"), cells)


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
    return markdown_table(heads, cells)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
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
    selection = apply_flags(Selection(), args)
    require(
        args.exp_dir or selection == Selection(),
        "--epoch, --iter and --avg choose checkpoints of an --exp-dir: give it",
    )
    source = resolve(args.model, zoo_dir=args.zoo_dir)
    found = importlib.util.find_spec("sherpa_onnx") is not None  # checked now, since it is called last
    require(found, "the package sherpa_onnx is not installed: pip install sherpa-onnx soundfile")
    bundle, experiment, checkpoint = Bundle.load(source), None, ""
    if args.exp_dir:
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
