"""Recipes of corpora that cannot be downloaded everywhere, from the corpus to a released model's text, in miniature.

The corpora are made of other speech (`corpora.py`): AISHELL's texts here are Chinese characters that nobody says in it,
and those of yesno are not said either. So the chains tell whether the programs go through, and nothing about accuracy.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from lhotse import CutSet

from shared_moe_conformer.data.tokenizer import Tokenizer
from tests.recipes import corpora
from tests.recipes.conftest import ROOT, Run

pytestmark = pytest.mark.slow

QUICK = ("--perturb-speed", "false", "--ngram-order", "2")


def cuts_of(recipe: Path, name: str) -> dict[str, CutSet]:
    return {path.name[5:-9]: CutSet.from_file(path) for path in (recipe / name).glob("cuts_*.jsonl.gz")}


def sizes(cuts: dict[str, CutSet]) -> dict[str, int]:
    return {split: len(list(its)) for split, its in cuts.items()}


def summaries(recipe: Path) -> list[str]:
    return sorted(re.sub("-epoch.*", "", path.name) for path in (recipe / "exp").rglob("wer-summary-*.txt"))


@pytest.mark.parametrize("recipe", ["librispeech"], indirect=True)
def test_librispeech(recipe: Path, clips: list, run: Run, use: Callable[..., str], tmp_path: Path) -> None:
    """100 hours, with MUSAN's noises in training and copies at other speeds."""
    rest = iter(clips)
    corpus, noises = corpora.librispeech(tmp_path, rest), corpora.musan(tmp_path, rest)
    options = ("--hours", 100, "--vocab-size", 40, "--corpus-dir", corpus, "--musan", noises)
    run(recipe / "prepare.sh", *options)
    cuts = cuts_of(recipe, "data/100/fbank")
    pieces = list(cuts.pop("musan"))
    assert sizes(cuts) == {"train": 36, "dev-clean": 3, "dev-other": 3, "test-clean": 3, "test-other": 3}
    assert len(pieces) >= 3 and not any(piece.supervisions for piece in pieces)
    texts = {cut.id: cut.supervisions[0].text for cut in cuts["test-clean"]}
    lines = (corpus / "test-clean/87/121126/87-121126.trans.txt").read_text().splitlines()
    assert [f"{name} {text}" for name, text in sorted(texts.items())] == lines, "as they come, in upper case"
    assert "done before" in run(recipe / "prepare.sh", *options).stdout

    noise = ("--noise-manifest=data/100/fbank/cuts_musan.jsonl.gz", "--noise-probability=1.0")
    use(recipe, "--config=base-100", "--exp-dir", str(recipe / "exp/base"), "--vocab-size=40",
        "--lang-dir=data/100/lang_bpe_40", "--max-duration=60", *noise)  # fmt: skip
    assert summaries(recipe) == sorted(2 * [f"wer-summary-{split}" for split in list(cuts) if "-" in split])


@pytest.mark.parametrize("recipe", ["librispeech"], indirect=True)
def test_librispeech_names_what_is_missing(recipe: Path, clips: list, run: Run, tmp_path: Path) -> None:
    corpus = corpora.librispeech(tmp_path, iter(clips))
    stage_1 = ("--stop-stage", 1, "--corpus-dir", corpus)
    assert "hold train-clean-360" in run(recipe / "prepare.sh", *stage_1, status=1).stderr
    assert "give 100 or 960" in run(recipe / "prepare.sh", "--hours", 500, status=1).stderr
    next((corpus / "dev-other").rglob("*.flac")).unlink()
    error = run(recipe / "prepare.sh", "--hours", 100, *stage_1, status=1).stderr.splitlines()[-1]
    assert error.startswith("error: 1 of 3 recordings of dev-other are missing")


@pytest.mark.parametrize("recipe", ["aishell"], indirect=True)
def test_aishell(recipe: Path, clips: list, run: Run, use: Callable[..., str], tmp_path: Path) -> None:
    corpus = corpora.aishell(tmp_path, iter(clips))
    run(recipe / "prepare.sh", *QUICK, "--corpus-dir", corpus)
    assert sizes(cuts_of(recipe, "data/fbank")) == {"train": 10, "dev": 5, "test": 5}
    for its in cuts_of(recipe, "data/manifests").values():
        assert (ids := [cut.id for cut in its]) == sorted(ids), "the same wherever it is prepared"
    assert not (corpus / "data_aishell/wav/train").exists(), "the corpus is left as it is"
    tokenizer = Tokenizer.load(recipe / "data/lang_char")
    texts = [cut.supervisions[0].text for cuts in cuts_of(recipe, "data/manifests").values() for cut in cuts]
    assert sorted(tokenizer.pieces[3:]) == sorted(set("".join(texts)))
    said = use(recipe, f"--vocab-size={tokenizer.vocab_size}", "--max-duration=30")
    assert " " not in said and not said.isascii()
    (summary,) = (recipe / "exp/base/greedy_search").glob("wer-summary-*.txt")
    header, row = (line.split("\t") for line in summary.read_text().splitlines())
    scores = dict(zip(header, row))
    assert scores["WER"] == scores["CER"] and scores["words"] == "40", "8 characters in each of 5 texts"


