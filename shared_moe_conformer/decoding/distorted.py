"""The table of a test set's error rates, clean and distorted."""

from __future__ import annotations

from collections.abc import Sequence

from shared_moe_conformer.decoding.scoring import Scores


def distortion_table(clean: Sequence[Scores], distorted: Sequence[Sequence[Scores]]) -> str:
    """Rows of Markdown: each method clean, then distorted, and by what factor its word error rate grows.

    Args:
      clean: of one test set, one per method.
      distorted: the same for each distortion; its test sets are named `<test set>-<distortion>`.
    """
    test_set = clean[0].test_set
    lines = [f"| {test_set} | WER % [95 %] | ins | del | sub | times clean |", "|---|---|---|---|---|---|"]
    for own in [clean, *distorted]:
        name = own[0].test_set.removeprefix(f"{test_set}-") if own is not clean else "clean"
        for before, score in zip(clean, own, strict=True):
            wer, method = score.wer, f", {score.method}" if len(clean) > 1 else ""
            rate = f"{wer.percent:.2f} [{wer.low:.2f}, {wer.high:.2f}]"
            times = f"{wer.percent / before.wer.percent:.2f}" if before.wer.errors else "-"
            counts = f"{wer.insertions} | {wer.deletions} | {wer.substitutions}"
            lines.append(f"| {name}{method} | {rate} | {counts} | {times} |")
    return "\n".join(lines) + "\n"
