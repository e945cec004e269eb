"""speechocean762: its lists, and the whole chain on a corpus in miniature."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lhotse import CutSet

from tests.recipes.conftest import ROOT, Run
from tests.recipes.corpora import Clip, write_speech
from tests.recipes.loading import load

SPEAKERS = {"train": ("0001", "0005", "0007", "1001"), "test": ("0003", "1030")}


def write_corpus(folder: Path, clips: Iterator[Clip]) -> Path:
    """train/, test/ and WAVE/ as the archive has them, five utterances a speaker."""
    root = folder / "speechocean762"
    for split, speakers in SPEAKERS.items():
        lists: dict[str, list[str]] = {name: [] for name in ("text", "wav.scp", "utt2spk", "spk2gender", "spk2age")}
        for speaker in speakers:
            lists["spk2gender"].append(f"{speaker}\t{'m' if speaker < '0005' else 'f'}\n")
            lists["spk2age"].append(f"{speaker}\t{6 if speaker < '1000' else 27}\n")
            for number, clip in enumerate(itertools.islice(clips, 5)):
                name = f"{speaker}{10 * number:05}"
                path = f"WAVE/SPEAKER{speaker}/{name}.WAV"
                write_speech(clip, root / path)
                lists["text"].append(f"{name}\t{clip.text}\n")
                lists["wav.scp"].append(f"{name}\t{path}\n")
                lists["utt2spk"].append(f"{name} {speaker}\n")
        (root / split).mkdir()
        for name, lines in lists.items():
            (root / split / name).write_text("".join(lines))
    return root


def test_utterances_that_are_not_in_all_lists_are_named(tmp_path: Path) -> None:
    manifests = load(ROOT / "egs/speechocean762/ASR/local/build_manifests.py")
    with pytest.raises(FileNotFoundError, match="train/text: --corpus-dir must be the folder speechocean762"):
        manifests.read_split(tmp_path, "train")
    (tmp_path / "train").mkdir()
    for name, line in {"text": "1 A", "wav.scp": "1 a.WAV", "utt2spk": "1 x", "spk2gender": "x f"}.items():
        (tmp_path / "train" / name).write_text(f"{line}\n")
    (tmp_path / "train/spk2age").write_text("y 7\n")
    with pytest.raises(ValueError, match="no gender or age of speakers x in"):
        manifests.read_split(tmp_path, "train")
    (tmp_path / "train/spk2age").write_text("x 7\n")
    assert manifests.read_split(tmp_path, "train") == [
        manifests.Utterance("1", tmp_path / "a.WAV", "A", "x", "female", 7)
    ]
    (tmp_path / "train/text").write_text("2 A\n")
    with pytest.raises(ValueError, match="not in all lists of .*: 1, 2"):
        manifests.read_split(tmp_path, "train")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["speechocean762"], indirect=True)
def test_from_the_corpus_to_a_released_model(
    recipe: Path, clips: list[Clip], run: Run, use: Callable[..., str], tmp_path: Path
) -> None:
    """The chain on other speech; so it tells nothing about accuracy."""
    corpus = write_corpus(tmp_path / "corpus", iter(clips))
    options = ("--corpus-dir", corpus, "--vocab-size", 40, "--perturb-speed", "false", "--ngram-order", 2)
    run(recipe / "prepare.sh", *options)
    splits = ("train", "dev", "test")
    cuts = {split: list(CutSet.from_file(recipe / f"data/fbank/cuts_{split}.jsonl.gz")) for split in splits}
    assert {split: len(its) for split, its in cuts.items()} == {"train": 15, "dev": 5, "test": 10}
    assert [cut.supervisions[0].text for cut in cuts["test"]] == [clip.text for clip in clips[20:30]]
    said = {(its.speaker, its.gender, its.custom["age"]) for cut in cuts["test"] for its in cut.supervisions}
    assert said == {("0003", "male", 6), ("1030", "female", 27)}
    use(recipe, "--vocab-size=40", "--lang-dir=data/lang_bpe_40", "--max-duration=60")

    next((corpus / "WAVE").rglob("*.WAV")).unlink()
    errors = run(recipe / "prepare.sh", *options, "--force", "true", status=1).stderr
    assert "is missing or not a readable wav file: unpack the corpus again" in errors
