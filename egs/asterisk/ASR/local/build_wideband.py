#!/usr/bin/env python3
"""The test set again in 16 kHz, as a microphone would record it: the split test-wideband.

Source: the Debian package asterisk-core-sounds-en-g722, which has the same prompts in G.722.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from build_manifests import find_clips
from lhotse import Recording
from tqdm import tqdm

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.data.manifests import read_cuts, supervise, write_split
from shared_moe_conformer.speech.audio import read_audio, write_flac

SPLIT = "test-wideband"


def main() -> None:
    args = parser().parse_args()
    clips = find_clips(args.corpus_dir)
    paths = {c.name: args.wideband_dir / c.path.relative_to(args.corpus_dir).with_suffix(".g722") for c in clips}
    cuts = read_cuts(args.output_dir, "test", recipe_dir=Path())
    recordings, supervisions = [], []
    for cut in tqdm(list(cuts), desc="recordings", unit="file"):
        if not paths[cut.id].is_file():
            raise FileNotFoundError(
                f"no {paths[cut.id]}: run ../../../local/download_debian.sh {args.wideband_dir} "
                "asterisk-core-sounds-en-g722 first"
            )
        samples, sampling_rate = read_audio(paths[cut.id])
        path = args.audio_dir / f"{cut.id}.flac"
        write_flac(path, [samples], sampling_rate=sampling_rate)
        recordings.append(Recording.from_file(path, recording_id=cut.id))
        says = cut.supervisions[0]
        supervisions.append(supervise(recordings[-1], says.text, speaker=says.speaker, language=says.language))
    write_split(recordings, supervisions, SPLIT, args.output_dir)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--corpus-dir", type=Path, default=Path("download"), help="Holds the packages' usr/ folder.")
    result.add_argument(
        "--wideband-dir", type=Path, default=Path("download/wideband"), help="Holds the usr/ folder of G.722's package."
    )
    result.add_argument("--audio-dir", type=Path, default=Path("data/wideband"), help="Folder of the decoded audio.")
    result.add_argument("--output-dir", type=Path, default=Path("data/manifests"), help="Folder of the manifests.")
    return result


if __name__ == "__main__":
    run_main(main)
