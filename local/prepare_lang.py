#!/usr/bin/env python3
"""Spell the training words in SentencePiece units: -> words.txt and lexicon.txt of the lang folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.data.manifests import read_cuts
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.lattice.decoding_graph import Lexicon
from shared_moe_conformer.text import shown, words_of


def main() -> None:
    args = parser().parse_args()
    tokenizer = Tokenizer.load(args.lang_dir)
    cuts = read_cuts(args.manifest_dir, args.split, recipe_dir=Path())
    words = sorted({word for cut in cuts for s in cut.supervisions for word in words_of(s.text or "")})
    for word in words:
        unknown = tokenizer.unknown_characters(word)
        require(
            not unknown,
            f"the word {word!r} has {', '.join(map(shown, unknown))}, which no unit of {args.lang_dir} holds",
        )
    Lexicon(tokenizer.pieces, dict(zip(words, tokenizer.encode(words)))).save(args.lang_dir)
    print(f"{args.lang_dir}: {len(words)} words")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--manifest-dir", type=Path, default=Path("data/manifests"), help="Folder of the cuts.")
    result.add_argument("--split", default="train", help="Split that gives the words; never a held-out one.")
    result.add_argument("--lang-dir", type=Path, required=True, help="Folder of the tokenizer.")
    return result


if __name__ == "__main__":
    run_main(main)
