#!/usr/bin/env python3
"""Download a corpus in one tar archive and unpack it; what exists is not downloaded again."""

from __future__ import annotations

import argparse
import shutil
import tarfile
import tempfile
from pathlib import Path

from lhotse.utils import resumable_download, safe_extract

from shared_moe_conformer.atomic import is_full, named
from shared_moe_conformer.cli import ShowDefaults, run_main


def main() -> None:
    args = parser().parse_args()
    archive = args.target_dir / args.url.rsplit("/", 1)[-1]
    unpacked = args.target_dir / f".{archive.name}.unpacked"
    if unpacked.is_file():
        print(f"{archive.name} is unpacked in {args.target_dir}")
        return
    args.target_dir.mkdir(parents=True, exist_ok=True)
    try:
        with named(archive):
            resumable_download(args.url, filename=archive)
        with named(args.target_dir):
            unpack(archive, args.target_dir)
    except (OSError, EOFError, tarfile.TarError) as error:
        if is_full(error):
            raise
        raise ValueError(
            f"{args.url} cannot be downloaded or unpacked ({error}): run this again to continue, or get it elsewhere "
            f"and give --corpus-dir; remove {archive} if it stays damaged"
        ) from error
    unpacked.touch()
    print(f"{archive.name} is unpacked in {args.target_dir}")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive, then move its contents into a folder, in place of files of the same names."""
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder) as temporary, tarfile.open(archive) as tar:
        safe_extract(tar, path=temporary)
        for new in Path(temporary).iterdir():
            old = folder / new.name
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            new.replace(old)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("url", help="Address of a .tar or .tar.gz file.")
    result.add_argument("--target-dir", type=Path, default=Path("download"), help="Folder to unpack into.")
    return result


if __name__ == "__main__":
    run_main(main)
