"""Timed searches of whole test sets, and comparisons of their results.

These compare methods, lattice engines, confidences with errors, and clean with distorted recordings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import kaldialign
import torch

from shared_moe_conformer.config import FRAME_SHIFT, replace_fields
from shared_moe_conformer.decoding.hypothesis import Hypothesis
from shared_moe_conformer.decoding.methods import decode_at_scales, decode_batch, grouped, label
from shared_moe_conformer.decoding.options import NOTHING, DecodingConfig, Resources
from shared_moe_conformer.decoding.scoring import GAP, Decoded, Scores
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import EncoderOutput
from shared_moe_conformer.text import aligned_columns, markdown_table

if TYPE_CHECKING:
    from shared_moe_conformer.data.batch import AsrBatch


@dataclass
class MethodResult:
    """The hypotheses of one method for one test set, and the time they took."""

    config: DecodingConfig
    decoded: list[Decoded] = field(default_factory=list)
    hyps: list[Hypothesis] = field(default_factory=list)
    """The hypotheses of the same utterances."""
    seconds: float = 0.0
    """Seconds of encoder and search; each of several results from one search counts all of it."""
    audio_seconds: float = 0.0

    @property
    def real_time_factor(self) -> float:
        """Seconds of computing per second of audio."""
        return self.seconds / self.audio_seconds


@torch.inference_mode()
def decode_batches(
    model: AsrModel,
    batches: Iterable[AsrBatch],
    configs: Sequence[DecodingConfig],
    *,
    to_text: Callable[[list[int]], str],
    resources: Resources = NOTHING,
) -> list[MethodResult]:
    """Decode every batch by every method; the encoder runs once for all of them.

    Args:
      configs: one for each method, as `resolved` gives them; all with the same chunks.

    Returns:
      one result per config, in their order.
    """
    device = next(model.parameters()).device
    results = [MethodResult(config) for config in configs]
    for config in configs:
        _warm_up(model, config, device, resources)
    for batch in batches:
        begin = _now(device)
        encoder_output = model.encode(batch.x.to(device), batch.x_lens.to(device), configs[0].chunking)
        encoder_seconds = _now(device) - begin
        resources = replace(resources, transcripts=batch.texts)
        audio_seconds = float(batch.x_lens.sum()) * FRAME_SHIFT
        rest = iter(results)
        for group in grouped(configs):
            begin = _now(device)
            hyps_of_each = decode_at_scales(model, encoder_output, group, resources=resources)
            seconds = encoder_seconds + _now(device) - begin
            for hyps, result in zip(hyps_of_each, rest):
                result.seconds += seconds
                result.audio_seconds += audio_seconds
                result.hyps += hyps
                result.decoded += [
                    Decoded(cut_id, text, text_of(hyp, to_text))
                    for cut_id, text, hyp in zip(batch.cut_ids, batch.texts, hyps, strict=True)
                ]
    return results


def text_of(hyp: Hypothesis, to_text: Callable[[list[int]], str]) -> str:
    """The text of a hypothesis: its words, or the text of its tokens if the search knows no words."""
    return to_text(hyp.tokens) if hyp.words is None else " ".join(hyp.words)


def _warm_up(model: AsrModel, config: DecodingConfig, device: torch.device, resources: Resources) -> None:
    """Search one frame, so that graphs and libraries are loaded before time is taken."""
    frame = torch.zeros(1, 1, model.config.encoder.encoder_dim, device=device)
    one = torch.ones(1, dtype=torch.int64, device=device)
    nothing_said = replace(resources, transcripts=[""])
    decode_batch(model, EncoderOutput(frame, one, None), config, resources=nothing_said)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


ORACLE = " (oracle)"
SECONDS_OF_RTF = "RTF: seconds of encoder and search per second of audio"
HEADER = ("method", "WER % [95 %]", "ins", "del", "sub", "CER % [95 %]", "RTF")

EDGES = (0.5, 0.8, 0.95)
"""Confidences at which the next bin begins."""
BINS = ("below 0.5", "0.5 to 0.8", "0.8 to 0.95", "0.95 or more")

Judged = tuple[float, bool]
"""A word's confidence, and whether it is right."""


def comparison_text(
    scores: Sequence[Scores], *, title: str, left_out: Mapping[str, str], agreement: str | None = None
) -> str:
    """The table, with notes below it.

    Args:
      left_out: methods that could not run, and why.
    """
    notes = [f"{SECONDS_OF_RTF}, all methods in turn on each batch"]
    if any(s.is_oracle for s in scores):
        notes.append("oracle: chosen by the transcripts, a bound and no result")
    notes += [agreement] if agreement else []
    notes += [f"left out: {name}: {reason}" for name, reason in left_out.items()]
    return f"{title}\n{table_text(scores)}" + "".join(f"{note}\n" for note in notes)


