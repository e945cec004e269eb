#!/usr/bin/env python3
"""Error rates of what ESPnet decoded, with 95 % intervals."""

from __future__ import annotations

import argparse
from pathlib import Path

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.decoding.scoring import Decoded, character_error_rate, word_error_rate


def main() -> None:
    args = parser().parse_args()
    refs, hyps = read_texts(args.ref), read_texts(args.hyp)
    missing = refs.keys() ^ hyps.keys()
    require(not missing, f"only one of {args.ref} and {args.hyp} has {', '.join(sorted(missing)[:5])}: decode again")
    results = [Decoded(name, refs[name], hyps[name]) for name in sorted(refs)]
    wer, cer = word_error_rate(results), character_error_rate(results)
    print(f"{args.hyp}: WER {wer}, {wer.counts} of {wer.ref_len} words; CER {cer}")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--ref", type=Path, required=True, help="Kaldi's file of texts.")
    result.add_argument("--hyp", type=Path, required=True, help="ESPnet's, in its folder 1best_recog.")
    return result


def read_texts(path: Path) -> dict[str, str]:
    """The texts of a Kaldi file by the utterances' names; an utterance may have none.

    Raises:
      FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: run ./run.sh first")
    lines = [line.partition(" ") for line in path.read_text(encoding="utf-8").splitlines()]
    return {name: text.strip() for name, _, text in lines}


if __name__ == "__main__":
    run_main(main)
