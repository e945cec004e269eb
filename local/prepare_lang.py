#!/usr/bin/env python3
"""Spell the training words in SentencePiece units: -> words.txt and lexicon.txt of the lang folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.data.manifests import cuts_path, iterate_cut_file
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.lattice.decoding_graph import Lexicon
from shared_moe_conformer.text import shown, words_of


def main() -> None:
    args = parser().parse_args()
    tokenizer = Tokenizer.load(args.lang_dir)
    words = sorted(set(_words_of_split(args.manifest_dir, args.split)))
    for word in words:
        unknown = tokenizer.unknown_characters(word)
        require(
            not unknown,
            f"the word {word!r} has {', '.join(map(shown, unknown))}, which no unit of {args.lang_dir} holds",
        )
    Lexicon(tokenizer.pieces, dict(zip(words, tokenizer.encode(words)))).save(args.lang_dir)
    print(f"{args.lang_dir}: {len(words)} words")
    known = set(words)
    for split in args.held_out_splits:
        spoken = _words_of_split(args.manifest_dir, split)
        unknown = [word for word in spoken if word not in known]
        lost = f"{len(unknown)} of {len(spoken)} words are not among them, so no search over words finds these"
        print(f"{split}: {lost if unknown else f'all {len(spoken)} words are among them'}")


def _words_of_split(manifest_dir: Path, split: str) -> list[str]:
    cuts = iterate_cut_file(cuts_path(manifest_dir, split), recipe_dir=Path())
    return [word for cut in cuts for s in cut.supervisions for word in words_of(s.text or "")]


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--manifest-dir", type=Path, default=Path("data/manifests"), help="Folder of the cuts.")
    result.add_argument("--split", default="train", help="Split that gives the words; never a held-out one.")
    result.add_argument("--held-out-splits", nargs="*", default=[], help="Splits whose other words are counted.")
    result.add_argument("--lang-dir", type=Path, required=True, help="Folder of the tokenizer.")
    return result


if __name__ == "__main__":
    run_main(main)
