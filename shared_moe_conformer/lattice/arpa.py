"""n-gram language models with back-off, and their ARPA files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared_moe_conformer.atomic import atomic_file

BOS, EOS = "<s>", "</s>"
NEVER = -99.0
"""log10 of the probability that ARPA files give to what is never predicted."""

Ngram = tuple[str, ...]


@dataclass(frozen=True)
class NgramModel:
    """Probabilities of words after up to `order - 1` others."""

    order: int
    log_probs: dict[Ngram, float]
    """Natural log-probability of the last word after the others."""
    backoffs: dict[Ngram, float]
    """Natural logarithm of the weight with which a history hands on to the history without its first word."""

    @property
    def words(self) -> list[str]:
        """Every word that can be predicted, without the end of a sentence."""
        return sorted(ngram[0] for ngram in self.log_probs if len(ngram) == 1 and ngram[0] not in (BOS, EOS))

    def save(self, path: Path) -> None:
        """Write an ARPA file."""
        ngrams = [sorted(ngram for ngram in self.log_probs if len(ngram) == n) for n in range(1, self.order + 1)]
        ngrams[0] = [(BOS,), *ngrams[0]]
        counts = "".join(f"ngram {n}={len(of_order)}\n" for n, of_order in enumerate(ngrams, start=1))
        sections = [
            f"\\{n}-grams:\n" + "".join(map(self._line, of_order)) for n, of_order in enumerate(ngrams, start=1)
        ]
        with atomic_file(path) as file:
            file.write("\n".join([f"\\data\\\n{counts}", *sections, "\\end\\\n"]).encode())

    def _line(self, ngram: Ngram) -> str:
        columns = [
            f"{self.log_probs[ngram] / math.log(10):.7f}" if ngram != (BOS,) else f"{NEVER:.0f}",
            " ".join(ngram),
        ]
        if ngram in self.backoffs:
            columns.append(f"{self.backoffs[ngram] / math.log(10):.7f}")
        return "\t".join(columns) + "\n"

    @classmethod
    def load(cls, path: Path) -> NgramModel:
        """The model of an ARPA file.

        Raises:
          FileNotFoundError: no such file.
          ValueError: not an ARPA file, or one that predicts no word.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no n-gram in {path}: run ./prepare.sh first")
        try:
            model = _parse(path.read_text(encoding="utf-8").splitlines())
        except (IndexError, ValueError) as error:
            raise ValueError(f"{path} is no ARPA file ({error}): delete it and run ./prepare.sh again") from error
        if not model.words:
            raise ValueError(f"the n-gram {path} knows no word: train it on texts (local/train_ngram.py)")
        return model


def _parse(lines: Sequence[str]) -> NgramModel:
    log_probs: dict[Ngram, float] = {}
    backoffs: dict[Ngram, float] = {}
    order = 0
    for line in map(str.strip, lines[lines.index("\\data\\") + 1 : lines.index("\\end\\")]):
        if line.endswith("-grams:"):
            order = int(line[1 : -len("-grams:")])
        elif line and order:
            log_prob, *columns = line.split()
            ngram = tuple(columns[:order])
            if ngram != (BOS,):
                log_probs[ngram] = float(log_prob) * math.log(10)
            if columns[order:]:
                backoffs[ngram] = float(columns[order]) * math.log(10)
    return NgramModel(order, log_probs, backoffs)
