#!/usr/bin/env python3
"""Cut MUSAN's noises, music and speech into short pieces to mix into training: -> cuts_musan.jsonl.gz, without texts.

Source of the pieces' length: icefall (local/compute_fbank_musan.py).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lhotse import CutSet
from lhotse.recipes import prepare_musan

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.data.manifests import cuts_path, write_manifest

PARTS = ("music", "speech", "noise")
SPLIT = "musan"


def main() -> None:
    args = parser().parse_args()
    missing = [part for part in args.parts if not (args.corpus_dir / part).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"no {args.corpus_dir / missing[0]}: give MUSAN's folder, in which {', '.join(args.parts)} are"
        )
    pieces = cut_up(args.corpus_dir, args.parts, args.piece_duration, args.min_duration)
    if not pieces:
        raise FileNotFoundError(f"no wav files of {args.min_duration:g} s in {args.corpus_dir}: unpack MUSAN again")
    write_manifest(pieces, cuts_path(args.output_dir, SPLIT))
    print(f"{SPLIT}: {len(pieces)} pieces, {sum(piece.duration for piece in pieces) / 3600:.1f} hours")


def cut_up(corpus_dir: Path, parts: list[str], piece_duration: float, min_duration: float) -> CutSet:
    """Pieces of the parts' recordings, in seconds, without supervisions."""
    manifests = prepare_musan(corpus_dir, parts=parts)
    recordings = [recording for part in parts for recording in manifests[part]["recordings"]]
    pieces = CutSet.from_cuts(recording.to_cut() for recording in sorted(recordings, key=lambda r: r.id))
    return CutSet.from_cuts(p for p in pieces.cut_into_windows(piece_duration) if p.duration >= min_duration)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--corpus-dir", type=Path, required=True, help="MUSAN's folder.")
    result.add_argument("--output-dir", type=Path, default=Path("data/manifests"), help="Folder to write to.")
    result.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="Parts to take.")
    result.add_argument("--piece-duration", type=float, default=10.0, help="Longest piece, in seconds.")
    result.add_argument("--min-duration", type=float, default=5.0, help="Shortest piece, in seconds.")
    return result


if __name__ == "__main__":
    run_main(main)
