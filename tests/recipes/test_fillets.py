"""What is true of the game's dialogues alone: scripts, texts, splits, audio; and the whole chain in miniature."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from shared_moe_conformer.speech.audio import write_flac
from tests.recipes.conftest import Run
from tests.recipes.corpora import Clip
from tests.recipes.loading import load

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "egs/fillets/ASR/local"


@pytest.fixture(scope="module")
def local() -> Iterable[dict[str, ModuleType]]:
    """The recipe's own modules, which import each other as programs in one folder do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(LOCAL)
        yield {
            name: load(LOCAL / f"{name}.py") for name in ("audio", "dialogues", "splits", "texts", "build_manifests")
        }


SCRIPT = r"""
-- dialogId("no", "font_big", "A comment has no text.")

dialogId("let-m-divna", "font_small", "What \"ship\"?")
dialogStr("Welk \"schip\"?")


dialogId("long", "font_statue",
         "Two lines, says the statue.")
dialogStr(
  "Twee regels, zegt het C:\\beeld."
)
dialogId("map-x", "", "")
dialogStr("Stem")
"""


def write_game(folder: Path, levels: dict[str, list[tuple[str, str, Clip | None]]], language: str = "nl") -> Path:
    """Unpacked packages: levels with lines (id, text, recording); a line without a recording has an empty file."""
    game = folder / "usr/share/games/fillets-ng"
    for level, lines in levels.items():
        script, sound = game / "script" / level, game / "sound" / level / language
        script.mkdir(parents=True)
        sound.mkdir(parents=True)
        text = "".join(f'dialogId("{name}", "font_big", "?")\ndialogStr("{text}")\n\n' for name, text, _ in lines)
        (script / f"dialogs_{language}.lua").write_text(text, encoding="utf-8")
        for name, _, clip in lines:
            if clip is None:
                (sound / f"{name}.ogg").touch()
                continue
            samples, rate = soundfile.read(str(clip.path), dtype="float32")
            soundfile.write(str(sound / f"{name}.ogg"), np.stack([samples, 0 * samples], axis=1), rate)
    return folder


def test_lua_scripts_are_read(local: dict, tmp_path: Path) -> None:
    script = tmp_path / "dialogs_nl.lua"
    script.write_text(SCRIPT, encoding="utf-8")
    lines = list(local["dialogues"].read_lines(script))
    assert [tuple(line) for line in lines] == [
        ("let-m-divna", "font_small", 'Welk "schip"?'),
        ("long", "font_statue", "Twee regels, zegt het C:\\beeld."),
        ("map-x", "", "Stem"),
    ]
    speakers = [local["dialogues"].speaker_of(line, "wreck") for line in lines]
    assert speakers == ["font_small", "font_statue@wreck", "nobody@wreck"]


def test_recordings_find_their_texts_also_those_of_share(local: dict, tmp_path: Path) -> None:
    game = write_game(tmp_path, {"wreck": [("a", "Een.", None), ("b", "Twee.", None)]}) / local["dialogues"].GAME_DIR
    (game / "script/share").mkdir()
    (game / "script/share/bore_dialogs_nl.lua").write_text('dialogId("c", "font_big", "")\ndialogStr("Drie")')
    (game / "script/share/bore_dialogs_cs.lua").write_text('dialogId("c", "font_big", "")\ndialogStr("Tri")')
    (game / "sound/share/borejokes/nl").mkdir(parents=True)
    (game / "sound/share/borejokes/nl/c.ogg").touch()
    (game / "sound/wreck/nl/without-text.ogg").touch()
    clips = local["dialogues"].find_clips(tmp_path, "nl")
    assert [(clip.id, clip.level, clip.text) for clip in clips] == [
        ("nl-share-borejokes-c", "share-borejokes", "Drie"),
        ("nl-wreck-a", "wreck", "Een."),
        ("nl-wreck-b", "wreck", "Twee."),
    ]
    with pytest.raises(FileNotFoundError, match="'cs' in .*: --corpus-dir must hold the usr/ folder"):
        local["dialogues"].find_clips(tmp_path, "cs")


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("nl", "Zo'n 'raar' schip... 's Nachts?", "zo'n raar schip s nachts"),
        ("nl", "Druk op F2 - of F3!", "druk op f twee of f drie"),
        ("nl", "\u201cEe\u0308n\u201d, z\u2019n _", "e\u00ebn z'n"),
        ("cs", "To je loď č. 8\u2026", "to je loď č osm"),
        ("cs", "\u201eUFO\u201c", "ufo"),
    ],
)
def test_texts_become_lower_case_words(local: dict, language: str, text: str, expected: str) -> None:
    normalise = local["texts"].normalise
    assert normalise(text, language) == expected == normalise(expected, language)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Konkrétně %1 hodin!", "fills in"),
        ("Poseidon 737", "number"),
        ("een 3Dfx kaart", "number"),
        ("naar \\/etc", "symbol"),
        ("Start command.com!", "address"),
        ("Подожди!", "alphabet"),
        ("...", "no words"),
        ("Druk op F2.", None),
        ("Jeden trilobyte.", None),
    ],
)
def test_texts_that_do_not_tell_what_is_said(local: dict, text: str, reason: str | None) -> None:
    found = local["texts"].reason_to_drop(text, local["texts"].normalise(text, "cs"))
    assert found is None if reason is None else reason in found


