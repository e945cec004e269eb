#!/usr/bin/env python3
"""One corpus of several: data/all/corpora/<name>/cuts_*.jsonl.gz -> data/all/manifests/cuts_{train,dev,test}.jsonl.gz.

Ids begin with the corpus's name. Texts become lower case and are written alike in all corpora of a language. The
supervisions say the language as a code, and the corpus, without its language, as a custom field. A text that is in
several splits, in whatever language, stays in one: in test rather than in dev, in dev rather than in train.
"""

from __future__ import annotations

import argparse
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from lhotse import CutSet, MonoCut
from lhotse.utils import fastcopy

from shared_moe_conformer.cli import ShowDefaults, run_main
from shared_moe_conformer.config import require
from shared_moe_conformer.data.manifests import cuts_path, read_cuts, write_manifest
from shared_moe_conformer.text import words_of

SPLITS = ("train", "dev", "test")
LANGUAGES = {
    "Czech": "cs",
    "Dutch": "nl",
    "English": "en",
    "French": "fr",
    "Italian": "it",
    "Russian": "ru",
    "Spanish": "es",
}
"""Codes of the languages that some recipes name in English."""
COMBINING_TILDE, COMBINING_ACUTE, COMBINING_DIAERESIS = "\u0303", "\u0301", "\u0308"


def main() -> None:
    args = parser().parse_args()
    folders = sorted(path for path in args.corpora_dir.iterdir() if path.is_dir())
    require(len(folders) > 0, f"no corpora in {args.corpora_dir}: run ./prepare.sh --stage 1 --force true")
    held_out: set[str] = set()
    for split in reversed(SPLITS):
        cuts = [cut for folder in folders for cut in corpus_cuts(folder, split)]
        kept = [cut for cut in cuts if cut.supervisions[0].text not in held_out]
        held_out |= {cut.supervisions[0].text for cut in kept}
        write_manifest(CutSet.from_cuts(kept), cuts_path(args.output_dir, split))
        print(f"{split}: {len(kept)} utterances; {len(cuts) - len(kept)} left out: their texts are in a later split")
        for name in sorted({group_name(cut) for cut in kept}):
            print(f"  {name}: {summary([cut for cut in kept if group_name(cut) == name])}")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=ShowDefaults)
    result.add_argument("--corpora-dir", type=Path, required=True, help="Holds a folder of manifests for each corpus.")
    result.add_argument("--output-dir", type=Path, required=True, help="Folder to write.")
    return result


def corpus_cuts(folder: Path, split: str) -> Iterator[MonoCut]:
    """The cuts of one corpus, as the joined corpus has them."""
    for cut in read_cuts(folder, split, recipe_dir=Path()):
        (says,) = cut.supervisions
        language = LANGUAGES.get(says.language, says.language)
        name, recording = f"{folder.name}-{cut.id}", f"{folder.name}-{cut.recording_id}"
        says = fastcopy(
            says,
            id=name,
            recording_id=recording,
            text=written_alike(says.text, language),
            language=language,
            speaker=f"{folder.name}-{says.speaker}",
            custom={"corpus": folder.name.split("-")[0]},
        )
        yield fastcopy(cut, id=name, recording=fastcopy(cut.recording, id=recording), supervisions=[says])


def written_alike(text: str, language: str) -> str:
    """Lower case; what only some corpora of a language write is gone: Spanish acutes and tildes, Russian yo."""
    text = text.lower()
    if language == "es":
        return _without(text, COMBINING_ACUTE + COMBINING_TILDE + COMBINING_DIAERESIS)
    return text.replace("\u0451", "\u0435") if language == "ru" else text


def _without(text: str, marks: str) -> str:
    kept = (character for character in unicodedata.normalize("NFD", text) if character not in marks)
    return unicodedata.normalize("NFC", "".join(kept))


def group_name(cut: MonoCut) -> str:
    (says,) = cut.supervisions
    return f"{says.custom['corpus']}, {says.language}"


def summary(cuts: Iterable[MonoCut]) -> str:
    cuts = list(cuts)
    words = sum(len(words_of(cut.supervisions[0].text)) for cut in cuts)
    return f"{len(cuts)} utterances, {words} words, {sum(cut.duration for cut in cuts) / 60:.1f} minutes"


if __name__ == "__main__":
    run_main(main)
