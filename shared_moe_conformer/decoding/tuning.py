"""Search for the values of a decoding method with the fewest errors on a split, one option after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tqdm import tqdm

from shared_moe_conformer.config import require
from shared_moe_conformer.decoding.comparison import text_of
from shared_moe_conformer.decoding.methods import METHODS, decode_at_scales, grouped, label
from shared_moe_conformer.decoding.options import DecodingConfig, Resources
from shared_moe_conformer.decoding.scoring import num_errors
from shared_moe_conformer.decoding.tuned_values import GRIDS, Values, flag, tunable, tuned_as, value_of, with_values
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import EncoderOutput
from shared_moe_conformer.text import words_of

if TYPE_CHECKING:
    from shared_moe_conformer.data.batch import AsrBatch

LAST = "beam_size"
"""The option that is tuned last and only made larger: larger beams take longer."""

CountErrors = Callable[[Sequence[Values]], Sequence[int]]
"""Function from settings of a method to the errors that each makes."""
Point = tuple[float, ...]


def require_not_test(split: str) -> None:
    """Refuse to tune on a test set.

    Raises:
      ValueError: the split's name begins with `test`.
    """
    require(
        not split.lower().startswith("test"),
        f"--tune {split}: values that are chosen on a test set flatter its error rate; tune on dev",
    )


class CoordinateSearch:
    """Searches the grid of one option after the other until no value changes.

    The setting with the fewest errors wins; among equals, the one that is the fewest grid steps from the start. Every
    move lowers the errors, or keeps them and lowers the steps, so the search ends.
    """

    def __init__(self, start: Values, grids: Mapping[str, Sequence[float]], count_errors: CountErrors) -> None:
        """Nothing is tried yet.

        Args:
          start: the value of every option, in one order.
          grids: the values to try, by option.
          count_errors: called with settings that were not tried before.
        """
        self.start = start
        self.tried: dict[Point, int] = {}
        self._grids = {name: grid for name, grid in grids.items() if name != LAST}
        self._larger = [value for value in sorted(grids.get(LAST, ())) if value > start[LAST]]
        self._steps = {name: sorted({*grid, start[name]}) for name, grid in grids.items()}
        self._count_errors = count_errors

    def best(self) -> Values:
        """The values with the fewest errors."""
        best, before = self.start, None
        while best != before:
            before = best
            for name, grid in self._grids.items():
                best = self._best_of([best, *({**best, name: value} for value in grid)])
        for value in self._larger:
            larger = {**best, LAST: value}
            if self._best_of([best, larger]) == best:
                break
            best = larger
        return best

    def errors(self, values: Values) -> int:
        """The number of errors at these values."""
        self.try_values([values])
        return self.tried[tuple(values.values())]

    def try_values(self, settings: Sequence[Values]) -> None:
        """Count the errors of those settings that were not tried before."""
        new = {tuple(values.values()): values for values in settings if tuple(values.values()) not in self.tried}
        if new:
            self.tried.update(zip(new, self._count_errors(list(new.values())), strict=True))

    def _best_of(self, settings: Sequence[Values]) -> Values:
        self.try_values(settings)
        return min(settings, key=lambda values: (self.errors(values), self._distance(values)))

    def _distance(self, values: Values) -> int:
        """Steps of the grids between these values and the start."""
        return sum(
            abs(steps.index(values[name]) - steps.index(self.start[name])) for name, steps in self._steps.items()
        )


@dataclass(frozen=True)
class EncodedSplit:
    """The encoder's outputs of a split, in the main memory, and what was said."""

    outputs: list[EncoderOutput]
    texts: list[list[str]]
    """The transcripts of each batch."""

    @property
    def num_words(self) -> int:
        """Words of the transcripts."""
        return sum(len(words_of(text)) for texts in self.texts for text in texts)


@torch.inference_mode()
def encode_split(model: AsrModel, batches: Iterable[AsrBatch], config: DecodingConfig) -> EncodedSplit:
    """Run the encoder on a split, once for all values to try, in the chunks of a search.

    Raises:
      ValueError: no transcript has a word.
    """
    device = next(model.parameters()).device
    encoded = EncodedSplit([], [])
    for batch in batches:
        output = model.encode(batch.x.to(device), batch.x_lens.to(device), config.chunking)
        encoded.outputs.append(EncoderOutput(output.encoder_out.cpu(), output.encoder_out_lens.cpu(), None))
        encoded.texts.append(batch.texts)
    require(encoded.num_words > 0, "nothing to tune on: the split has no transcript with a word in it")
    return encoded


