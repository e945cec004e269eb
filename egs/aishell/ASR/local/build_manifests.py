#!/usr/bin/env python3
"""Recordings, supervisions and cuts of AISHELL-1 in its own three splits.

The files are read by Lhotse's prepare_aishell, which takes the spaces between words away and writes Latin letters in
upper case. Recordings without a transcript are left out; the corpus has some.
"""

from __future__ import annotations

import argparse
import shutil
import tarfile
from pathlib import Path

from lhotse.recipes import prepare_aishell
from lhotse.utils import safe_extract
from tqdm import tqdm

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.data.manifests import write_split

SPLITS = ("train", "dev", "test")
TRANSCRIPTS = Path("data_aishell/transcript/aishell_transcript_v0.8.txt")
RECORDINGS = Path("data_aishell/wav")
MAX_MISSING_SHARE = 0.01


def main() -> None:
    args = parser().parse_args()
    corpus_dir = find_corpus(args.corpus_dir, args.unpacked_dir)
    prepared = prepare_aishell(corpus_dir)
    supervisions = {split: list(prepared[split]["supervisions"]) for split in SPLITS}
    refuse_incomplete(corpus_dir, sum(map(len, supervisions.values())))
    for split, its in supervisions.items():
        require(len(its) > 0, f"no recording in {corpus_dir / RECORDINGS / split} has a transcript in {TRANSCRIPTS}")
        in_order = sorted(its, key=lambda supervision: supervision.id)  # not as the file system lists them
        write_split(prepared[split]["recordings"], in_order, split, args.output_dir)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--corpus-dir", type=Path, required=True, help="Holds data_aishell/.")
    result.add_argument("--unpacked-dir", type=Path, required=True, help="Where speakers' archives are unpacked to.")
    result.add_argument("--output-dir", type=Path, required=True, help="Folder to write.")
    return result


def find_corpus(corpus_dir: Path, unpacked_dir: Path) -> Path:
    """The corpus with its recordings as files, which are unpacked if need be.

    Raises:
      FileNotFoundError: the folder holds neither recordings nor archives of them, or no transcripts.
    """
    if not (corpus_dir / TRANSCRIPTS).is_file():
        raise FileNotFoundError(f"no {corpus_dir / TRANSCRIPTS}: --corpus-dir must be the folder of data_aishell/")
    if all((corpus_dir / RECORDINGS / split).is_dir() for split in SPLITS):
        return corpus_dir
    archives = sorted((corpus_dir / RECORDINGS).glob("*.tar.gz"))
    if not archives:
        raise FileNotFoundError(
            f"no recordings and no archives of speakers in {corpus_dir / RECORDINGS}: unpack data_aishell.tgz again"
        )
    unpack(archives, unpacked_dir / RECORDINGS)
    if unpacked_dir.resolve() != corpus_dir.resolve():
        (unpacked_dir / TRANSCRIPTS.parent).mkdir(parents=True, exist_ok=True)
        shutil.copy(corpus_dir / TRANSCRIPTS, unpacked_dir / TRANSCRIPTS)
    return unpacked_dir


def refuse_incomplete(corpus_dir: Path, num_recordings: int) -> None:
    """Raise `ValueError` if a hundredth of the transcripts or more have no recording: not all is unpacked."""
    expected = len((corpus_dir / TRANSCRIPTS).read_text(encoding="utf-8").splitlines())
    require(
        expected - num_recordings < MAX_MISSING_SHARE * expected,
        f"{expected - num_recordings} of {expected} recordings are missing in {corpus_dir / RECORDINGS}: unpack all "
        "speakers' archives there again",
    )


def unpack(archives: list[Path], target: Path) -> None:
    """Unpack the speakers' archives; each holds <split>/<speaker>/*.wav."""
    target.mkdir(parents=True, exist_ok=True)
    for archive in tqdm(archives, desc="unpacking", unit="speaker"):
        try:
            with tarfile.open(archive) as tar:
                safe_extract(tar, path=target)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"{archive} cannot be unpacked ({error}): unpack data_aishell.tgz again") from error


if __name__ == "__main__":
    run_main(main)
