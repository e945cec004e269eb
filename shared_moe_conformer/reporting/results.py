"""Error rates and errors of decoded test sets, from the files that decode.py writes."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple

ERROR_KINDS = ("SUBSTITUTIONS", "DELETIONS", "INSERTIONS")
CHECKPOINT = r"(?:averaged-)?(?:epoch|iter)-\d+-avg-\d+|best-valid-wer"
"""Pattern of the names that `Selection.name` gives weights."""


class Result(NamedTuple):
    """Error rates of one method on one test set."""

    test_set: str
    checkpoint: str
    """Name of the weights, e.g. epoch-30-avg-9."""
    method: str
    settings: str
    wer: float
    """Percent."""
    wer_low: float
    wer_high: float
    errors: str
    """Insertions, deletions and substitutions, for reading."""
    words: int
    cer: float
    """Percent."""
    real_time_factor: float
    path: Path
    """The wer-summary that says so."""


def read_results(exp_dir: Path) -> list[Result]:
    """All results of an experiment, by test set, the best first; files that are damaged or of another form are left."""
    found = []
    for path in sorted(exp_dir.glob("*/wer-summary-*.txt")):
        match = re.fullmatch(rf"wer-summary-(.+?)-({CHECKPOINT})-.+\.txt", path.name)
        if match:
            found += [_result(row, match, path) for row in _rows(path)]
    return sorted(found, key=lambda result: (result.test_set, result.wer, result.settings))


def most_frequent_errors(result: Result, *, at_most: int = 15) -> dict[str, list[tuple[int, str]]]:
    """Words that were confused, lost or invented, with counts, the most frequent first; empty without errs- file."""
    path = result.path.with_name(result.path.name.replace("wer-summary-", "errs-", 1))
    if not path.is_file():
        return {}
    sections: dict[str, list[tuple[int, str]]] = {}
    current = None
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        heading = re.match(r"([A-Z-]+(?: [A-Z]+)?): ", line)
        if heading:
            current = heading[1] if heading[1] in ERROR_KINDS else None
        match = re.fullmatch(r"(\d+)   (.+)", line)
        if current and match and len(sections.setdefault(current, [])) < at_most:
            sections[current].append((int(match[1]), match[2]))
    return sections


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        return [row for row in rows if all(_is_number(row.get(name)) for name in ("WER", "WER-low", "WER-high", "CER"))]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and float(text) >= 0
    except ValueError:
        return False


def _result(row: dict[str, str], match: re.Match[str], path: Path) -> Result:
    return Result(
        test_set=match[1],
        checkpoint=match[2],
        method=path.parent.name,
        settings=row["settings"],
        wer=float(row["WER"]),
        wer_low=float(row["WER-low"]),
        wer_high=float(row["WER-high"]),
        errors=", ".join(f"{row.get(kind) or '?'} {kind}" for kind in ("ins", "del", "sub")),
        words=int(row["words"]) if (row.get("words") or "").isdigit() else 0,
        cer=float(row["CER"]),
        real_time_factor=float(row["RTF"]) if _is_number(row.get("RTF")) else float("nan"),
        path=path,
    )
