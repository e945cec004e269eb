"""What is true of the asterisk corpus alone: its texts, splits and configs."""

from __future__ import annotations

import gzip
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import Config, replace_fields
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.export import describe
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.release.manifest import ExampleRecording
from shared_moe_conformer.release.zoo_index import add
from tests.conftest import TINY_VOCAB
from tests.recipes.loading import load

RECIPE = Path(__file__).resolve().parents[2] / "egs/asterisk/ASR"


manifests = load(RECIPE / "local/build_manifests.py")
SOUNDS = manifests.SOUNDS_DIR / "en_US_f_Allison"
CONFIGS: dict[str, Config] = load(RECIPE / "config.py").CONFIGS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm sorry, that's not a valid extension.", "I'M SORRY THAT'S NOT A VALID EXTENSION"),
        ("press 1 to accept this call, or 2 to reject it", "PRESS ONE TO ACCEPT THIS CALL OR TWO TO REJECT IT"),
        ("Call-Forward on No Answer.", "CALL FORWARD ON NO ANSWER"),
        ("dot [.]", "DOT"),
        ("space [ ]", "SPACE"),
        ('a polite "don\u2019t call" menu', "A POLITE DON'T CALL MENU"),
        ("'quoted' rock 'n' roll", "QUOTED ROCK N ROLL"),
        ("...to exit the menu.", "TO EXIT THE MENU"),
        ("underscore_name \u2013 dash", "UNDERSCORE NAME DASH"),
        ("caf\u0065\u0301", "CAF\u00c9"),
        ("...", ""),
    ],
)
def test_texts_become_upper_case_words(text: str, expected: str) -> None:
    assert manifests.normalise(text) == expected


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("es", "presione 1", "PRESIONE UNO"),
        ("fr", "l\u2019appel no. 0", "L'APPEL NO ZÉRO"),
        ("it", "c'è 1 messaggio", "C'È UNO MESSAGGIO"),
        ("ru", "нажмите 7.", "НАЖМИТЕ СЕМЬ"),
    ],
)
def test_digits_are_spelled_in_the_language_of_the_prompts(language: str, text: str, expected: str) -> None:
    assert manifests.normalise(text, language) == expected


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(max_codepoint=0x17F), max_size=60) | st.just("press \U00016a60"))
def test_a_normalised_text_stays_as_it_is(text: str) -> None:
    once = manifests.normalise(text)
    assert manifests.normalise(once) == once
    assert once == " ".join(once.split())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[sound of monkeys screaming]", "tone"),
        ("<beep ascending>", "tone"),
        ("(10 seconds of silence)", "tone"),
        ('IAX (note: does not say "2")', "editor"),
        ("H.323", "number"),
        ("3D audio disabled", "number"),
        ("dial 500 to attempt", "number"),
        ("press * to toggle pause, press # to enter", "symbol"),
        ("visit www.asterisk.org.", "address"),
        ("non pu? essere completata", "lost"),
        ("...", "no words"),
    ],
)
def test_texts_that_do_not_tell_what_is_said(text: str, reason: str) -> None:
    assert reason in manifests.reason_to_drop(text)


@pytest.mark.parametrize("text", ["dot [.]", "press 1, 2 or 3.", "A.M.", "I'm sorry...", "Who? Me?"])
def test_texts_that_do(text: str) -> None:
    assert manifests.reason_to_drop(text) is None


def test_splits_depend_on_the_text_alone() -> None:
    texts = [f"PROMPT NUMBER {i}" for i in range(2000)]
    splits = [manifests.split_of(text) for text in texts]
    assert splits == [manifests.split_of(text.lower()) for text in texts]
    assert {split: round(splits.count(split) / len(texts), 1) for split in manifests.SPLITS} == {
        "train": 0.8,
        "dev": 0.1,
        "test": 0.1,
    }


