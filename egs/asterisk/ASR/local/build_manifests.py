#!/usr/bin/env python3
"""Recordings, supervisions and cuts of Asterisk's prompts in one language, in splits that share no text.

Source of the texts: the Debian packages asterisk-core-sounds-en, -es, -fr, -it and -ru (Digium and others,
CC-BY-SA-3.0 and CC-BY-3.0; one speaker in each language).
"""

from __future__ import annotations

import argparse
import gzip
import re
import unicodedata
import wave
from pathlib import Path
from typing import NamedTuple

from lhotse import Recording
from tqdm import tqdm

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.data.manifests import supervise, write_split
from shared_moe_conformer.data.utterances import split_of

SOUNDS_DIR = Path("usr/share/asterisk/sounds")
TEXT_FILE = "usr/share/doc/asterisk-core-sounds-{0}/core-sounds-{0}.txt.gz"
SPLITS = ("train", "dev", "test")
LANGUAGES = {"en": "English", "es": "Spanish", "fr": "French", "it": "Italian", "ru": "Russian"}
DIGITS = {
    "en": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    "es": ["cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"],
    "fr": ["zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"],
    "it": ["zero", "uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove"],
    "ru": ["ноль", "один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь", "девять"],
}
MAX_CHARACTERS_PER_SECOND = 25.0
"""More than anybody says: Italian tones have a text that describes them."""
QUOTES_AND_DASHES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u2013": "-", "\u2014": "-"})


class Clip(NamedTuple):
    """A recorded prompt, its text as the package gives it, and what is wrong with it (None: nothing)."""

    name: str
    path: Path
    text: str
    reason_to_drop: str | None


def main() -> None:
    args = parser().parse_args()
    clips = find_clips(args.corpus_dir, args.language)
    recordings, dropped = usable_recordings(clips, min_duration=args.min_duration, max_duration=args.max_duration)
    texts = {clip.name: normalise(clip.text, args.language) for clip in clips}
    speaker = speaker_of(args.corpus_dir, args.language)
    print(f"{len(clips)} clips, {len(recordings)} usable; dropped:")
    for name, reason in dropped.items():
        print(f"  {name}: {reason}")
    for split in SPLITS:
        chosen = [recording for recording in recordings if split_of(texts[recording.id]) == split]
        said = [supervise(r, texts[r.id], speaker=speaker, language=LANGUAGES[args.language]) for r in chosen]
        write_split(chosen, said, split, args.output_dir)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--language", choices=LANGUAGES, default="en", help="Language of the prompts.")
    result.add_argument("--corpus-dir", type=Path, default=Path("download"), help="Holds the packages' usr/ folder.")
    result.add_argument("--output-dir", type=Path, default=Path("data/manifests"), help="Folder to write.")
    result.add_argument("--min-duration", type=float, default=0.3, help="Shortest clip that is kept, in seconds.")
    result.add_argument("--max-duration", type=float, default=26.0, help="Longest clip that is kept, in seconds.")
    return result


def find_clips(corpus_dir: Path, language: str = "en") -> list[Clip]:
    """Every recorded prompt that has a text; ids and file names may differ in case.

    Raises:
      FileNotFoundError: the packages' files are not there.
    """
    folder = corpus_dir / SOUNDS_DIR / speaker_of(corpus_dir, language)
    texts = read_texts(corpus_dir / TEXT_FILE.format(language))
    clips = []
    for path in sorted(folder.rglob("*.wav")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        text = texts.get(name.lower())
        if text is not None:
            clips.append(Clip(name.replace("/", "-"), path, text, reason_to_drop(text)))
    return clips


def speaker_of(corpus_dir: Path, language: str) -> str:
    """The folder of a language's recordings, named after their speaker: en_US_f_Allison.

    Raises:
      FileNotFoundError: the packages' files are not there.
    """
    folders = sorted((corpus_dir / SOUNDS_DIR).glob(f"{language}_*"))
    texts = corpus_dir / TEXT_FILE.format(language)
    if not folders or not texts.exists():
        raise FileNotFoundError(
            f"no {texts if folders else corpus_dir / SOUNDS_DIR / language}: --corpus-dir must hold the usr/ folder of "
            f"the packages asterisk-core-sounds-{language}-wav and asterisk-core-sounds-{language}"
        )
    return folders[0].name


def read_texts(path: Path) -> dict[str, str]:
    """Text by lower-case id, from lines `id: text` (first one counts) and comments that begin with a semicolon."""
    texts: dict[str, str] = {}
    for line in gzip.decompress(path.read_bytes()).decode("utf-8-sig").splitlines():
        name, colon, text = line.partition(":")
        if colon and not line.startswith(";"):
            texts.setdefault(name.strip().lower(), text.strip())
    return texts


def reason_to_drop(text: str) -> str | None:
    """Why nobody can tell from this text what is said; None where one can."""
    rules = {
        "a tone or silence": r"^[\[<(].*[\])>]$",
        "an editor's note": r"\(.*\)",
        "a number that can be read in several ways": r"\d\d|\d[A-Za-z]",
        "a symbol that can be read in several ways": r"[#*]",
        "an address that can be read in several ways": r"\bwww\.",
        "a letter that the package has lost": r"\w\?(?=\w|\s+[^\W\d_A-Z])|\ufffd",  # pu? essere, in Italian
    }
    reason = next((reason for reason, pattern in rules.items() if re.search(pattern, text)), None)
    return reason or (None if normalise(text) else "no words")


def normalise(text: str, language: str = "en") -> str:
    """Upper-case words, as in LibriSpeech: single digits spelled, punctuation gone, apostrophes inside words kept."""
    text = unicodedata.normalize("NFC", text).translate(QUOTES_AND_DASHES).lower()
    text = re.sub(r"\[.\]", " ", text)  # "dot [.]" shows the character that "dot" names
    text = re.sub(r"[0-9]", lambda digit: f" {DIGITS[language][int(digit[0])]} ", text)
    text = re.sub(r"[^\w' ]|_", " ", text)
    words = (word.strip("'") for word in text.split())
    return " ".join(word for word in words if word).upper()


def usable_recordings(
    clips: list[Clip], *, min_duration: float, max_duration: float
) -> tuple[list[Recording], dict[str, str]]:
    """The recordings to keep, and the reason for each other clip."""
    recordings, dropped = [], {clip.name: clip.reason_to_drop for clip in clips if clip.reason_to_drop}
    for clip in tqdm([clip for clip in clips if not clip.reason_to_drop], desc="recordings", unit="file"):
        recording = read_recording(clip)
        if not min_duration <= recording.duration <= max_duration:
            dropped[clip.name] = f"{recording.duration:.1f} s long"
        elif len(clip.text) > MAX_CHARACTERS_PER_SECOND * recording.duration:
            dropped[clip.name] = f"{len(clip.text)} characters in {recording.duration:.1f} s"
        else:
            recordings.append(recording)
    return recordings, dropped


def read_recording(clip: Clip) -> Recording:
    """The recording of a clip; its file must be as long as its header says."""
    try:
        recording = Recording.from_file(clip.path, recording_id=clip.name)
        with wave.open(str(clip.path)) as file:
            num_samples = file.getnframes()
    except Exception as error:  # every audio backend has its own
        raise ValueError(f"{clip.path} is not a readable wav file: unpack the packages again") from error
    require(recording.num_channels == 1, f"{clip.path} has {recording.num_channels} channels: one is expected")
    require(recording.num_samples == num_samples, f"{clip.path} is cut off: unpack the packages again")
    return recording


if __name__ == "__main__":
    run_main(main)
