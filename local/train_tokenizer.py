#!/usr/bin/env python3
"""Train SentencePiece units on one split's texts: cuts_train.jsonl.gz -> data/lang_bpe_<V>/{bpe.model,tokens.txt}.

Without --vocab-size each character is a unit, as is usual for Chinese.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.data.manifests import read_cuts
from shared_moe_conformer.data.tokenizer import train_tokenizer
from shared_moe_conformer.text import words_of


def main() -> None:
    args = parser().parse_args()
    texts = texts_of(args.manifest_dir, args.split)
    covered = {character for split in args.covered_splits for character in "".join(texts_of(args.manifest_dir, split))}
    tokenizer = train_tokenizer(texts, args.lang_dir, args.vocab_size, covered="".join(sorted(covered)))
    pieces = sum(map(len, tokenizer.encode(texts)))
    words = sum(len(words_of(text)) for text in texts)
    print(f"{args.lang_dir}: {tokenizer.vocab_size} units, {pieces / words:.2f} a word in {len(texts)} texts")


def texts_of(manifest_dir: Path, split: str) -> list[str]:
    cuts = read_cuts(manifest_dir, split, recipe_dir=Path())
    return [supervision.text or "" for cut in cuts for supervision in cut.supervisions]


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--manifest-dir", type=Path, default=Path("data/manifests"), help="Folder of the cuts.")
    result.add_argument("--split", default="train", help="Split that gives the texts; never a held-out one.")
    result.add_argument("--lang-dir", type=Path, required=True, help="Folder to write.")
    result.add_argument("--vocab-size", type=int, help="Units, blank, start/end and unknown included.")
    result.add_argument(
        "--covered-splits", nargs="*", default=[], help="Further splits with characters that get units."
    )
    return result


if __name__ == "__main__":
    run_main(main)
