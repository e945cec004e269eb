"""The game's archives, texts, pauses and splits; and the whole chain in miniature."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from shared_moe_conformer.data.features import resample
from tests.recipes.conftest import ROOT, Run
from tests.recipes.corpora import Clip
from tests.recipes.loading import load

LOCAL = ROOT / "egs/uqm/ASR/local"
MODULES = ("dialogues", "audio", "texts", "splits", "build_manifests", "subtitle_times")
CHARACTERS = {"druuge": 10, "pkunk": 10, "arilou": 2, "ilwrath": 2}
"""Dialogues of each, of two subtitles; the texts of pkunk are in the archive of the voices, as some are."""


@pytest.fixture(scope="module")
def local() -> Iterable[dict[str, ModuleType]]:
    """The recipe's own modules, which import each other as programs in one folder do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(LOCAL)
        for name in MODULES:  # other recipes have modules of these names, too
            patch.delitem(sys.modules, name, raising=False)
        yield {name: load(LOCAL / f"{name}.py") for name in MODULES}
        for name in MODULES:
            sys.modules.pop(name, None)


def write_game(folder: Path, clips: Iterator[Clip]) -> Path:
    """The unpacked packages: two archives below usr/."""
    voice, text, index = {}, {}, []
    for character, count in CHARACTERS.items():
        lines, times = ["#(player_says)\nWho are you?\n\n"], ["#(player_says) \n"]
        for number in range(count):
            pair = list(itertools.islice(clips, 2))
            name = f"{character}-{number:03}.ogg"
            ogg, first = join(pair)
            voice[f"3dovoice/{character}/{name}"] = ogg
            lines.append(f"#(KEY{number})\t{name}\n" + "".join(f"{c.text.capitalize()}...\n" for c in pair) + "\n")
            times.append(f"#(KEY{number}) {round(1000 * first)}\n")
        folder_of_text = "addons/3dovoice" if character == "pkunk" else "base/comm"
        path = f"{folder_of_text}/{character}/{character}.txt"
        (voice if character == "pkunk" else text)[path.removeprefix("addons/")] = "".join(lines).encode()
        voice[f"3dovoice/{character}/{character}.ts"] = "".join(times).encode()
        base = f"addons/3dovoice/{character}/"
        index.append(f"comm.{character}.dialogue = CONVERSATION:{path}:{base}:{base}{character}.ts\n")
    voice["3dovoice/3dovoice.rmp"] = "".join(index).encode()
    pack(folder, voice, text)
    return folder


def join(clips: list[Clip]) -> tuple[bytes, float]:
    """The clips one after the other as Ogg Vorbis of 11.025 kHz, and the seconds of the first."""
    parts = [resample(soundfile.read(str(clip.path), dtype="float32")[0], 8000, 11025) for clip in clips]
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(np.concatenate(parts), -1, 1), 11025, format="OGG", subtype="VORBIS")
    return buffer.getvalue(), len(parts[0]) / 11025


def pack(folder: Path, voice: dict[str, bytes], text: dict[str, bytes]) -> None:
    content = folder / "usr/share/games/uqm/content"
    for path, files in (("addons/uqm-0.8.0-voice.uqm", voice), ("packages/uqm-0.8.0-content.uqm", text)):
        (content / path).parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(content / path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)


def test_dialogues_are_read_from_the_index(local: dict[str, ModuleType], tmp_path: Path) -> None:
    rmp = "comm.orz.dialogue = CONVERSATION:base/comm/orz/orz.txt:addons/3dovoice/orz/:addons/3dovoice/orz/orz.ts\n"
    subtitles = (
        "#(HELLO)\torz-000.ogg\nHello.\n\nWe are *Orz*.\n\n#(ask)\nWhat?\n\n#(SAME)\torz-000.ogg\nHello.\n"
        "#(GONE)\torz-001.ogg\nNobody says this.\n#(MORE)\torz-002.ogg\nOne.\nTwo.\n#(ONE)\torz-003.ogg\nOne.\n"
    )
    times = b"#(HELLO) 1250\n#(ask) \n#(SAME) \n#(GONE) \n#(MORE) 100,200\n#(ONE) \n"
    spoken = {f"3dovoice/orz/orz-{number}.ogg": b"" for number in ("000", "002", "003")}
    pack(
        tmp_path,
        {"3dovoice/3dovoice.rmp": rmp.encode(), "3dovoice/orz/orz.ts": times, **spoken},
        {"base/comm/orz/orz.txt": subtitles.encode()},
    )
    dialogues, unfit = local["dialogues"].read_dialogues(local["dialogues"].open_archives(tmp_path))
    assert [(d.id, d.character, d.subtitles, d.lengths) for d in dialogues] == [
        ("orz-000", "orz", ["Hello.", "We are *Orz*."], [1.25]),
        ("orz-003", "orz", ["One."], []),
    ]
    assert unfit == ["orz-002"], "two times and two subtitles"


