#!/usr/bin/env python3
"""Train SentencePiece units on one split's texts: cuts_train.jsonl.gz -> data/lang_bpe_<V>/{bpe.model,tokens.txt}."""

from __future__ import annotations

import argparse
from pathlib import Path

from shared_moe_conformer.cli import run_main
from shared_moe_conformer.data.manifests import read_cuts
from shared_moe_conformer.data.tokenizer import train_tokenizer


def main() -> None:
    args = parser().parse_args()
    cuts = read_cuts(args.manifest_dir, args.split, recipe_dir=Path())
    texts = [supervision.text or "" for cut in cuts for supervision in cut.supervisions]
    tokenizer = train_tokenizer(texts, args.lang_dir, args.vocab_size)
    pieces = sum(map(len, tokenizer.encode(texts)))
    words = sum(len(text.split()) for text in texts)
    print(f"{args.lang_dir}: {tokenizer.vocab_size} units, {pieces / words:.2f} a word in {len(texts)} texts")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument("--manifest-dir", type=Path, default=Path("data/manifests"), help="Folder of the cuts.")
    result.add_argument("--split", default="train", help="Split whose texts are used; never a held-out one.")
    result.add_argument("--lang-dir", type=Path, required=True, help="Folder to write.")
    result.add_argument("--vocab-size", type=int, required=True, help="Units, blank, start/end and unknown included.")
    return result


if __name__ == "__main__":
    run_main(main)