@pytest.mark.parametrize("recipe", ["aishell"], indirect=True)
def test_aishell_that_is_not_all_unpacked_is_refused(recipe: Path, clips: list, run: Run, tmp_path: Path) -> None:
    corpus = corpora.aishell(tmp_path, iter(clips))
    wav = corpus / "data_aishell/wav"
    for split in ("train", "dev", "test"):
        shutil.copytree(tmp_path / "unpacked" / split, wav / split)
    next((wav / "test").rglob("*.wav")).unlink()
    error = run(recipe / "prepare.sh", "--stop-stage", 1, "--corpus-dir", corpus, status=1).stderr.splitlines()[-1]
    assert error == f"error: 1 of 20 recordings are missing in {wav}: unpack all speakers' archives there again"


@pytest.mark.parametrize("recipe", ["yesno"], indirect=True)
def test_yesno(recipe: Path, clips: list, run: Run, use: Callable[..., str], tmp_path: Path) -> None:
    corpus = corpora.yesno(tmp_path, iter(clips))
    run(recipe / "prepare.sh", *QUICK, "--corpus-dir", corpus)
    cuts = {split: {cut.id for cut in its} for split, its in cuts_of(recipe, "data/fbank").items()}
    assert {split: len(its) for split, its in cuts.items()} == {"train": 25, "dev": 5, "test": 30}
    names = sorted(path.stem for path in corpus.glob("*.wav"))
    assert cuts["test"] == set(names[1::2]) and cuts["dev"] == set(names[4::12])
    use(recipe, "--max-duration=60")
    assert summaries(recipe) == 2 * ["wer-summary-test"]

    shutil.copytree(corpus, tmp_path / "less")
    (tmp_path / "less" / f"{names[0]}.wav").unlink()
    assert "59 wav files" in run(recipe / "prepare.sh", "--corpus-dir", tmp_path / "less", status=1).stderr


def test_a_corpus_of_ones_own(clips: list, run: Run, use: Callable[..., str], tmp_path: Path) -> None:
    """A TSV file of clips in several formats, one of two channels, with a line that is left out."""
    shutil.copytree(ROOT / "local", tmp_path / "clone/local")
    shutil.copytree(ROOT / "egs/asterisk/ASR", tmp_path / "clone/egs/asterisk/ASR", ignore=corpora.MADE)
    rows = corpora.own(tmp_path / "my clips", iter(clips[:24]))
    (tmp_path / "my clips/clips.tsv").write_text("path\ttext\n" + "".join(f"{path}\t{text}\n" for path, text in rows))
    made = run(tmp_path / "clone/local/new_recipe.py", "mine", "--tsv", tmp_path / "my clips/clips.tsv",
               "--normalise", "lower", "--language", "en", "--licence", "CC-BY-SA-3.0")  # fmt: skip
    assert "24 utterances; 1 left out" in made.stdout
    recipe = tmp_path / "clone/egs/mine/ASR"
    assert (recipe / "data/manifests/cuts_train.jsonl.gz").is_file()
    (size,) = re.findall(r"vocab_size=(\d+)", (recipe / "config.py").read_text())
    run(recipe / "prepare.sh", *QUICK)
    cuts = [cut for cuts in cuts_of(recipe, "data/fbank").values() for cut in cuts]
    assert sorted(cut.supervisions[0].text for cut in cuts) == sorted(clip.text.lower() for clip in clips[:24])
    assert Tokenizer.load(recipe / f"data/lang_bpe_{size}").vocab_size == int(size)
    use(recipe)
    assert summaries(recipe) == 2 * ["wer-summary-test"]


def test_a_kaldi_folder(clips: list, run: Run, tmp_path: Path) -> None:
    """Segments of a recording that is all clips one after the other, in splits that the folders say."""
    folders = corpora.kaldi(tmp_path / "data", clips[:12])
    recipe = tmp_path / "recipe"
    run(ROOT / "local/new_recipe.py", "talk", "--recipe-dir", recipe, "--normalise", "none", "--kaldi",
        *(f"{split}={folder}" for split, folder in folders.items()))  # fmt: skip
    run(recipe / "prepare.sh", *QUICK, "--stop-stage", 5)
    cuts = cuts_of(recipe, "data/fbank")
    assert sizes(cuts) == {"train": 6, "dev": 3, "test": 3}
    assert [cut.supervisions[0].text for cut in cuts["dev"]] == [clip.text for clip in clips[6:9]]
    assert sum(cut.duration for cut in cuts["train"]) < 6 * 4