def test_archives_that_are_missing_or_damaged_are_named(local: dict[str, ModuleType], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="uqm-voice and uqm-content"):
        local["dialogues"].open_archives(tmp_path)
    pack(tmp_path, {}, {})
    (tmp_path / "usr/share/games/uqm/content/addons/uqm-0.8.0-voice.uqm").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="unpack the packages again"):
        local["dialogues"].open_archives(tmp_path)


@pytest.mark.parametrize(
    ("subtitle", "text", "reason"),
    [
        ("`Linch-Nas-Ploh' means *that* -- isn't it?!", "LINCH NAS PLOH MEANS THAT ISN'T IT", None),
        ("-<GO KILL YOURSELF!>-", "GO KILL YOURSELF", None),
        ("almost 2000 crew", "ALMOST CREW", "number"),
        ("(...several hours later...)", "SEVERAL HOURS LATER", "note"),
        ("give/render", "GIVE RENDER", "symbol"),
        ("...", "", "no words"),
    ],
)
def test_subtitles_become_words(local: dict[str, ModuleType], subtitle: str, text: str, reason: str | None) -> None:
    assert local["texts"].normalise(subtitle) == text
    found = local["texts"].reason_to_drop(subtitle)
    assert found is None if reason is None else reason in found


def test_cuts_move_into_the_pause_nearby(local: dict[str, ModuleType]) -> None:
    rng, rate = np.random.default_rng(0), 11000
    samples = rng.normal(0, 0.1, 5 * rate)
    samples[round(2.1 * rate) : round(2.2 * rate)] = 0
    first, second, end = local["audio"].in_pauses([2.0, 3.5, 5.0], samples, rate)
    assert 2.1 < first < 2.2 and 3.25 < second < 3.75 and 4.75 <= end <= 5.0
    assert local["audio"].in_pauses([9.0], samples, rate) == [9.0], "beyond the end nothing is searched"


def test_splits_hold_out_dialogues_and_voices_and_share_no_text(local: dict[str, ModuleType]) -> None:
    make = local["dialogues"].Dialogue
    names = [*(f"known{n}" for n in range(5)), "arilou", "ilwrath"]
    dialogues = [make(f"{name}-{n}", name, "", ["a", "b"], [1.0]) for name in names for n in range(40)]
    split_of = local["splits"].split_dialogues(dialogues, {d.id: 10.0 for d in dialogues})
    sizes = {split: list(split_of.values()).count(split) for split in local["splits"].SPLITS}
    assert sizes == {"train": 174, "dev": 10, "dev-new-voices": 40, "test": 16, "test-new-voices": 40}
    texts = [*(d.id for d in dialogues), *["GOODBYE"] * len(dialogues)]
    segments = [local["splits"].Segment(str(n), d, 0.0, 1.0, t) for n, (d, t) in enumerate(zip(2 * dialogues, texts))]
    splits = local["splits"].split_segments(segments, split_of)
    said = {split: [segment.text for segment in its] for split, its in splits.items()}
    assert {split for split, its in said.items() if "GOODBYE" in its} == {"test"}
    assert sum(map(len, said.values())) == len(dialogues) + sizes["test"]


