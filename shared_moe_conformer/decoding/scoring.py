"""Error rates of decoded test sets, and their three files, as in icefall.

Source of the files' form: icefall (store_transcripts, write_error_stats and the recipes' save_results).
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import kaldialign

from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.config import require
from shared_moe_conformer.text import words_of

# Marks "no word here" in alignments; no transcript contains it, since words have no spaces.
GAP = " "
SHOWN_GAP = "*"

BOOTSTRAP_REPLICATIONS = 10_000
MAX_NAME = 220
"""Most bytes of a file's name without its kind, its suffix and what `atomic_file` adds; the limit is 255."""


class Decoded(NamedTuple):
    """An utterance and what was recognised."""

    cut_id: str
    ref: str
    hyp: str


class ErrorRate(NamedTuple):
    """Errors of a test set, in words or in characters."""

    insertions: int
    deletions: int
    substitutions: int
    ref_len: int
    """Words or characters of the transcripts."""
    low: float
    """Lower end of the rate's bootstrap 95 % interval, in percent."""
    high: float
    """Upper end of it."""

    @property
    def errors(self) -> int:
        """Insertions, deletions and substitutions."""
        return self.insertions + self.deletions + self.substitutions

    @property
    def percent(self) -> float:
        """Errors per 100 words or characters."""
        return 100.0 * self.errors / self.ref_len

    @property
    def counts(self) -> str:
        """The three kinds of errors, in words."""
        return f"{self.insertions} ins, {self.deletions} del, {self.substitutions} sub"

    def __str__(self) -> str:
        return f"{self.percent:.2f} % [{self.low:.2f}, {self.high:.2f}]"


def characters_of(text: str) -> list[str]:
    """The characters that the character error rate counts: all except spaces."""
    return list("".join(words_of(text)))


def num_errors(ref: list[str], hyp: list[str]) -> int:
    """Insertions, deletions and substitutions between two sequences."""
    return int(kaldialign.edit_distance(ref, hyp)["total"])


def word_error_rate(results: Sequence[Decoded]) -> ErrorRate:
    """The word error rate of a test set.

    Raises:
      ValueError: no transcript has a word.
    """
    return _error_rate([words_of(r.ref) for r in results], [words_of(r.hyp) for r in results])


def character_error_rate(results: Sequence[Decoded]) -> ErrorRate:
    """The character error rate of a test set.

    Raises:
      ValueError: no transcript has a character.
    """
    return _error_rate([characters_of(r.ref) for r in results], [characters_of(r.hyp) for r in results])


def _error_rate(refs: list[list[str]], hyps: list[list[str]]) -> ErrorRate:
    """Source of the interval: Bisani and Ney 2004, Bootstrap estimates for confidence intervals in ASR performance
    evaluation; utterances are drawn with replacement."""
    if not any(refs):
        raise ValueError("nothing to score: the test set has no transcript with a word in it")
    counts = kaldialign.batch_error_rate(refs, hyps)
    interval = kaldialign.bootstrap_wer_ci(refs, hyps, replications=BOOTSTRAP_REPLICATIONS)
    return ErrorRate(
        int(counts["ins"]),
        int(counts["del"]),
        int(counts["sub"]),
        int(counts["ref_len"]),
        low=max(100.0 * interval["ci95min"], 0.0),  # the interval is symmetric
        high=100.0 * interval["ci95max"],
    )


class Scores(NamedTuple):
    """The error rates and costs of one decoding method on one test set."""

    test_set: str
    method: str
    settings: str
    """The method and its options."""
    wer: ErrorRate
    cer: ErrorRate
    real_time_factor: float
    """Seconds of encoder and search per second of audio."""
    is_oracle: bool = False
    """Whether the transcripts were used, so that the rates are bounds, not results."""

    def __str__(self) -> str:
        """One line for the terminal."""
        return (
            f"{self.test_set}, {self.method}: WER {self.wer}, {self.wer.counts} of {self.wer.ref_len} words; "
            f"CER {self.cer}; real-time factor {self.real_time_factor:.4f}"
        )


