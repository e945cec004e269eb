#!/usr/bin/env python3
"""Recordings, supervisions and cuts of the Russian sentences that make up Debian's voice festvox-ru.

Source: the Debian package festvox-ru (Nikolay Shmyrev; one male speaker, 16 kHz).
"""

from __future__ import annotations

import re
from pathlib import Path

from clips import Clip, parser, write_splits

from shared_moe_conformer.cli import run_main

VOICES = Path("usr/share/festival/voices/russian")
TEXTS = "etc/txt.done.data"
LINE = re.compile(r'^\(\s*(\S+)\s+"(.*)"\s*\)\s*$')
STRESS = "+"
"""Stands before the vowel that is stressed."""


def main() -> None:
    args = parser(__doc__).parse_args()
    write_splits(find_clips(args.corpus_dir), args)


def find_clips(corpus_dir: Path) -> list[Clip]:
    """Every sentence that has a recording.

    Raises:
      FileNotFoundError: the package's files are not there.
      ValueError: a line of the texts that is none.
    """
    found = sorted((corpus_dir / VOICES).glob(f"*/{TEXTS}"))
    if not found:
        raise FileNotFoundError(
            f"no {corpus_dir / VOICES}/*/{TEXTS}: --corpus-dir must hold the usr/ folder of the package festvox-ru"
        )
    voice = found[0].parent.parent
    clips = []
    for number, line in enumerate(found[0].read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            match = LINE.match(line)
            if match is None:
                raise ValueError(f'{found[0]} line {number} is not ( name "text" ): unpack the package again')
            name, text = match.groups()
            clips.append(Clip(name, voice / f"wav/{name}.wav", text.replace(STRESS, ""), "ru", voice.name))
    return [clip for clip in clips if clip.path.is_file()]


if __name__ == "__main__":
    run_main(main)
