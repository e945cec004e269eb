#!/usr/bin/env python3
"""Train an n-gram on one split's texts, by modified Kneser-Ney: cuts_train.jsonl.gz -> data/lang_bpe_<V>/.

An n-gram over words is G.arpa, for graphs, or has another --name, for rescoring. One over tokens is
token_<order>gram.arpa, for the transducer's beam search.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.data.manifests import read_cuts
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.decoding.options import token_ngram_path
from shared_moe_conformer.lattice.decoding_graph import NGRAM_FILE
from shared_moe_conformer.lattice.ngram import NgramModel, train_ngram
from shared_moe_conformer.text import words_of


def main() -> None:
    args = parser().parse_args()
    cuts = read_cuts(args.manifest_dir, args.split, recipe_dir=Path())
    texts = [supervision.text or "" for cut in cuts for supervision in cut.supervisions]
    if args.unit == "word":
        path, model = args.lang_dir / args.name, train_ngram(map(words_of, texts), args.order)
    else:
        path, model = token_ngram_path(args.lang_dir, args.order), _over_tokens(texts, args)
    args.lang_dir.mkdir(parents=True, exist_ok=True)
    model.save(path)
    print(f"{path}: {len(model.log_probs)} n-grams of {len(model.words)} {args.unit}s")


def _over_tokens(texts: list[str], args: argparse.Namespace) -> NgramModel:
    """An n-gram that knows every unit but blank."""
    tokenizer = Tokenizer.load(args.lang_dir)
    sentences = [[tokenizer.pieces[token] for token in spelling] for spelling in tokenizer.encode(texts)]
    return train_ngram(sentences, args.order, vocabulary=tokenizer.pieces[1:])


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--manifest-dir", type=Path, default=Path("data/manifests"), help="Folder of the cuts.")
    result.add_argument("--split", default="train", help="Split that gives the texts; never a held-out one.")
    result.add_argument("--lang-dir", type=Path, required=True, help="Folder to write to; it holds the tokenizer.")
    result.add_argument("--order", type=int, default=3, help="Length of the longest n-grams, in units.")
    result.add_argument("--unit", choices=("word", "token"), default="word",
                        help="Unit of the n-grams; tokens are those of the lang folder's tokenizer.")  # fmt: skip
    result.add_argument("--name", default=NGRAM_FILE,
                        help="File of an n-gram over words; G_4_gram.arpa is the one for rescoring.")  # fmt: skip
    return result


if __name__ == "__main__":
    run_main(main)