@pytest.fixture
def corpus_dir(tmp_path: Path) -> Path:
    """Unpacked packages of three prompts, the names of one differing in case."""
    sounds = tmp_path / SOUNDS
    texts = "; a comment\n\nvm-INBOX: new\nletters/at: at [@]\nbeep: [a beep]\nno-sound: Nobody.\nvm-inbox: old\n"
    (sounds / "letters").mkdir(parents=True)
    path = tmp_path / manifests.TEXT_FILE.format("en")
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(texts.encode("utf-8-sig")))
    for name, seconds in (("vm-inbox", 0.5), ("letters/at", 0.6), ("beep", 0.5), ("no-text", 0.5)):
        with wave.open(str(sounds / f"{name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(bytes(range(1, 251)) * int(seconds * 64))
    return tmp_path


def test_clips_are_matched_without_case(corpus_dir: Path) -> None:
    clips = manifests.find_clips(corpus_dir)
    assert {clip.name: clip.text for clip in clips} == {"vm-inbox": "new", "letters-at": "at [@]", "beep": "[a beep]"}
    recordings, dropped = manifests.usable_recordings(clips, min_duration=0.3, max_duration=26.0)
    assert {recording.id for recording in recordings} == {"vm-inbox", "letters-at"}
    assert list(dropped) == ["beep"]
    assert {recording.sampling_rate for recording in recordings} == {8000}
    assert manifests.speaker_of(corpus_dir, "en") == "en_US_f_Allison"
    _, dropped = manifests.usable_recordings(clips, min_duration=0.3, max_duration=0.55)
    assert dropped["letters-at"] == "0.6 s long"
    wordy = [clip._replace(text="more than is said in this time") for clip in clips if not clip.reason_to_drop]
    _, dropped = manifests.usable_recordings(wordy, min_duration=0.3, max_duration=26.0)
    assert "30 characters in 0.6 s" in dropped.values()


@pytest.mark.parametrize(
    ("keep", "message"), [(0, "not a readable wav"), (30, "not a readable wav"), (3000, "cut off")]
)
def test_a_corrupt_file_is_named(corpus_dir: Path, keep: int, message: str) -> None:
    path = corpus_dir / SOUNDS / "vm-inbox.wav"
    path.write_bytes(path.read_bytes()[:keep])
    clips = manifests.find_clips(corpus_dir)
    with pytest.raises(ValueError, match=f"vm-inbox.wav .*{message}") as error:
        manifests.usable_recordings(clips, min_duration=0.3, max_duration=26.0)
    assert "\n" not in str(error.value)


def test_a_missing_corpus_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--corpus-dir must hold the usr/ folder .* asterisk-core-sounds-it"):
        manifests.find_clips(tmp_path, "it")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds(name: str) -> None:
    config = CONFIGS[name]
    assert config.data.lang_dir == f"data/lang_bpe_{config.model.vocab_size}"
    AsrModel(config.model)


def test_the_configs_differ_in_sharing_and_experts_alone() -> None:
    encoders = {name: config.model.encoder for name, config in CONFIGS.items()}
    assert {name: encoder.num_layers for name, encoder in encoders.items()} == dict.fromkeys(CONFIGS, 6)
    assert set(encoders["full"].group_sizes) == {1} and encoders["full"].experts_in == "none"
    assert encoders["shared"].experts_in == "none" and encoders["base"].experts_in == "second"
    assert encoders["shared"].group_sizes == encoders["base"].group_sizes != encoders["full"].group_sizes


def test_base_is_released_in_at_most_two_fifths_of_fulls_bytes(
    lang_dir: Path, tones: np.ndarray, tmp_path: Path
) -> None:
    """Whole bundles, all files of them, with units of the tests' own."""
    sizes = {}
    for name in ("base", "full"):
        config = replace_fields(CONFIGS[name], {"vocab_size": TINY_VOCAB})
        bundle = Bundle(
            describe(name, config, error_rates={}), config, AsrModel(config.model).eval(), Tokenizer.load(lang_dir)
        )
        bundle.save(tmp_path / name, lang_dir=lang_dir, example=ExampleRecording(tones, 16000, ""))
        sizes[name] = add(tmp_path / name).size
    assert sizes["base"] <= 0.4 * sizes["full"]
