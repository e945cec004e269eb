"""What int8 costs and saves for every choice of feed-forward products, so that one can be chosen on a dev set."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.decoding.scoring import Decoded, word_error_rate
from shared_moe_conformer.forms.comparison import SEARCHES, Texts, in_runtimes
from shared_moe_conformer.forms.onnx_files import CTC, DECODER, ENCODER, JOINER, SHRUNK
from shared_moe_conformer.forms.onnx_precisions import FEED_FORWARD_PRODUCTS, feed_forward_products, quantise
from shared_moe_conformer.forms.recordings import Utterance
from shared_moe_conformer.forms.runtimes import onnx_parts
from shared_moe_conformer.text import words_of


class Int8Choice(NamedTuple):
    """One choice and what onnxruntime recognises with it."""

    products: tuple[str, ...]
    """Of `FEED_FORWARD_PRODUCTS`, those in int8; none: float32."""
    megabytes: float
    """Of the encoder's graph."""
    error_rates: dict[str, float]
    """WER in percent, by model: transducer, ctc."""
    same: dict[str, int]
    """Recordings with float32's text, by model."""


def compare_choices(
    bundle: Bundle, utterances: Sequence[Utterance], *, onnx_dir: Path, folder: Path
) -> list[Int8Choice]:
    """Compare all choices that a model allows: float32, and then the largest file first.

    Args:
      bundle: the released model.
      utterances: of a set on which one may choose.
      onnx_dir: what `write_onnx` made of it.
      folder: an empty one, for the choices' graphs.
    """
    folders = dict(_write_choices(onnx_dir, folder))
    found = in_runtimes(bundle, utterances, {path.name: onnx_parts(path) for path in folders.values()})
    own = {kind: found[kind, folders[()].name] for kind in SEARCHES}
    choices = [
        Int8Choice(
            products,
            (path / ENCODER).stat().st_size / 1e6,
            {kind: _error_rate(found[kind, path.name], utterances) for kind in SEARCHES},
            {kind: _same(found[kind, path.name], own[kind]) for kind in SEARCHES},
        )
        for products, path in folders.items()
    ]
    return sorted(choices, key=lambda choice: (bool(choice.products), -choice.megabytes))


def _write_choices(onnx_dir: Path, folder: Path) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Every choice, none included, and the folder of its graphs, which have the names of float32's."""
    import onnx

    graph = onnx.load(onnx_dir / ENCODER).graph
    present = [product for product in FEED_FORWARD_PRODUCTS if feed_forward_products(graph, [product])]
    sizes = range(len(present) + 1)
    choices = [choice for size in sizes for choice in itertools.combinations(present, size)]
    for number, products in enumerate(tqdm(choices, desc="writing", unit="choice", disable=None)):
        path = folder / str(number)
        path.mkdir()
        for name in (ENCODER, CTC, DECODER, JOINER):
            shutil.copyfile(onnx_dir / name, path / name)
        for name in SHRUNK if products else ():
            quantise(onnx_dir / name, path / name, products)
        yield products, path


def _error_rate(found: Texts, utterances: Sequence[Utterance]) -> float:
    decoded = [Decoded(u.name, u.text, text) for u, text in zip(utterances, found.texts, strict=True)]
    return word_error_rate(decoded).percent


def _same(found: Texts, own: Texts) -> int:
    return sum(words_of(text) == words_of(other) for text, other in zip(found.texts, own.texts, strict=True))