def test_splits_hold_whole_levels_and_share_no_text(local: dict) -> None:
    clips = [
        local["dialogues"].Clip(f"{level}-{number}", f"level{level}", "", Path(), "")
        for level in range(40)
        for number in range(5)
    ]
    seconds = {clip.id: 2.0 for clip in clips}
    texts = {clip.id: clip.id if clip.id.endswith(("0", "1", "2")) else "said everywhere" for clip in clips}
    splits = local["splits"].splits_of(clips, seconds, texts)
    levels = {split: {clip.level for clip in its} for split, its in splits.items()}
    assert {split: len(its) for split, its in levels.items()} == {"train": 32, "dev": 4, "test": 4}
    assert len(set.union(*levels.values())) == 40
    said = {split: {texts[clip.id] for clip in its} for split, its in splits.items()}
    assert "said everywhere" in said["test"]
    assert not said["train"] & (said["dev"] | said["test"]) and not said["dev"] & said["test"]
    assert local["splits"].split_levels(clips[::-1], seconds) == local["splits"].split_levels(clips, seconds)


def test_flac_is_the_mean_of_the_channels_at_16_khz_without_its_last_silence(local: dict, tmp_path: Path) -> None:
    time = np.arange(44100) / 44100
    tone = (0.8 * np.sin(2 * np.pi * 500 * time) * (time < 0.5)).astype(np.float32)
    soundfile.write(str(tmp_path / "a.ogg"), np.stack([tone, 0 * tone], axis=1), 44100)
    write_flac(tmp_path / "out/a.flac", [local["audio"].mono_at_16_khz(tmp_path / "a.ogg")], sampling_rate=16000)
    samples, rate = soundfile.read(str(tmp_path / "out/a.flac"))
    assert rate == 16000 and samples.ndim == 1
    assert len(samples) / rate == pytest.approx(0.5 + local["audio"].KEPT_SILENCE, abs=0.05)
    assert np.abs(samples[1000:7000]).max() == pytest.approx(0.4, abs=0.03)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.flac"]


def test_resampling_that_overshoots_is_scaled_down(local: dict) -> None:
    square = np.sign(np.sin(2 * np.pi * 300 * np.arange(22050) / 22050)).astype(np.float32)
    assert np.abs(local["audio"].resample(square, 22050)).max() == pytest.approx(1.0)


def test_silence_alone_is_left_and_damage_is_named(local: dict, tmp_path: Path) -> None:
    silence = np.zeros(16000, dtype=np.float32)
    assert len(local["audio"].without_last_silence(silence)) == 16000
    (tmp_path / "empty.ogg").touch()
    assert local["audio"].duration_of(tmp_path / "empty.ogg") == 0
    (tmp_path / "bad.ogg").write_bytes(b"OggS no")
    with pytest.raises(ValueError, match="bad.ogg is not a readable recording"):
        local["audio"].duration_of(tmp_path / "bad.ogg")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fillets"], indirect=True)
def test_from_the_packages_to_a_released_model(
    recipe: Path, clips: list[Clip], run: Run, use: Callable[..., str], tmp_path: Path
) -> None:
    """The chain on a game whose speech is another corpus's; so it tells nothing about accuracy."""
    numbered = list(enumerate(clips[:48]))
    levels = {f"level{i}": [(f"l{n}", c.text.capitalize(), c) for n, c in numbered if n % 12 == i] for i in range(12)}
    corpus = write_game(tmp_path / "corpus", {**levels, "bad": [("x", "Leeg.", None), ("y", "Een %1.", clips[0])]})
    options = ("--corpus-dir", corpus, "--vocab-size", 40, "--perturb-speed", "false", "--ngram-order", 2)
    printed = run(recipe / "prepare.sh", *options).stdout
    assert "50 clips with a text, 48 usable" in printed and "nl-bad-x: 0.0 s long" in printed
    assert "stage 1: Manifests and splits (done before)" in run(recipe / "prepare.sh", *options).stdout
    said = use(recipe, "--vocab-size=40", "--lang-dir=data/nl/lang_bpe_40", "--max-duration=60")
    assert said and said in (recipe / "zoo/tiny/test.txt").read_text()
    assert "give nl or cs" in run(recipe / "prepare.sh", "--language", "de", status=1).stderr


@pytest.mark.slow
def test_counts_of_the_corpus(local: dict, tmp_path: Path) -> None:
    packages = ["fillets-ng-data", "fillets-ng-data-cs", "fillets-ng-data-nl"]
    command = [str(ROOT / "local/download_debian.sh"), str(tmp_path), *packages]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if result.returncode:
        pytest.skip(f"no corpus: {result.stderr.splitlines()[-1]}")
    expected = {
        "nl": ({"train": 1288, "dev": 126, "test": 178}, 1505),
        "cs": ({"train": 1416, "dev": 157, "test": 215}, 1373),
    }
    for language, (sizes, words) in expected.items():
        clips = local["dialogues"].find_clips(tmp_path, language)
        texts = {clip.id: local["texts"].normalise(clip.text, language) for clip in clips}
        usable, _ = local["build_manifests"].usable_clips(clips, texts, min_duration=0.3, max_duration=26.0)
        seconds = {clip.id: its for clip, its in usable}
        splits = local["splits"].splits_of([clip for clip, _ in usable], seconds, texts)
        assert {split: len(its) for split, its in splits.items()} == sizes
        assert sum(len(texts[clip.id].split()) for clip in splits["test"]) == words
