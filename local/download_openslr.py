#!/usr/bin/env python3
"""Download a corpus of OpenSLR and unpack it; what exists is not downloaded again.

Lhotse downloads (lhotse.recipes.download_*).
"""

from __future__ import annotations

import argparse
import tarfile
from pathlib import Path

from lhotse import recipes

from shared_moe_conformer.atomic import is_full, named
from shared_moe_conformer.cli import ShowDefaults, run_main

CORPORA = {
    "librispeech": lambda to, mirror, parts: recipes.download_librispeech(to, dataset_parts=parts, base_url=mirror),
    "aishell": lambda to, mirror, parts: recipes.download_aishell(to, base_url=mirror),
    "yesno": lambda to, mirror, parts: recipes.download_yesno(to, url=f"{mirror}/1/waves_yesno.tar.gz"),
    "musan": lambda to, mirror, parts: recipes.download_musan(to, url=f"{mirror}/17/musan.tar.gz"),
}


def main() -> None:
    args = parser().parse_args()
    try:
        with named(args.target_dir):
            folder = CORPORA[args.corpus](args.target_dir, args.mirror, args.parts)
    except (OSError, EOFError, tarfile.TarError) as error:
        if is_full(error):
            raise
        raise ValueError(
            f"{args.corpus} cannot be downloaded from {args.mirror} ({error}): run this again to continue, give "
            f"another --mirror, or get it elsewhere and give --corpus-dir; remove an archive in {args.target_dir} that "
            "stays damaged"
        ) from error
    print(f"{args.corpus} is in {folder}")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("corpus", choices=CORPORA, help="What to download.")
    result.add_argument("parts", nargs="*", help="Parts of librispeech.")
    result.add_argument("--mirror", default="http://www.openslr.org/resources", help="Address of OpenSLR's files.")
    result.add_argument("--target-dir", type=Path, default=Path("download"), help="Folder to unpack into.")
    return result


if __name__ == "__main__":
    run_main(main)
