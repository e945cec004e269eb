from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shared_moe_conformer.params import read_configs
from tests.data.conftest import noise_cut
from tests.local.conftest import LOCAL, Result


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    """Lines of a TSV file of twelve recordings."""
    result = []
    for number in range(12):
        noise_cut(tmp_path / "audio", str(number), "", duration=1.0)
        result.append(f"audio/{number}.wav\tSentence number {chr(65 + number)}!")
    return result


@pytest.fixture
def make(tmp_path: Path, run_local: Callable[..., Result]) -> Callable[..., Result]:
    """Make a recipe of lines, without running its prepare.sh."""

    def make(lines: list[str], *options: object) -> Result:
        (tmp_path / "clips.tsv").write_text("\n".join(lines))
        arguments = ("calls", "--tsv", "clips.tsv", "--recipe-dir", "recipe", "--normalise", "upper", *options)
        return run_local("new_recipe", *arguments)

    return make


@pytest.fixture(autouse=True)
def no_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    """prepare.sh is run by tests/recipes; here it always succeeds."""
    monkeypatch.setattr("subprocess.run", lambda *_, **__: type("Done", (), {"returncode": 0}))


def test_a_recipe_has_all_files(tmp_path: Path, lines: list[str], make: Callable[..., Result]) -> None:
    noise_cut(tmp_path / "audio", "short", "", duration=0.2)
    result = make([*lines, "audio/short.wav\tshort"], "--begin-with", "none")
    assert result.status == 0 and "12 utterances; 1 left out" in result.out and "./prepare.sh" in result.out
    assert "features at 8000 Hz: the lowest rate of the recordings is 8000 Hz" in result.out
    assert "merged begins with random weights: --begin-with none was given" in result.out
    names = {
        "README.md",
        "config.py",
        "prepare.sh",
        "train.py",
        "train_lm.py",
        "decode.py",
        "export.py",
        "utterances.tsv",
        "dropped.tsv",
    }
    assert {path.name for path in (tmp_path / "recipe").iterdir()} == names
    assert (tmp_path / "recipe/dropped.tsv").read_text() == "audio/short.wav\t0.20 s long, not 0.4 to 25\tSHORT\n"
    table = [line.split("\t") for line in (tmp_path / "recipe/utterances.tsv").read_text().splitlines()[1:]]
    assert {row[2] for row in table} == {f"SENTENCE NUMBER {chr(65 + number)}" for number in range(12)}
    assert {row[4] for row in table} == {"train", "dev", "test"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("audio/0.wav no tab", "clips.tsv line 13: no tab"),
        ("audio/nothing.wav\tTEXT", "clips.tsv line 13: no file"),
        ("clips.tsv\tTEXT", "clips.tsv line 13: .*cannot be read"),
        ("audio/1.wav\t!?", "the same recording as clips.tsv line 2"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_made(
    tmp_path: Path, lines: list[str], make: Callable[..., Result], line: str, message: str
) -> None:
    result = make([*lines, line])
    assert result.status == 1
    last = result.err.splitlines()[-1]
    assert last.startswith("error: ") and message.split(": .*")[0] in last and message.split(".*")[-1] in last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audio", "clips.tsv"]


def test_a_text_of_which_nothing_is_left_is_named(lines: list[str], make: Callable[..., Result]) -> None:
    result = make([*lines[1:], "audio/0.wav\t!?"])
    assert result.status == 1 and "clips.tsv line 12: --normalise upper leaves nothing of '!?'" in result.err


def test_what_is_there_already_stays(tmp_path: Path, lines: list[str], make: Callable[..., Result]) -> None:
    assert make(lines).status == 0
    table = (tmp_path / "recipe/utterances.tsv").read_text()
    result = make(lines[:5])
    assert result.status == 1 and "recipe exists: give another name or --recipe-dir, or delete it" in result.err
    assert (tmp_path / "recipe/utterances.tsv").read_text() == table


def test_texts_in_two_splits_are_allowed_where_the_lines_say_so(
    tmp_path: Path, lines: list[str], make: Callable[..., Result]
) -> None:
    rows = [f"{line.split(chr(9))[0]}\tSAME\t\t{split}" for line, split in zip(lines, ["train", "dev", "test"] * 4)]
    result = make(rows)
    assert result.status == 0 and "1 texts are in two splits" in result.out
    assert "--shared-texts allowed" in (tmp_path / "recipe/prepare.sh").read_text()
    assert "--shared-texts" not in (
        make(lines, "--recipe-dir", "other") and (tmp_path / "other/prepare.sh").read_text()
    )


def test_long_utterances_are_kept_and_allowed(tmp_path: Path, lines: list[str], make: Callable[..., Result]) -> None:
    noise_cut(tmp_path / "audio", "long", "", duration=31.0)
    result = make([*lines, "audio/long.wav\tlong"], "--max-duration", 36)
    assert result.status == 0 and "13 utterances; 0 left out" in result.out
    assert "coded_share=0.1\n" in (tmp_path / "recipe/prepare.sh").read_text()
    assert "allowed=(--max-duration 40)" in (tmp_path / "recipe/prepare.sh").read_text()


def test_a_corpus_at_16_khz_begins_with_the_zoos_model(
    tmp_path: Path, lines: list[str], make: Callable[..., Result]
) -> None:
    for number in range(12):
        noise_cut(tmp_path / "audio", str(number), "", duration=1.0, sampling_rate=16000)
    cases = (
        (("--language", "en-GB"), "speechocean762-merged"),
        (("--language", "ru"), "speechocean762-merged"),
        (("--language", "en", "--begin-with", "an4-robust"), "an4-robust"),
        (("--language", "nl", "--begin-with", "an4-base"), "an4-base"),
        (("--language", "en", "--begin-with", "none"), "none"),
    )
    for i, (options, model) in enumerate(cases):
        result = make(lines, *options, "--recipe-dir", f"recipe-{i}")
        told = "random weights: --begin-with none" if model == "none" else f"zoo/{model}: trainings begun"
        name = "base" if model == "an4-base" else "merged"
        assert result.status == 0 and f"{name} begins with {told}" in result.out
        config = (tmp_path / f"recipe-{i}" / "config.py").read_text()
        assert (f'"init_from": "{LOCAL.parent}/zoo/{model}"' in config) == (model != "none")


def test_a_corpus_of_telephones_takes_the_rate_of_the_model_that_it_begins_with(
    tmp_path: Path, lines: list[str], make: Callable[..., Result]
) -> None:
    result = make(lines, "--language", "en")
    told = (
        "features at 16000 Hz: the model that it begins with has them so, the lowest rate of the recordings is 8000 Hz"
    )
    assert result.status == 0 and told in result.out
    configs = read_configs(tmp_path / "recipe/config.py").values()
    assert {config.features.sampling_rate for config in configs} == {16000}
    assert "sampling_rate=8000" not in (tmp_path / "recipe/prepare.sh").read_text()


def test_a_beginning_that_the_zoo_lacks_is_named(tmp_path: Path, lines: list[str], make: Callable[..., Result]) -> None:
    result = make(lines, "--begin-with", "an4-rubost")
    assert result.status == 1 and not (tmp_path / "recipe").exists()
    told = "error: --begin-with an4-rubost: it is not in the zoo, which has an4-base, "
    assert result.err.splitlines()[-1].startswith(told)


def table_texts(tmp_path: Path) -> set[str]:
    return {line.split("\t")[2] for line in (tmp_path / "recipe/utterances.tsv").read_text().splitlines()[1:]}


def with_texts(lines: list[str], *texts: str) -> list[str]:
    return [f"{line.split(chr(9))[0]}\t{text}" for line, text in zip(lines, texts * len(lines))]


@pytest.mark.parametrize("options", [(), ("--normalise", "none")])
def test_marks_are_named_at_once_or_removed(
    tmp_path: Path, lines: list[str], make: Callable[..., Result], options: tuple[str, ...]
) -> None:
    marks = ["", "<noise>", "", "[LAUGH]", "(coughs)", "*sighs*", "<noise>", *[""] * 5]
    spoiled = [f"{line} {mark}" for line, mark in zip(lines, marks)]
    result = make(spoiled, *options)
    named = "<noise> 2 times, [LAUGH] 1 time, (coughs) 1 time, *sighs* 1 time"
    assert (
        result.status == 1 and f"{named}: marks, not words, first in clips.tsv line 2, clips.tsv line 4" in result.err
    )
    assert "--remove-marks" in result.err and "--keep-marks" in result.err and result.err.count("\n") == 1
    result = make(spoiled, "--remove-marks", "--keep-marks", "--recipe-dir", "other")
    assert result.status == 0 and "left out of 3 texts: <noise> 2 times, [LAUGH] 1 time" in result.out
    result = make(spoiled, "--remove-marks")
    assert result.status == 0 and f"left out of 5 texts: {named}" in result.out
    assert table_texts(tmp_path) == {f"SENTENCE NUMBER {chr(65 + number)}" for number in range(12)}
    result = make([f"{lines[0]} [laugh", *lines[1:]], "--recipe-dir", "third")
    assert result.status == 1 and "clips.tsv line 1: [laugh is half of a mark: close the bracket" in result.err


def test_case_follows_the_language(tmp_path: Path, lines: list[str], make: Callable[..., Result]) -> None:
    texts = with_texts(lines, *(f"kız {c} iki" for c in "abcdefghjklm"))
    result = make(texts)
    assert result.status == 0 and "give --language tr or az" in result.out
    result = make(texts, "--recipe-dir", "other", "--language", "tr")
    assert "--language tr or az" not in result.out
    assert "KIZ A İKİ" in (tmp_path / "other/utterances.tsv").read_text()


def test_scripts_without_spaces_get_characters(tmp_path: Path, lines: list[str], make: Callable[..., Result]) -> None:
    result = make(with_texts(lines, *(f"สวัสดีครับ{c}" for c in "กขคงจฉชซฌญฎฏ")))
    assert result.status == 0 and "script without spaces: each character is a unit" in result.out
    assert "unit=char" in (tmp_path / "recipe/prepare.sh").read_text()


def test_tables_of_each_split_with_audio_beside_them(
    tmp_path: Path, lines: list[str], run_local: Callable[..., Result]
) -> None:
    """As Common Voice has them."""
    (tmp_path / "audio").rename(tmp_path / "clips")
    rows = [f"x\t{line.removeprefix('audio/')}\t2" for line in lines]
    for split, first in (("train", 0), ("dev", 4), ("test", 8)):
        content = "\n".join(["client_id\tpath\tsentence\tup_votes", *rows[first : first + 4]])
        (tmp_path / f"{split}.tsv").write_text(content)
    tables = [f"{split}={split}.tsv" for split in ("train", "dev", "test")]
    arguments = ("voices", "--recipe-dir", "recipe", "--normalise", "upper", "--tsv")
    result = run_local("new_recipe", *arguments, *tables)
    assert result.status == 0, result.err
    table = [line.split("\t") for line in (tmp_path / "recipe/utterances.tsv").read_text().splitlines()[1:]]
    assert {row[1]: row[4] for row in table} == {f"{n}.wav": ("train", "dev", "test")[n // 4] for n in range(12)}
    result = run_local("new_recipe", *arguments, "valid=dev.tsv", "--recipe-dir", "other")
    assert result.status == 1 and "--tsv valid=dev.tsv: write SPLIT=PATH with train, dev, test" in result.err
