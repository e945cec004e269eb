"""Results of ablation runs, and their error rates over seeds with intervals.

Each run is a JSON line in a file that many machines can append to.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import kaldialign
import numpy as np

from shared_moe_conformer.config import ADDED_LATER, Config, from_dict, require, told_options
from shared_moe_conformer.decoding.scoring import Decoded, characters_of
from shared_moe_conformer.text import words_of

REPLICATIONS = 5000


@dataclass(frozen=True)
class MethodErrors:
    """The errors of one search on the test set."""

    method: str
    """The search."""
    insertions: int
    """Inserted words."""
    deletions: int
    """Deleted words."""
    substitutions: int
    """Substituted words."""
    word_errors: tuple[int, ...]
    """Word errors of each utterance, in the order of their ids."""
    character_errors: tuple[int, ...]
    """Character errors of each utterance."""


@dataclass(frozen=True)
class Result:
    """One variant, trained with one seed."""

    config: str
    """Named config of the recipe that the ablation is about."""
    variant: str
    """Row of the ablation."""
    seed: int
    """Seed of the training."""
    num_epochs: int
    """Budget: epochs of training."""
    avg: int
    """Epochs over which the weights are averaged."""
    options: dict
    """Options that differ from the named config, as flags of train.py."""
    encoder_unique: int
    """Parameters that the encoder stores."""
    encoder_active: int
    """Unrolled parameters of the encoder that compute a frame."""
    updates: int
    """Updates of the training."""
    minutes: float
    """Training and decoding, of the clock."""
    hardware: str
    """CPU or GPU, and threads."""
    engine: str
    """Versions of torch and k2."""
    commit: str | None
    """Commit of the code that trained."""
    command: str
    """Command that trained it, in the recipe's folder."""
    words: tuple[int, ...] = ()
    """Words of each utterance of the test set, in the order of their ids."""
    characters: tuple[int, ...] = ()
    """Characters of each utterance."""
    methods: tuple[MethodErrors, ...] = ()
    """Errors of each search."""
    base_options: dict = field(default_factory=dict, metadata=ADDED_LATER)
    """Options in which all runs of the ablation differ from the named config."""
    config_digest: str = field(default="", metadata=ADDED_LATER)
    """Digest of the named config (`config_digest`); empty in older results."""

    def method(self, name: str) -> MethodErrors:
        """The errors of a search.

        Raises:
          ValueError: it was not run.
        """
        for result in self.methods:
            if result.method == name:
                return result
        raise ValueError(f"{self.config}, {self.variant}, seed {self.seed}: not decoded by {name}")

    @property
    def key(self) -> RunKey:
        """The properties that identify the run."""
        return RunKey(self.config, self.variant, self.seed, self.num_epochs, self.avg, self.config_digest)


class RunKey(NamedTuple):
    """A run of an ablation."""

    config: str
    variant: str
    seed: int
    num_epochs: int
    avg: int
    config_digest: str


def config_digest(config: Config) -> str:
    """Eight hexadecimal digits that change with every option of a config except the seed and the number of epochs.

    Options that were added later do not count at their defaults, so old results stay comparable.
    """
    values = told_options(config)
    values["training"].update(seed=0, num_epochs=1)  # in the dictionary: a config of one epoch may be refused
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def read_results(path: Path) -> list[Result]:
    """The results of a file, empty if there is none; a last line that a killed program left unfinished is skipped.

    Raises:
      ValueError: a line is not a result.
    """
    results = []
    text = path.read_text() if path.is_file() else ""
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        try:
            values = json.loads(line)
            methods = tuple(from_dict(MethodErrors, method) for method in values.pop("methods"))
            results.append(from_dict(Result, {**values, "methods": methods}))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}, is not a result: {error}") from error
    return results


def add_result(path: Path, result: Result) -> None:
    """Add a line to a file; several programs may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(asdict(result)).encode() + b"\n")


def method_errors(method: str, decoded: Sequence[Decoded]) -> MethodErrors:
    """The errors in each recognised utterance."""
    rows = [kaldialign.edit_distance(words_of(d.ref), words_of(d.hyp)) for d in decoded]
    characters = [kaldialign.edit_distance(characters_of(d.ref), characters_of(d.hyp)) for d in decoded]
    return MethodErrors(
        method,
        insertions=sum(row["ins"] for row in rows),
        deletions=sum(row["del"] for row in rows),
        substitutions=sum(row["sub"] for row in rows),
        word_errors=tuple(row["total"] for row in rows),
        character_errors=tuple(row["total"] for row in characters),
    )


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
    """The rate divided by the reference variant's."""