def test_times_of_words_are_compared_with_those_of_subtitles(local: dict[str, ModuleType], tmp_path: Path) -> None:
    times, make = local["subtitle_times"], local["build_manifests"]
    dialogue = local["dialogues"].Dialogue("a", "orz", "", ["A b.", "C d.", "E.", "A."], [1.0, 2.0, 1.0])
    texts = ["A B", "C D", "E", "A"]
    whole = make.supervise("a", dialogue, " ".join(texts), 0.0, 5.0)
    whole = whole.with_alignment("subtitle", make.alignment_of(dialogue, texts, 5.0))
    (tmp_path / "a.ctm").write_text(
        ";; b: nothing recognised\n"
        "a 1 0.10 0.20 A 0.90\na 1 0.40 0.10 X\na 1 1.25 0.20 C\na 1 1.90 0.20 D\na 1 3.50 0.10 F\na 1 3.90 0.10 A\n"
    )
    words = times.read_ctm(tmp_path / "a.ctm")
    assert list(words) == ["a"] and len(words["a"]) == 6
    assert list(times.start_errors(whole, words["a"])) == pytest.approx([0.25, -0.1]), "of C and A; E was not heard"
    assert list(times.start_errors(whole, [])) == []


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["uqm"], indirect=True)
def test_from_the_packages_to_a_released_model(
    recipe: Path, clips: list[Clip], run: Run, use: Callable[..., str], tmp_path: Path
) -> None:
    """The chain on a game whose speech is another corpus's; so it tells nothing about accuracy."""
    corpus = write_game(tmp_path / "corpus", iter(clips))
    options = ("--corpus-dir", corpus, "--vocab-size", 40, "--perturb-speed", "false", "--ngram-order", 2)
    assert "24 dialogues, 48 usable segments" in run(recipe / "prepare.sh", *options).stdout
    splits = ("train", "dev", "dev-new-voices", "test", "test-new-voices", "test-dialogues")
    cuts = {split: list(CutSet.from_file(recipe / f"data/fbank/cuts_{split}.jsonl.gz")) for split in splits}
    sizes = {split: len(its) for split, its in cuts.items()}
    assert sizes == {"train": 34, "dev": 2, "dev-new-voices": 4, "test": 4, "test-new-voices": 4, "test-dialogues": 4}
    assert {cut.features.sampling_rate for its in cuts.values() for cut in its} == {11000}
    whole, parts = cuts["test-dialogues"][-1], cuts["test-new-voices"][-2:]
    assert whole.supervisions[0].text == " ".join(part.supervisions[0].text for part in parts)
    times = whole.supervisions[0].alignment["subtitle"]
    assert [item.symbol for item in times] == [part.supervisions[0].text for part in parts]
    assert times[0].start == 0 and times[1].start == pytest.approx(parts[1].start, abs=0.3)
    assert times[1].start + times[1].duration == pytest.approx(whole.duration, abs=0.01)

    use(recipe, "--vocab-size=40", "--lang-dir=data/lang_bpe_40", "--max-duration=60")
    run(recipe / "decode.py", "--test-splits", "test-dialogues", "--output-format", "ctm")
    (ctm,) = (recipe / "exp/base/greedy_search").glob("hyps-test-dialogues-*.ctm")
    assert ctm.read_text().startswith((";; ilwrath-000-whole", "ilwrath-000-whole 1 ", ";; druuge", "druuge-"))
    found = {path.name.split("-epoch")[0] for path in (recipe / "exp").rglob("wer-summary-*.txt")}
    assert found == {"wer-summary-test", "wer-summary-test-new-voices", "wer-summary-test-dialogues"}


@pytest.mark.slow
def test_counts_of_the_corpus(local: dict[str, ModuleType], tmp_path: Path) -> None:
    """The packages, which are in a component that apt's own sources may lack."""
    download = [str(ROOT / "local/download_debian.sh"), str(tmp_path), "--components", "contrib non-free"]
    result = subprocess.run([*download, "uqm-voice", "uqm-content"], capture_output=True, text=True, timeout=300)
    if result.returncode:
        pytest.skip(f"no corpus: {result.stderr.splitlines()[-1]}")
    dialogues, unfit = local["dialogues"].read_dialogues(local["dialogues"].open_archives(tmp_path))
    assert len(dialogues) == 2212 and len(unfit) == 5
    subtitles = [subtitle for dialogue in dialogues for subtitle in dialogue.subtitles]
    reasons = [local["texts"].reason_to_drop(subtitle) for subtitle in subtitles]
    assert len(subtitles) == 8592 and reasons.count(None) == 8370
    assert {d.character for d in dialogues} > set(local["splits"].NEW_VOICES)