def write_files(results: Sequence[Decoded], scores: Scores, folder: Path, *, suffix: str) -> list[Path]:
    """Write recogs-, errs- and wer-summary-<test set>-<suffix>.txt and return their paths.

    An oracle's are called oracle-recogs- and so on, so that nobody takes its rates for results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = sorted(results)
    texts = {
        "recogs": transcripts_text(results),
        "errs": error_statistics_text(results, scores.wer),
        "wer-summary": summary_text([scores]),
    }
    before, name = "oracle-" if scores.is_oracle else "", short_name(f"{scores.test_set}-{suffix}")
    paths = [folder / f"{before}{kind}-{name}.txt" for kind in texts]
    for path, text in zip(paths, texts.values()):
        write_whole(path, text)
    return paths


def short_name(name: str) -> str:
    """A file name; one that many options or hotwords make too long ends in a hash."""
    content = name.encode()
    if len(content) <= MAX_NAME:
        return name
    end = f"-{hashlib.sha256(content).hexdigest()[:8]}"
    return content[: MAX_NAME - len(end)].decode(errors="ignore") + end


def transcripts_text(results: Sequence[Decoded]) -> str:
    """Reference and hypothesis of every utterance as Python lists of words."""
    return "".join(f"{r.cut_id}:\tref={words_of(r.ref)}\n{r.cut_id}:\thyp={words_of(r.hyp)}\n\n" for r in results)


def read_transcripts(path: Path) -> list[Decoded]:
    """The transcripts of a recogs-*.txt that `write_files` wrote, in the order of the ids.

    Raises:
      ValueError: a line is not of that form.
    """
    texts: dict[str, dict[str, str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line:
            name, _, rest = line.rpartition(":\t")
            kind, equals, words = rest.partition("=")
            require(bool(name and equals) and kind in ("ref", "hyp"), f"{path}: {line[:60]!r} is not a transcript")
            texts.setdefault(name, {})[kind] = " ".join(ast.literal_eval(words))
    return [Decoded(name, both["ref"], both["hyp"]) for name, both in sorted(texts.items())]


def summary_text(scores: Sequence[Scores]) -> str:
    """One line per method, tab-separated; icefall's two columns first."""
    header = "settings\tWER\tWER-low\tWER-high\tins\tdel\tsub\twords\tCER\tCER-low\tCER-high\tRTF\n"
    return header + "".join(
        f"{s.settings}\t{s.wer.percent:.2f}\t{s.wer.low:.2f}\t{s.wer.high:.2f}"
        f"\t{s.wer.insertions}\t{s.wer.deletions}\t{s.wer.substitutions}\t{s.wer.ref_len}"
        f"\t{s.cer.percent:.2f}\t{s.cer.low:.2f}\t{s.cer.high:.2f}\t{s.real_time_factor:.4f}\n"
        for s in scores
    )


def error_statistics_text(results: Sequence[Decoded], wer: ErrorRate) -> str:
    """Aligned utterances, and the counts of each word that was confused, lost or invented."""
    alignments = [(r.cut_id, kaldialign.align(words_of(r.ref), words_of(r.hyp), GAP)) for r in results]
    pairs = Counter(pair for _, alignment in alignments for pair in alignment)
    correct = sum(count for (ref, hyp), count in pairs.items() if ref == hyp)
    confused = {f"{ref} -> {hyp}": n for (ref, hyp), n in pairs.items() if ref != hyp and GAP not in (ref, hyp)}
    sections = [
        f"%WER = {wer.percent:.2f}\n"
        f"Errors: {wer.insertions} insertions, {wer.deletions} deletions, {wer.substitutions} substitutions, "
        f"over {wer.ref_len} reference words ({correct} correct)\n"
        f"95 % interval: {wer.low:.2f} to {wer.high:.2f}\n"
        "Search below for sections starting with PER-UTT DETAILS:, SUBSTITUTIONS:, DELETIONS:, INSERTIONS:, "
        "PER-WORD STATS:",
        "PER-UTT DETAILS: corr or (ref->hyp)  " + "".join(f"\n{cut_id}:\t{_marked(a)}" for cut_id, a in alignments),
        "SUBSTITUTIONS: count ref -> hyp" + _counted(confused),
        "DELETIONS: count ref" + _counted({ref: n for (ref, hyp), n in pairs.items() if hyp == GAP}),
        "INSERTIONS: count hyp" + _counted({hyp: n for (ref, hyp), n in pairs.items() if ref == GAP}),
        "PER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp" + _per_word(pairs),
    ]
    return "\n\n".join(sections) + "\n"


def _marked(alignment: Sequence[tuple[str, str]]) -> str:
    """The words of an alignment, its errors as (ref->hyp)."""
    return " ".join(
        ref if ref == hyp else f"({ref.replace(GAP, SHOWN_GAP)}->{hyp.replace(GAP, SHOWN_GAP)})"
        for ref, hyp in alignment
    )


def _counted(counts: dict[str, int]) -> str:
    """One line per entry, the most frequent first."""
    return "".join(f"\n{n}   {key}" for key, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _per_word(pairs: Counter[tuple[str, str]]) -> str:
    """One line per word, words with most errors first."""
    stats: dict[str, list[int]] = {}
    for (ref, hyp), n in pairs.items():
        for word in {ref, hyp} - {GAP}:
            counts = stats.setdefault(word, [0, 0, 0, 0])
            counts[0] += n * (ref == hyp)
            counts[1] += n * (ref != hyp)
            counts[2] += n * (word == ref)
            counts[3] += n * (word == hyp)
    rows = sorted(stats.items(), key=lambda item: (-item[1][1], item[0]))
    return "".join(f"\n{word}   {' '.join(map(str, counts))}" for word, counts in rows)
