"""What a model's forms make of a test set: the same text, the same logits, and what smaller numbers cost and gain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.scoring import Decoded, word_error_rate
from shared_moe_conformer.forms.onnx_files import CTC, DECODER, ENCODER, JOINER, fp16_name, int8_name
from shared_moe_conformer.forms.recordings import Utterance
from shared_moe_conformer.forms.runtimes import (
    Parts,
    ctc_log_probs,
    greedy_ctc,
    greedy_transducer,
    onnx_parts,
    torch_parts,
    torchscript_parts,
    transducer_logits,
)
from shared_moe_conformer.forms.sherpa import Recognised, recognise
from shared_moe_conformer.speech.audio import read_audio
from shared_moe_conformer.text import words_of

PRECISIONS: dict[str, Callable[[str], str]] = {"float32": str, "float16": fp16_name, "int8": int8_name}
SEARCHES = {"transducer": "greedy_search", "ctc": "ctc_greedy_search"}
"""A bundle's two models, and the search of this package that all runtimes repeat."""


class Texts(NamedTuple):
    """What one search in one runtime made of the test set."""

    texts: list[str]
    difference: float
    """Largest difference of a logit (transducer, along the reference's path) or log-probability (ctc) from the
    reference's, over all frames and units; nan: the runtime does not tell."""


class RoundTrip(NamedTuple):
    """One form of one model in one runtime, against the reference."""

    kind: str
    """transducer or ctc."""
    form: str
    same: int
    """Recordings with the reference's text."""
    difference: float
    """See `Texts`."""


class Precision(NamedTuple):
    """What one precision of one model does in sherpa-onnx."""

    kind: str
    precision: str
    megabytes: float
    """Of all graphs that are loaded."""
    word_error_rate: float
    """In percent."""
    same: int
    """Recordings with the reference's text."""
    difference: float
    """See `Texts`; as onnxruntime computes it."""
    seconds: float
    """CPU time for all recordings, the median of the rounds."""


class Comparison(NamedTuple):
    """All of it."""

    round_trips: list[RoundTrip]
    precisions: list[Precision]


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
      onnx_dir, torchscript_dir: what `write_onnx` and `write_torchscript` made of it.
      experiment: the model as training left it, the reference; None: the bundle is.
      decoded: by kind, what ./decode.py made of the test set, if anything.
      rounds: times that sherpa-onnx recognises all; the median time counts.

    Raises:
      ValueError: sherpa-onnx is missing or refuses the files.
    """
    reference = experiment or bundle
    runtimes = {"bundle": torch_parts(bundle.model)} if experiment else {}
    runtimes |= {"TorchScript": torchscript_parts(torchscript_dir), "onnxruntime": onnx_parts(onnx_dir)}
    smaller = {name: onnx_parts(onnx_dir, name_of) for name, name_of in PRECISIONS.items() if name != "float32"}
    found = in_runtimes(reference, utterances, {**runtimes, **smaller})
    heard = recognise(_sherpa_files(), [u.wav for u in utterances], folder=onnx_dir, rounds=rounds)
    trips, precisions = [], []
    for kind, search in SEARCHES.items():
        own = _own_texts(reference, utterances, search)
        forms = {"decode.py": Texts(list(decoded[kind]), float("nan"))} if kind in decoded else {}
        forms |= {form: found[kind, form] for form in runtimes}
        if experiment:
            forms["bundle"] = forms["bundle"]._replace(texts=_own_texts(bundle, utterances, search))
        forms["sherpa-onnx"] = Texts(heard[f"{kind} float32"].texts, float("nan"))
        trips += [RoundTrip(kind, form, _same(texts, own), difference) for form, (texts, difference) in forms.items()]
        for name in PRECISIONS:
            difference = found[kind, "onnxruntime" if name == "float32" else name].difference
            precisions.append(_precision(kind, name, heard[f"{kind} {name}"], utterances, own, onnx_dir, difference))
    return Comparison(trips, precisions)


def _precision(
    kind: str,
    precision: str,
    heard: Recognised,
    utterances: Sequence[Utterance],
    own: Sequence[str],
    onnx_dir: Path,
    difference: float,
) -> Precision:
    files = _sherpa_files()[f"{kind} {precision}"].values()
    decoded = [Decoded(u.name, u.text, text) for u, text in zip(utterances, heard.texts, strict=True)]
    return Precision(
        kind,
        precision,
        sum((onnx_dir / file).stat().st_size for file in files) / 1e6,
        word_error_rate(decoded).percent,
        _same(heard.texts, own),
        difference,
        float(np.median(heard.seconds)),
    )


def _own_texts(bundle: Bundle, utterances: Sequence[Utterance], search: str) -> list[str]:
    decoding = DecodingConfig(decoding_method=search)  # type: ignore[arg-type]
    return [t.text for t in bundle.transcribe_many([u.wav for u in utterances], decoding=decoding)]


def in_runtimes(
    reference: Bundle, utterances: Sequence[Utterance], runtimes: Mapping[str, Parts]
) -> dict[tuple[str, str], Texts]:
    """By model and runtime, the text of every recording, and the largest difference from the reference."""
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


def _sherpa_files() -> dict[str, dict[str, str]]:
    """The graphs of each model, by kind and precision."""
    files: dict[str, dict[str, str]] = {}
    for precision, name_of in PRECISIONS.items():
        parts = {"encoder": name_of(ENCODER), "decoder": DECODER, "joiner": JOINER}
        files |= {f"transducer {precision}": parts, f"ctc {precision}": {"ctc": name_of(CTC)}}
    return files


def _same(texts: Sequence[str], others: Sequence[str]) -> int:
    return sum(words_of(text) == words_of(other) for text, other in zip(texts, others, strict=True))