def error_rates(
    results: Mapping[str, Sequence[Result]], *, method: str, level: Literal["word", "character"], reference: str
) -> dict[str, Rates]:
    """Each variant's error rate.

    Utterances and seeds are drawn with replacement, the same utterances for all variants, so that a ratio's interval
    leaves out that some utterances are hard for every model.

    Source: Bisani and Ney 2004, Bootstrap estimates for confidence intervals in ASR performance evaluation.

    Args:
      results: by variant, the runs of its seeds.
      reference: the variant to which the others are compared; without it ratios are NaN.

    Raises:
      ValueError: the runs are not of one test set, or one was not decoded by this search.
    """
    texts = {(run.words, run.characters) for runs in results.values() for run in runs}
    require(len(texts) == 1, f"the runs are of {len(texts)} test sets: prepare them alike, or report them apart")
    errors = {
        variant: np.array([getattr(run.method(method), f"{level}_errors") for run in runs])
        for variant, runs in results.items()
    }
    return rates_of(errors, np.array(texts.pop()[level == "character"]), reference=reference)


def rates_of(errors: Mapping[str, np.ndarray], lengths: np.ndarray, *, reference: str) -> dict[str, Rates]:
    """The error rates of variants of a model on the same utterances, as `error_rates` computes them.

    Args:
      errors: by variant, the errors of each seed in each utterance, (S, N); variants may have different S.
      lengths: words or characters of each utterance, (N,).
      reference: the variant to which the others are compared; without it ratios are NaN.
    """
    rng = np.random.default_rng(1)
    weights = rng.multinomial(len(lengths), np.full(len(lengths), 1 / len(lengths)), size=REPLICATIONS)
    drawn, rates = {}, {}
    for variant, its in errors.items():
        by_seed = 100 * (weights @ its.T) / (weights @ lengths)[:, None]  # (replications, seeds)
        seeds = rng.integers(len(its), size=by_seed.shape)
        drawn[variant] = np.take_along_axis(by_seed, seeds, axis=1).mean(axis=1)
        rates[variant] = 100 * its.sum() / len(its) / lengths.sum()
    base, drawn_base = rates.get(reference, np.nan), drawn.get(reference, np.full(REPLICATIONS, np.nan))
    with np.errstate(divide="ignore", invalid="ignore"):  # a draw in which the reference makes no error
        return {
            variant: Rates(_estimate(rate, drawn[variant]), _estimate(rate / base, drawn[variant] / drawn_base))
            for variant, rate in rates.items()
        }


def error_ratio(
    results: Sequence[Decoded], reference: Sequence[Decoded], *, level: Literal["word", "character"]
) -> Estimate:
    """The errors of one model over those of another on the same utterances, which are drawn with replacement.

    Args:
      results: of the model, in any order.
      reference: of the other.

    Raises:
      ValueError: the two are not of the same utterances.
    """
    pairs = [sorted(its, key=lambda decoded: decoded.cut_id) for its in (results, reference)]
    texts = [[(decoded.cut_id, decoded.ref) for decoded in its] for its in pairs]
    require(texts[0] == texts[1], "the two results are not of the same utterances: decode the same split with both")
    errors, base = (np.array(getattr(method_errors("", its), f"{level}_errors")) for its in pairs)
    weights = np.random.default_rng(1).multinomial(len(base), np.full(len(base), 1 / len(base)), size=REPLICATIONS)
    with np.errstate(divide="ignore", invalid="ignore"):  # a draw in which the reference makes no error
        return _estimate(np.divide(errors.sum(), base.sum()), (weights @ errors) / (weights @ base))


def _estimate(value: float, drawn: np.ndarray) -> Estimate:
    low, high = np.nanpercentile(drawn, (2.5, 97.5)) if not np.isnan(drawn).all() else (value, value)
    return Estimate(float(value), float(low), float(high))
