#!/usr/bin/env python3
"""Error rates of groups of utterances in decode.py's results: exp/.../recogs-test-*.txt -> a Markdown table.

    local/rates_by_group.py --split test --by age --age-groups 0,13,20 exp/base/greedy_search/recogs-test-*.txt

With --baseline it also divides the errors by those of another model. Run it in the recipe's folder.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from shared_moe_conformer.ablation.results import error_ratio
from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.data.manifests import read_cuts
from shared_moe_conformer.data.utterances import AGE_GROUPS, GROUPINGS, group_of
from shared_moe_conformer.decoding.scoring import Decoded, character_error_rate, read_transcripts, word_error_rate
from shared_moe_conformer.text import markdown_table


def main() -> None:
    args = parser().parse_args()
    require(args.age_groups == sorted(set(args.age_groups)), f"--age-groups {args.age_groups}: give ascending ages")
    cuts = read_cuts(args.manifest_dir, args.split, recipe_dir=Path())
    groups = {cut.id: group_of(cut.supervisions[0], args.by, args.age_groups) for cut in cuts}
    for path in args.recogs:
        baseline = read_transcripts(args.baseline) if args.baseline else None
        print(f"{path}\n\n{table(read_transcripts(path), groups, args.by, baseline=baseline)}\n")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("recogs", type=Path, nargs="+", help="Files recogs-*.txt of the split.")
    result.add_argument("--manifest-dir", type=Path, default=Path("data/fbank"), help="Folder of the cuts.")
    result.add_argument("--split", default="test", help="Split that was decoded.")
    result.add_argument("--baseline", type=Path, help="File recogs-*.txt of another model on the same split.")
    result.add_argument("--by", choices=GROUPINGS, default="speaker", help="What makes a group.")
    result.add_argument(
        "--age-groups", type=ages, default=list(AGE_GROUPS), metavar="A,B,..", help="Youngest age of each group."
    )
    return result


def ages(text: str) -> list[int]:
    """Ages with commas between them."""
    return [int(age) for age in text.split(",")]


def table(
    results: Sequence[Decoded], groups: dict[str, str], by: str, *, baseline: Sequence[Decoded] | None = None
) -> str:
    """A row for each group, and one for all.

    Raises:
      ValueError: the results are of another split, or the baseline's.
    """
    unknown = [result.cut_id for result in results if result.cut_id not in groups]
    require(not unknown, f"{', '.join(unknown[:1])} is not in the split: give the --split that was decoded")
    members: defaultdict[str, list[Decoded]] = defaultdict(list)
    for result in results:
        members[groups[result.cut_id]].append(result)
    rows = [(group, members[group]) for group in sorted(members, key=_numerically)]
    head = [by, "utterances", "words", "WER", "CER"]
    if baseline:
        head += ["word errors over the baseline's", "character errors over the baseline's"]
    lines = []
    for name, its in [*rows, ("all", list(results))]:
        rate = word_error_rate(its)
        line = [name, str(len(its)), str(rate.ref_len), str(rate), str(character_error_rate(its))]
        if baseline:
            ids = {result.cut_id for result in its}
            line += ratios(its, [result for result in baseline if result.cut_id in ids])
        lines.append(line)
    return markdown_table(head, lines)


def ratios(results: Sequence[Decoded], baseline: Sequence[Decoded]) -> list[str]:
    """Word and character errors over the baseline's, with intervals over the utterances."""
    found = (error_ratio(results, baseline, level=level) for level in ("word", "character"))
    return [f"{ratio.mean:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]" for ratio in found]


def _numerically(group: str) -> tuple[int, str]:
    first = group.split()[0]
    return (int(first) if first.isdigit() else 0, group)


if __name__ == "__main__":
    run_main(main)
