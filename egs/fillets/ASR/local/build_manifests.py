#!/usr/bin/env python3
"""Recordings, supervisions and cuts of the game's dialogues in one language, in splits that share no level and no text.

Each clip becomes a 16 kHz FLAC file of one channel, the mean of the clip's channels, without its last silence.

Source of speech and texts: the Debian packages fillets-ng-data, fillets-ng-data-cs and fillets-ng-data-nl (GPL-2).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path

from audio import SAMPLING_RATE, duration_of, mono_at_16_khz
from dialogues import Clip, find_clips
from lhotse import Recording
from splits import SPLITS, splits_of
from texts import LANGUAGES, normalise, reason_to_drop
from tqdm import tqdm

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.data.manifests import supervise, write_split
from shared_moe_conformer.speech.audio import write_flac

SAYS_LESS = {"nl-gems-zav-v-restart"}
"""Clips in which less is said than their text tells: 64 characters in 1.8 s."""


def main() -> None:
    args = parser().parse_args()
    clips = find_clips(args.corpus_dir, args.language)
    texts = {clip.id: normalise(clip.text, args.language) for clip in clips}
    usable, dropped = usable_clips(clips, texts, min_duration=args.min_duration, max_duration=args.max_duration)
    print(f"{len(clips)} clips with a text, {len(usable)} usable; dropped:")
    for name, reason in dropped.items():
        print(f"  {name}: {reason}")
    splits = splits_of([clip for clip, _ in usable], {clip.id: seconds for clip, seconds in usable}, texts)
    for split in SPLITS:
        recordings = [record(clip, args.audio_dir) for clip in tqdm(splits[split], desc=split, unit="clip")]
        said = [
            supervise(recording, texts[clip.id], language=LANGUAGES[args.language], speaker=clip.speaker)
            for recording, clip in zip(recordings, splits[split], strict=True)
        ]
        write_split(recordings, said, split, args.output_dir)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--language", choices=LANGUAGES, required=True, help="Language of the speech.")
    result.add_argument("--corpus-dir", type=Path, default=Path("download"), help="Holds the packages' usr/ folder.")
    result.add_argument("--audio-dir", type=Path, required=True, help="Folder of the FLAC files, relative.")
    result.add_argument("--output-dir", type=Path, required=True, help="Folder of the manifests.")
    result.add_argument("--min-duration", type=float, default=0.3, help="Shortest clip that is kept, in seconds.")
    result.add_argument("--max-duration", type=float, default=26.0, help="Longest clip that is kept, in seconds.")
    return result


def usable_clips(
    clips: Iterable[Clip], texts: Mapping[str, str], *, min_duration: float, max_duration: float
) -> tuple[list[tuple[Clip, float]], dict[str, str]]:
    """The clips to keep, with their seconds, and the reason for each other clip."""
    kept, dropped = [], {}
    for clip in tqdm(clips, desc="clips", unit="file"):
        seconds = duration_of(clip.path)
        reason = reason_to_drop(clip.text, texts[clip.id])
        if clip.id in SAYS_LESS:
            reason = "says less than its text"
        if reason is None and not min_duration <= seconds <= max_duration:
            reason = f"{seconds:.1f} s long"
        if reason is None:
            kept.append((clip, seconds))
        else:
            dropped[clip.id] = reason
    return kept, dropped


def record(clip: Clip, audio_dir: Path) -> Recording:
    """The recording of a clip as FLAC, which is written."""
    path = audio_dir / f"{clip.id}.flac"
    write_flac(path, [mono_at_16_khz(clip.path)], sampling_rate=SAMPLING_RATE)
    return Recording.from_file(path, recording_id=clip.id)


if __name__ == "__main__":
    run_main(main)
