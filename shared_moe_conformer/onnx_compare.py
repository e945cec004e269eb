"""The verb that compares a model's ONNX files with each other and with the model: what float16 and int8 cost and gain.

`python -m shared_moe_conformer.onnx_compare --model zoo/NAME --recipe-dir egs/CORPUS/ASR`
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.cli import run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.cpu import tune_cpu
from shared_moe_conformer.data.features import resample
from shared_moe_conformer.data.manifests import read_cuts
from shared_moe_conformer.decoding.methods import DecodingConfig
from shared_moe_conformer.decoding.scoring import Decoded, word_error_rate
from shared_moe_conformer.release.onnx_files import (
    CTC,
    DECODER,
    ENCODER,
    JOINER,
    Graph,
    fp16_name,
    int8_name,
    load_graph,
)
from shared_moe_conformer.release.sherpa import Recognised, recognise
from shared_moe_conformer.release.transfer import ZOO, resolve

PRECISIONS: dict[str, Callable[[str], str]] = {"float32": lambda name: name, "float16": fp16_name, "int8": int8_name}
SEARCHES = {"transducer": "greedy_search", "ctc": "ctc_greedy_search"}
"""sherpa-onnx's two models, and the search of this package that does the same."""


class Utterance(NamedTuple):
    """A recording of the test set."""

    name: str
    wav: Path
    """At the model's sampling rate, in float32."""
    text: str
    """What was said."""


class Row(NamedTuple):
    """What one precision of one model does."""

    kind: str
    precision: str
    megabytes: float
    word_error_rate: float
    """In percent."""
    equal: float
    """Share of the recordings whose text is the model's own in torch."""
    seconds: float
    """CPU time for all recordings, the median of the rounds."""
    difference: float
    """Largest difference of a logit (transducer, after the first context) or log-probability (ctc) from float32's."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    args = _parser().parse_args(arguments)
    run_main(lambda: _compare(args))


def compare_precisions(bundle: Bundle, onnx_dir: Path, utterances: Sequence[Utterance], *, rounds: int) -> list[Row]:
    """One row for each precision of the transducer and of the CTC model.

    Args:
      bundle: the model.
      onnx_dir: what `onnx_export` made of it.
      utterances: the test set.
      rounds: times that all is recognised; their median time counts.

    Raises:
      ValueError: sherpa-onnx is missing or refuses the files.
    """
    found = recognise(_files(), [u.wav for u in utterances], folder=onnx_dir, rounds=rounds)
    differences = largest_differences(bundle, onnx_dir, utterances)
    rows = []
    for kind, search in SEARCHES.items():
        own = _own_texts(bundle, utterances, search)
        for precision in PRECISIONS:
            name = f"{kind} {precision}"
            rows.append(_row(kind, precision, found[name], utterances, own, onnx_dir, differences[name]))
    return rows


def _files() -> dict[str, dict[str, str]]:
    """The graphs of each model, by kind and precision."""
    files: dict[str, dict[str, str]] = {}
    for precision, name_of in PRECISIONS.items():
        parts = {"encoder": name_of(ENCODER), "decoder": DECODER, "joiner": name_of(JOINER)}
        files |= {f"transducer {precision}": parts, f"ctc {precision}": {"ctc": name_of(CTC)}}
    return files


def _own_texts(bundle: Bundle, utterances: Sequence[Utterance], search: str) -> list[str]:
    decoding = DecodingConfig(decoding_method=search)  # type: ignore[arg-type]
    return [
        " ".join(found.text.split()) for found in bundle.transcribe_many([u.wav for u in utterances], decoding=decoding)
    ]


def _row(
    kind: str,
    precision: str,
    found: Recognised,
    utterances: Sequence[Utterance],
    own: Sequence[str],
    onnx_dir: Path,
    difference: float,
) -> Row:
    decoded = [Decoded(u.name, u.text, text) for u, text in zip(utterances, found.texts, strict=True)]
    files = _files()[f"{kind} {precision}"].values()
    return Row(
        kind,
        precision,
        sum((onnx_dir / file).stat().st_size for file in files) / 1e6,
        word_error_rate(decoded).percent,
        float(np.mean([a == b for a, b in zip(found.texts, own, strict=True)])),
        float(np.median(found.seconds)),
        difference,
    )


def largest_differences(bundle: Bundle, onnx_dir: Path, utterances: Sequence[Utterance]) -> dict[str, float]:
    """By kind and precision, the largest difference of an output from float32's, over all recordings."""
    largest: dict[str, float] = dict.fromkeys(_files(), 0.0)
    graphs = {name: {part: load_graph(onnx_dir / file) for part, file in parts.items()}
              for name, parts in _files().items()}  # fmt: skip
    context = torch.tensor([bundle.model.decoder.start_context]).numpy()
    for utterance in tqdm(utterances, desc="comparing", unit="recording", disable=None):
        samples, sampling_rate = soundfile.read(utterance.wav, dtype="float32")
        x = bundle.features(samples, sampling_rate).numpy()[None]
        outputs = {name: _output(parts, x, context) for name, parts in graphs.items()}
        for name, output in outputs.items():
            reference = outputs[f"{name.split()[0]} float32"]
            largest[name] = max(largest[name], float(np.abs(output - reference).max(initial=0.0)))
    return largest