def table_text(scores: Sequence[Scores]) -> str:
    """One line for each method; the intervals hold the rate with a probability of 95 %."""
    return aligned_columns([HEADER, *map(_row, scores)])


def _row(scores: Scores) -> tuple[str, ...]:
    return (
        name_of(scores),
        str(scores.wer).replace(" %", ""),
        *map(str, (scores.wer.insertions, scores.wer.deletions, scores.wer.substitutions)),
        str(scores.cer).replace(" %", ""),
        f"{scores.real_time_factor:.4f}",
    )


def name_of(scores: Scores) -> str:
    """The method, with a mark if it is an oracle."""
    return scores.method + ORACLE * scores.is_oracle


def agreement_note(found: Mapping[DecodingConfig, Sequence[Hypothesis]]) -> str | None:
    """A sentence about the agreement of k2 and the embedded engine; None if no search ran on both.

    It counts the utterances in which both find the same words or tokens, and states how far scores differ there.

    Args:
      found: the hypotheses of each search, of the same utterances.
    """
    counts: dict[str, int] = {}
    largest = 0.0
    total = 0
    for config, hyps in found.items():
        others = found.get(replace_fields(config, {"lattice_engine": "embedded"}))
        if config.lattice_engine != "k2" or others is None:
            continue
        same = [(a.score, b.score) for a, b in zip(hyps, others, strict=True) if _output(a) == _output(b)]
        largest = max(largest, *(abs(a - b) for a, b in same if a != b), 0.0)
        counts[label(config).replace(" (k2)", "")] = len(same)
        total = len(hyps)
    if not counts:
        return None
    scores = f"scores that differ by {largest:.1g} at most" if largest else "the same score"
    searches = "1 search" if len(counts) == 1 else f"{len(counts)} searches"
    return f"k2 and embedded, {searches}: the same text {_where(counts, total)}; and there {scores}"


def _where(counts: Mapping[str, int], total: int) -> str:
    """The number of utterances in which the engines agree, with the names of searches that disagree in some."""
    fewer = ", ".join(f"in {count} of {total} by {name}" for name, count in counts.items() if count < total)
    some_agree = total in counts.values()
    return ", but ".join([f"in all {total} utterances"] * some_agree + [fewer] * bool(fewer))


def _output(hyp: Hypothesis) -> Sequence[str] | Sequence[int]:
    return hyp.tokens if hyp.words is None else hyp.words


def judged_words(ref: Sequence[str], hyp: Sequence[tuple[str, float | None]]) -> list[Judged]:
    """The recognised words of an utterance that have a confidence.

    Args:
      hyp: each recognised word and its confidence.
    """
    pairs = [(said, word) for said, word in kaldialign.align(ref, [word for word, _ in hyp], GAP) if word != GAP]
    return [(sure, said == word) for (said, word), (_, sure) in zip(pairs, hyp, strict=True) if sure is not None]


def calibration_text(judged: Mapping[str, Sequence[Judged]], *, title: str) -> str:
    """A table of each method's share of right words, by confidence."""
    rows = [("method", *BINS), *((method, *_bins(words)) for method, words in judged.items() if words)]
    return f"{title}: words that are right, by their confidence\n{aligned_columns(rows)}"


def _bins(words: Sequence[Judged]) -> list[str]:
    bins: list[list[bool]] = [[] for _ in BINS]
    for confidence, is_right in words:
        bins[sum(confidence >= edge for edge in EDGES)].append(is_right)
    return [f"{100 * sum(right) / len(right):.0f} % of {len(right)}" if right else "-" for right in bins]


def distortion_table(clean: Sequence[Scores], distorted: Sequence[Sequence[Scores]]) -> str:
    """A Markdown table: each method on clean and on distorted speech, and the factor between the word error rates.

    Args:
      clean: scores of one test set, one per method.
      distorted: the same for each distortion, whose test sets are called `<test set>-<distortion>`.
    """
    test_set = clean[0].test_set
    rows = []
    for own in [clean, *distorted]:
        name = own[0].test_set.removeprefix(f"{test_set}-") if own is not clean else "clean"
        for before, score in zip(clean, own, strict=True):
            wer, method = score.wer, f", {score.method}" if len(clean) > 1 else ""
            rate = f"{wer.percent:.2f} [{wer.low:.2f}, {wer.high:.2f}]"
            times = f"{wer.percent / before.wer.percent:.2f}" if before.wer.errors else "-"
            counts = map(str, (wer.insertions, wer.deletions, wer.substitutions))
            rows.append([name + method, rate, *counts, times])
    return markdown_table([test_set, "WER % [95 %]", "ins", "del", "sub", "times clean"], rows) + "\n"
