#!/usr/bin/env python3
"""The training cuts of each corpus as sources for --train-cuts: cuts_train.jsonl.gz -> sources/<corpus>.jsonl.

Their order is random but fixed, since batches are drawn among the next cuts of each source.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from pathlib import Path

from lhotse import CutSet

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.data.manifests import read_cuts, write_manifest
from shared_moe_conformer.data.utterances import group_of


def main() -> None:
    args = parser().parse_args()
    corpora = defaultdict(list)
    for cut in read_cuts(args.manifest_dir, "train", recipe_dir=Path()):
        corpora[group_of(cut.supervisions[0], "corpus")].append(cut)
    for corpus, cuts in sorted(corpora.items()):
        random.Random(corpus).shuffle(cuts)
        write_manifest(CutSet.from_cuts(cuts), args.output_dir / f"{corpus}.jsonl")
        print(f"{corpus}: {len(cuts)} cuts, {sum(cut.duration for cut in cuts) / 3600:.2f} hours")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--manifest-dir", type=Path, required=True, help="Folder of the cuts with features.")
    result.add_argument("--output-dir", type=Path, required=True, help="Folder to write.")
    return result


if __name__ == "__main__":
    run_main(main)
