"""Error rates over seeds, and the intervals in which they lie.

Utterances and seeds are drawn with replacement, utterances alike for all variants, so that a ratio's interval does not
hold what makes some utterances hard for every model.
Source: Bisani and Ney 2004, Bootstrap estimates for confidence intervals in ASR performance evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from shared_moe_conformer.ablation.results import Result
from shared_moe_conformer.config import require

Level = Literal["word", "character"]

REPLICATIONS = 5000
SEED = 1


class Estimate(NamedTuple):
    """A number, and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


class Rates(NamedTuple):
    """A variant's error rate."""

    percent: Estimate
    """Errors per 100 words or characters, the mean of the seeds."""
    ratio: Estimate
    """That rate divided by the reference variant's."""


def error_rates(
    results: Mapping[str, Sequence[Result]], *, method: str, level: Level, reference: str
) -> dict[str, Rates]:
    """Each variant's error rate.

    Args:
      results: by variant, the runs of its seeds.
      method: the search.
      level: what is counted.
      reference: the variant to which the others are compared; without it there is none.

    Raises:
      ValueError: the runs are not of one test set, or one was not decoded by this search.
    """
    lengths = _lengths(results, level)
    rng = np.random.default_rng(SEED)
    weights = rng.multinomial(len(lengths), np.full(len(lengths), 1 / len(lengths)), size=REPLICATIONS)
    drawn, rates = {}, {}
    for variant, runs in results.items():
        errors = np.array([_errors(run, method, level) for run in runs])
        drawn[variant] = _draw_seeds(100 * (weights @ errors.T) / (weights @ lengths)[:, None], rng)
        rates[variant] = 100 * errors.sum() / len(runs) / lengths.sum()
    with np.errstate(divide="ignore", invalid="ignore"):  # a draw in which the reference makes no error
        ratios = {variant: (rates[variant] / rates[reference], drawn[variant] / drawn[reference])
                  for variant in results if reference in results}  # fmt: skip
    unknown = (float("nan"), np.full(1, np.nan))
    return {
        variant: Rates(_estimate(rates[variant], drawn[variant]), _estimate(*ratios.get(variant, unknown)))
        for variant in results
    }


def _lengths(results: Mapping[str, Sequence[Result]], level: Level) -> np.ndarray:
    """Words or characters of each utterance of the one test set."""
    texts = {(run.words, run.characters) for runs in results.values() for run in runs}
    require(len(texts) == 1, f"the runs are of {len(texts)} test sets: prepare them alike, or report them apart")
    words, characters = texts.pop()
    return np.array(words if level == "word" else characters)


def _errors(run: Result, method: str, level: Level) -> tuple[int, ...]:
    found = run.method(method)
    return found.word_errors if level == "word" else found.character_errors


def _draw_seeds(rates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """From (replications, seeds) to the mean of as many seeds, drawn with replacement, (replications,)."""
    seeds = rng.integers(rates.shape[1], size=rates.shape)
    return np.take_along_axis(rates, seeds, axis=1).mean(axis=1)


def _estimate(value: float, drawn: np.ndarray) -> Estimate:
    low, high = np.nanpercentile(drawn, (2.5, 97.5)) if not np.isnan(drawn).all() else (value, value)
    return Estimate(float(value), float(low), float(high))