def _output(parts: Mapping[str, Graph], x: np.ndarray, context: np.ndarray) -> np.ndarray:
    """Log-probabilities (T', V) of a CTC model, or a transducer's logits (T', V) after the start context."""
    x_lens = np.array([x.shape[1]])
    if "ctc" in parts:
        return parts["ctc"](x, x_lens)[0][0]
    frames = parts["encoder"](x, x_lens)[0][0]
    (decoder_frame,) = parts["decoder"](context)
    return parts["joiner"](frames, np.repeat(decoder_frame, len(frames), axis=0))[0]


def write_test_set(recipe_dir: Path, split: str, folder: Path, *, bundle: Bundle) -> list[Utterance]:
    """The recordings of a recipe's split as wav files of the model's sampling rate.

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


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table; times as ratios to float32's of the same model."""
    lines = [
        "| model | precision | MB | WER % | texts equal to torch's | largest difference from float32 | CPU time |",
        "|---|---|---|---|---|---|---|",
    ]
    base = {row.kind: row.seconds for row in rows if row.precision == "float32"}
    lines += [
        f"| {row.kind} | {row.precision} | {row.megabytes:.2f} | {row.word_error_rate:.2f} | {100 * row.equal:.0f} % "
        f"| {row.difference:.2g} | {row.seconds / base[row.kind]:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shared_moe_conformer.onnx_compare",
        description="Compare float32, float16 and int8 ONNX files of a released model in sherpa-onnx, on a test set.",
    )
    parser.add_argument("--model", required=True, help="a released model: its folder, or its name in the zoo")
    parser.add_argument("--zoo-dir", type=Path, default=Path(ZOO), help=f"the folder of released models [{ZOO}]")
    parser.add_argument(
        "--onnx-dir", type=Path, help="what onnx_export made of it [the model's, with -onnx at its end]"
    )
    parser.add_argument("--recipe-dir", type=Path, required=True, help="the recipe whose test set is recognised")
    parser.add_argument("--split", default="test", help="which of its cut sets [test]")
    parser.add_argument("--rounds", type=int, default=5, help="times that all is recognised, for the times [5]")
    return parser


def _compare(args: argparse.Namespace) -> None:
    tune_cpu()
    require(args.rounds >= 1, f"rounds is {args.rounds}: give 1 or more")
    source = resolve(args.model, zoo_dir=args.zoo_dir)
    onnx_dir = args.onnx_dir or source.resolve().with_name(f"{source.resolve().name}-onnx")
    if not (onnx_dir / ENCODER).is_file():
        raise FileNotFoundError(f"no {ENCODER} in {onnx_dir}: run shared_moe_conformer.onnx_export --model {source}")
    bundle = Bundle.load(source)
    with tempfile.TemporaryDirectory() as folder:
        utterances = write_test_set(args.recipe_dir, args.split, Path(folder), bundle=bundle)
        rows = compare_precisions(bundle, onnx_dir, utterances, rounds=args.rounds)
    print(f"{bundle.manifest.name}, {args.split}, {len(utterances)} recordings\n\n{table(rows)}")


if __name__ == "__main__":
    main()
