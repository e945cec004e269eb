#!/usr/bin/env python3
"""Recordings, supervisions and cuts of the dialogues of The Ur-Quan Masters, by subtitle and as whole dialogues.

Splits: dev and test hold out dialogues of voices that training knows; dev-new-voices and test-new-voices all of
some characters. test-dialogues has the dialogues of both tests as wholes; the alignment `subtitle` of their
supervisions says when the game shows which words.

Source: the Debian packages uqm-voice and uqm-content (Toys for Bob, CC-BY-NC-SA-2.5).
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

from audio import in_pauses, read_ogg
from dialogues import Dialogue, open_archives, read_dialogues
from lhotse import Recording, SupervisionSegment
from lhotse.supervision import AlignmentItem
from splits import Segment, split_dialogues, split_segments
from texts import normalise, reason_to_drop
from tqdm import tqdm

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.data.manifests import write_split
from shared_moe_conformer.speech.audio import write_flac

WHOLE = "test-dialogues"
MIN_DURATION, MAX_DURATION = 0.4, 26.0
"""Seconds of a segment; at 0.9 and 1.1 times its speed it must still be from 0.3 to 30 s long."""
MAX_CHARACTERS_PER_SECOND = 27.0
"""Nobody says more under a subtitle with the right time; copies of 1.1 times the speed have 30."""


def main() -> None:
    args = parser().parse_args()
    archives = open_archives(args.corpus_dir)
    dialogues, unfit = read_dialogues(archives)
    recordings, starts = {}, {}
    for dialogue in tqdm(dialogues, desc="recordings", unit="file"):
        samples = read_ogg(archives.voice.read(dialogue.member), dialogue.member, args.sampling_rate)
        path = args.audio_dir / dialogue.character / f"{dialogue.id}.flac"
        write_flac(path, [samples], sampling_rate=args.sampling_rate)
        recordings[dialogue.id] = Recording.from_file(path, recording_id=dialogue.id)
        starts[dialogue.id] = [0.0, *in_pauses(list(accumulate(dialogue.lengths)), samples, args.sampling_rate)]
    segments, dropped = usable_segments(dialogues, recordings, starts)
    print(f"{len(dialogues)} dialogues, {len(segments)} usable segments; left out:")
    print(f"  {len(unfit)} dialogues, more or fewer times than subtitles: {', '.join(unfit)}")
    for reason, count in dropped.most_common():
        print(f"  {count} segments, {reason}")
    split_of = split_dialogues(dialogues, {name: recording.duration for name, recording in recordings.items()})
    for split, its in split_segments(segments, split_of).items():
        write(split, [supervise(s.id, s.dialogue, s.text, s.start, s.duration) for s in its], recordings, args)
    tested = [d for d in dialogues if split_of[d.id].startswith("test")]
    write(WHOLE, whole_dialogues(tested, segments, recordings), recordings, args)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--corpus-dir", type=Path, required=True, help="Holds the packages' usr/ folder.")
    result.add_argument("--audio-dir", type=Path, required=True, help="Folder to write FLAC files to.")
    result.add_argument("--sampling-rate", type=int, required=True, help="Of the FLAC files, in Hz.")
    result.add_argument("--output-dir", type=Path, required=True, help="Folder to write.")
    return result


def usable_segments(
    dialogues: Iterable[Dialogue], recordings: dict[str, Recording], starts: dict[str, list[float]]
) -> tuple[list[Segment], Counter[str]]:
    """The segments that can be trained on and scored, and the reasons against others, counted."""
    segments, dropped = [], Counter[str]()
    for dialogue in dialogues:
        ends = [*starts[dialogue.id][1:], recordings[dialogue.id].duration]
        for number, (subtitle, start, end) in enumerate(zip(dialogue.subtitles, starts[dialogue.id], ends)):
            text, duration = normalise(subtitle), end - start
            reason = reason_to_drop(subtitle) or doubt_of_time(text, duration)
            if reason:
                dropped[reason] += 1
            else:
                segments.append(Segment(f"{dialogue.id}-{number:02}", dialogue, start, duration, text))
    return segments, dropped


def doubt_of_time(text: str, duration: float) -> str | None:
    """Why a segment's time cannot be right, or cannot be used."""
    if not MIN_DURATION <= duration <= MAX_DURATION:
        return f"shorter than {MIN_DURATION:g} or longer than {MAX_DURATION:g} s"
    return "more text than can be said in its time" if len(text) > MAX_CHARACTERS_PER_SECOND * duration else None


def whole_dialogues(
    dialogues: Iterable[Dialogue], segments: Sequence[Segment], recordings: dict[str, Recording]
) -> list[SupervisionSegment]:
    """Dialogues of two subtitles or more, all of them usable; their alignment has the game's own times."""
    usable = defaultdict(list)
    for segment in segments:
        usable[segment.dialogue.id].append(segment)
    result = []
    for dialogue in dialogues:
        texts = [segment.text for segment in usable[dialogue.id]]
        if len(texts) == len(dialogue.subtitles) >= 2:
            duration = recordings[dialogue.id].duration
            whole = supervise(f"{dialogue.id}-whole", dialogue, " ".join(texts), 0.0, duration)
            result.append(whole.with_alignment("subtitle", alignment_of(dialogue, texts, duration)))
    return result


def alignment_of(dialogue: Dialogue, texts: Sequence[str], duration: float) -> list[AlignmentItem]:
    """When the game shows each subtitle."""
    times = [0.0, *accumulate(dialogue.lengths), duration]
    return [AlignmentItem(text, start, round(end - start, 3)) for text, start, end in zip(texts, times, times[1:])]


def supervise(name: str, dialogue: Dialogue, text: str, start: float, duration: float) -> SupervisionSegment:
    return SupervisionSegment(
        id=name,
        recording_id=dialogue.id,
        start=round(start, 3),
        duration=round(duration, 3),
        text=text,
        language="English",
        speaker=dialogue.character,
    )


def write(
    split: str, supervisions: list[SupervisionSegment], recordings: dict[str, Recording], args: argparse.Namespace
) -> None:
    its_recordings = [recordings[name] for name in dict.fromkeys(s.recording_id for s in supervisions)]
    write_split(its_recordings, supervisions, split, args.output_dir)


if __name__ == "__main__":
    run_main(main)