class Searcher(NamedTuple):
    """A model and everything else that decodes an encoded split."""

    model: AsrModel
    encoded: EncodedSplit
    to_text: Callable[[list[int]], str]
    """Token ids to text."""
    resources: Resources

    @torch.inference_mode()
    def num_errors(self, configs: Sequence[DecodingConfig]) -> list[int]:
        """The word errors of each search; searches that differ only in the LM's scale run once."""
        errors: list[int] = []
        for group in grouped(configs):
            of_batches = [self._errors_in_batch(i, group) for i in range(len(self.encoded.outputs))]
            errors += map(sum, zip(*of_batches, strict=True))
        return errors

    def _errors_in_batch(self, index: int, group: Sequence[DecodingConfig]) -> list[int]:
        device = next(self.model.parameters()).device
        frames, lens, _ = self.encoded.outputs[index]
        output = EncoderOutput(frames.to(device), lens.to(device), None)
        found = decode_at_scales(self.model, output, group, resources=self.resources)
        texts = self.encoded.texts[index]
        return [
            sum(num_errors(words_of(ref), words_of(text_of(hyp, self.to_text))) for ref, hyp in zip(texts, hyps))
            for hyps in found
        ]


def grids_of(config: DecodingConfig, given: Mapping[str, Any]) -> dict[str, Sequence[float]]:
    """The values to try, by option.

    Args:
      given: options on the command line, which keep their values; one of several `lm_scales` is chosen.
    """
    wanted: dict[str, Sequence[float]] = {name: GRIDS[name] for name in tunable(config) if name not in given}
    if "lm_scales" in tunable(config) and len(given.get("lm_scales", ())) > 1:
        wanted["lm_scales"] = given["lm_scales"]
    if LAST in wanted:
        wanted[LAST] = tuple(value for value in GRIDS[LAST] if value >= value_of(config, LAST))
    return wanted


def worth_tuning(configs: Sequence[DecodingConfig], given: Mapping[str, Any]) -> list[DecodingConfig]:
    """One search for each method that has something to tune and is not an oracle, by the first of its engines.

    Raises:
      ValueError: there is none.
    """
    fit = [c for c in configs if grids_of(c, given) and not METHODS[c.decoding_method].is_oracle]
    require(bool(fit), "nothing to tune: all scales of the method are given, or it is an oracle")
    return list({tuned_as(config): config for config in reversed(fit)}.values())[::-1]


class Found(NamedTuple):
    """The result of tuning one method."""

    method: str
    best: Values
    wer: float
    """Word error rate in percent at the best values."""
    default_wer: float
    """Word error rate in percent at the start."""
    table: str
    """A table of the settings that were tried."""


def tune(configs: Sequence[DecodingConfig], searcher: Searcher, *, given: Mapping[str, Any]) -> Iterator[Found]:
    """Tune one method after the other, under a progress bar.

    Args:
      configs: their searches at the values where the tuning begins, as `worth_tuning` gives them.
      given: see `grids_of`.
    """
    for number, config in enumerate(configs, start=1):
        name = label(config).partition(" at ")[0]  # the scale is one of the values that are tried
        grids = grids_of(config, given)
        planned = 1 + sum(len(grid) - 1 for grid in grids.values())
        with tqdm(total=planned, desc=f"tuning {name} ({number} of {len(configs)})", unit="value") as bar:
            search = _search(config, searcher, grids, bar)
            best = search.best()
        rates = {point: 100.0 * errors / searcher.encoded.num_words for point, errors in search.tried.items()}
        wer, default_wer = (rates[tuple(values.values())] for values in (best, search.start))
        yield Found(tuned_as(config), best, wer, default_wer, f"{name}\n{_table(search.start, best, rates)}")


def _search(
    config: DecodingConfig, searcher: Searcher, grids: Mapping[str, Sequence[float]], bar: tqdm[Any]
) -> CoordinateSearch:
    """The search for the values of one method, by word errors."""

    def count_errors(settings: Sequence[Values]) -> list[int]:
        errors: list[int] = []
        for group in grouped([with_values(config, values) for values in settings]):
            errors += searcher.num_errors(group)
            bar.total = max(bar.total, bar.n + len(group))  # more are tried where options depend on each other
            bar.update(len(group))
        return errors

    return CoordinateSearch({name: value_of(config, name) for name in tunable(config)}, grids, count_errors)


def _table(start: Values, best: Values, rates: Mapping[Point, float]) -> str:
    """One row for each setting that was tried, by value."""
    lines = ["".join(f"{flag(name):>16}" for name in start) + f"{'WER %':>10}"]
    for point, rate in sorted(rates.items()):
        marks = [name for name, marked in (("defaults", start), ("best", best)) if point == tuple(marked.values())]
        lines.append(f"{''.join(f'{value:>16g}' for value in point)}{rate:>10.2f}  {', '.join(marks)}".rstrip())
    return "\n".join(lines)
