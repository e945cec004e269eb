"""The corpora that this recipe adds, how several become one, and the chain in miniature."""

from __future__ import annotations

import gzip
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from shared_moe_conformer.data.utterances import split_of
from tests.recipes.conftest import ROOT, TINY, Run
from tests.recipes.corpora import MADE, Clip, write_speech
from tests.recipes.loading import load
from tests.recipes.test_fillets import write_game as write_fillets
from tests.recipes.test_uqm import write_game as write_uqm

LOCAL = ROOT / "egs/debian/ASR/local"
MODULES = ("clips", "build_festvox_ru", "build_tuxpaint", "join_corpora")
VOICE = Path("usr/share/festival/voices/russian/msu_ru_nsh_clunits")
STAMPS = Path("usr/share/tuxpaint/stamps")


@pytest.fixture(scope="module")
def local() -> Iterable[dict[str, ModuleType]]:
    """The recipe's own modules, which import each other as programs in one folder do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(LOCAL)
        yield {name: load(LOCAL / f"{name}.py") for name in MODULES}
        sys.modules.pop("clips", None)


def test_sentences_of_festvox_are_read_without_marks_of_stress(local: dict[str, ModuleType], tmp_path: Path) -> None:
    find_clips = local["build_festvox_ru"].find_clips
    with pytest.raises(FileNotFoundError, match="usr/ folder of the package festvox-ru"):
        find_clips(tmp_path)
    (tmp_path / VOICE / "etc").mkdir(parents=True)
    (tmp_path / VOICE / "wav").mkdir()
    (tmp_path / VOICE / "wav/ru_0001.wav").touch()
    texts = tmp_path / VOICE / "etc/txt.done.data"
    texts.write_text('( ru_0001 "Ег+о мат+ь, ёлка." )\n( ru_0002 "Нет записи." )\n', encoding="utf-8")
    (clip,) = find_clips(tmp_path)
    assert (clip.id, clip.text, clip.language) == ("ru_0001", "Его мать, ёлка.", "ru")
    texts.write_text("ru_0001 Его\n")
    with pytest.raises(ValueError, match="line 1 is not"):
        find_clips(tmp_path)


def test_names_of_stamps_are_read_in_their_languages(local: dict[str, ModuleType], tmp_path: Path) -> None:
    find_clips = local["build_tuxpaint"].find_clips
    with pytest.raises(FileNotFoundError, match="package tuxpaint-stamps-default"):
        find_clips(tmp_path)
    folder = tmp_path / STAMPS / "food/fruit"
    folder.mkdir(parents=True)
    (folder / "apple.txt").write_text("An apple.\nro.utf8=Un măr.\nml.utf8=ആപ്പിൾ\nfr.utf8=\n", encoding="utf-8")
    for name in ("apple_desc", "apple_desc_ro", "apple_desc_ml", "apple_desc_fr", "apple_ro", "pear_desc"):
        (folder / f"{name}.ogg").touch()
    assert [(clip.id, clip.language, clip.text) for clip in find_clips(tmp_path)] == [
        ("food-fruit-apple_desc", "en", "An apple."),
        ("food-fruit-apple_desc_ro", "ro", "Un măr."),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("Un măr.", None), ("...", "no words"), ("12 roses", "number"), ("A dog (big)", "note"), ("a & b", "symbol")],
)
def test_texts_that_do_not_tell_what_is_said(local: dict[str, ModuleType], text: str, reason: str | None) -> None:
    found = local["clips"].reason_to_drop(text)
    assert found is None if reason is None else reason in found
    assert local["clips"].doubt_of_length("a", 0.2) and local["clips"].doubt_of_length("a" * 24, 1.0)
    assert local["clips"].doubt_of_length("a" * 20, 1.0) is None


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [("es", "MAÑANA ESTÁ", "manana esta"), ("ru", "ЁЛКА", "елка"), ("cs", "JEŠTĚ MAÑANA", "ještě mañana")],
)
def test_corpora_of_a_language_are_written_alike(
    local: dict[str, ModuleType], language: str, text: str, expected: str
) -> None:
    assert local["join_corpora"].written_alike(text, language) == expected


def write_packages(folder: Path, clips: list[Clip]) -> Path:
    """All packages, unpacked into one folder; each corpus but the games says the same texts."""
    by_split = {split: [clip for clip in clips if split_of(clip.text) == split] for split in ("train", "dev", "test")}
    said = by_split["train"][:8] + by_split["dev"][:2] + by_split["test"][:2]
    for language in ("en", "es", "fr", "it", "ru"):
        texts = folder / f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
        texts.parent.mkdir(parents=True)
        texts.write_bytes(gzip.compress("".join(f"a{n}: {clip.text}\n" for n, clip in enumerate(said)).encode()))
        for n, clip in enumerate(said):
            path = folder / f"usr/share/asterisk/sounds/{language}_XX_f_Voice/a{n}.wav"
            write_speech(clip, path, sampling_rate=8000)
    lines = [f'( ru_{n} "{clip.text.capitalize()}." )\n' for n, clip in enumerate(said)]
    for n, clip in enumerate(said):
        write_speech(clip, folder / VOICE / f"wav/ru_{n}.wav", sampling_rate=16000)
        (folder / STAMPS).mkdir(parents=True, exist_ok=True)
        samples, rate = soundfile.read(str(clip.path), dtype="float32")
        soundfile.write(str(folder / STAMPS / f"s{n}_desc_ro.ogg"), np.stack([samples, 0 * samples], axis=1), rate)
        (folder / STAMPS / f"s{n}.txt").write_text(f"?\nro.utf8={clip.text.capitalize()}.\n")
    (folder / VOICE / "etc").mkdir()
    (folder / VOICE / "etc/txt.done.data").write_text("".join(lines))
    for start, language in enumerate(("cs", "nl")):
        rest = clips[50 + start : 74 : 2]
        levels = {f"level{i}": [(f"l{n}", c.text, c) for n, c in enumerate(rest) if n % 6 == i] for i in range(6)}
        write_fillets(folder / language, levels, language)
        shutil.copytree(folder / language, folder, dirs_exist_ok=True)
    return write_uqm(folder, iter(clips[-48:]))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["debian"], indirect=True)
def test_from_the_packages_to_error_rates_of_each_corpus(
    recipe: Path, clips: list[Clip], run: Run, tmp_path: Path
) -> None:
    """The chain on packages whose speech is another corpus's; so it tells nothing about accuracy."""
    for used in ("asterisk", "fillets", "uqm"):
        shutil.copytree(ROOT / f"egs/{used}/ASR", recipe.parents[1] / f"{used}/ASR", ignore=MADE)
    options = (
        "--corpus-dir",
        write_packages(tmp_path / "corpus", clips),
        "--vocab-size",
        40,
        "--perturb-speed",
        "false",
    )
    run(recipe / "prepare.sh", *options, "--stop-stage", 5)
    run(recipe / "prepare.sh", *options, "--stage", 10)
    cuts = {
        split: list(CutSet.from_file(recipe / f"data/all/fbank/cuts_{split}.jsonl.gz")) for split in ("train", "test")
    }
    assert {cut.features.sampling_rate for its in cuts.values() for cut in its} == {8000}
    found = {(s.custom["corpus"], s.language) for cut in cuts["train"] for s in cut.supervisions}
    assert found == {
        *(("asterisk", language) for language in ("en", "es", "fr", "it", "ru")),
        *(("fillets", language) for language in ("cs", "nl")),
        *(("festvox", "ru"), ("tuxpaint", "ro"), ("uqm", "en")),
    }
    texts = {split: {cut.supervisions[0].text for cut in its} for split, its in cuts.items()}
    assert not texts["train"] & texts["test"] and all(text == text.lower() for text in texts["train"])
    sources = {path.stem: len(path.read_text().splitlines()) for path in (recipe / "data/all/sources").iterdir()}
    assert set(sources) == {"asterisk", "festvox", "fillets", "tuxpaint", "uqm"}
    assert sum(sources.values()) == len(cuts["train"])

    run(recipe / "train.py", *TINY, "--vocab-size=40", "--lang-dir=data/all/lang_bpe_40", "--steps-per-epoch=2")
    run(recipe / "decode.py", "--decoding-method", "ctc_greedy_search")
    (recogs,) = (recipe / "exp/base/ctc_greedy_search").glob("recogs-test-*.txt")
    table = ROOT / "local/rates_by_group.py", "--manifest-dir", recipe / "data/all/fbank", recogs
    assert "| uqm | 4 |" in run(*table, "--by", "corpus").stdout
