#!/usr/bin/env python3
"""Train an n-gram on one split's texts, by modified Kneser-Ney: cuts_train.jsonl.gz -> data/lang_bpe_<V>/G.arpa."""

from __future__ import annotations

import argparse
from pathlib import Path

from shared_moe_conformer.cli import run_main
from shared_moe_conformer.data.manifests import read_cuts
from shared_moe_conformer.lattice.decoding_graph import NGRAM_FILE
from shared_moe_conformer.lattice.kneser_ney import train_ngram


def main() -> None:
    args = parser().parse_args()
    cuts = read_cuts(args.manifest_dir, args.split, recipe_dir=Path())
    texts = [(supervision.text or "").split() for cut in cuts for supervision in cut.supervisions]
    model = train_ngram(texts, args.order)
    args.lang_dir.mkdir(parents=True, exist_ok=True)
    model.save(args.lang_dir / NGRAM_FILE)
    print(f"{args.lang_dir / NGRAM_FILE}: {len(model.log_probs)} n-grams of {len(model.words)} words")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument("--manifest-dir", type=Path, default=Path("data/manifests"), help="Folder of the cuts.")
    result.add_argument("--split", default="train", help="Split whose texts are used; never a held-out one.")
    result.add_argument("--lang-dir", type=Path, required=True, help="Folder to write to.")
    result.add_argument("--order", type=int, default=3, help="Words of the longest n-grams.")
    return result


if __name__ == "__main__":
    run_main(main)
