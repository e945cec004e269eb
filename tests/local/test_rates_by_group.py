from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lhotse import CutSet
from lhotse.utils import fastcopy

from shared_moe_conformer.data.manifests import cuts_path, write_manifest
from shared_moe_conformer.decoding.scoring import Decoded, transcripts_text
from tests.data.conftest import noise_cut
from tests.local.conftest import Result

AGES = {"a": 6, "b": 12, "c": 13, "d": 40}


@pytest.fixture
def recogs(tmp_path: Path) -> Path:
    """Four utterances of four speakers, of two words each; the first speaker's first word is wrong."""
    cuts = []
    for name, age in AGES.items():
        cut = noise_cut(tmp_path / "audio", name, "ONE TWO", duration=1.0)
        says = fastcopy(
            cut.supervisions[0], speaker=f"speaker-{name}", gender="female", custom={"age": age, "corpus": name * 2}
        )
        cuts.append(fastcopy(cut, supervisions=[says]))
    write_manifest(CutSet.from_cuts(cuts), cuts_path(tmp_path / "data/fbank", "test"))
    results = [Decoded(name, "ONE TWO", "ONE TWO" if name != "a" else "TWO TWO") for name in AGES]
    (tmp_path / "recogs-test.txt").write_text(transcripts_text(results))
    return tmp_path / "recogs-test.txt"


def rows(result: Result) -> list[list[str]]:
    assert result.status == 0, result.err
    lines = [line.strip("| ").split(" | ") for line in result.out.splitlines() if line.startswith("| ")]
    return [[*line[:3], line[3].split()[0]] for line in lines[1:]]


def test_ages_make_groups(recogs: Path, run_local: Callable[..., Result]) -> None:
    result = run_local("rates_by_group", "--by", "age", "--age-groups", "0,13,20", recogs)
    assert rows(result) == [
        ["0 to 12", "2", "4", "25.00"],
        ["13 to 19", "1", "2", "0.00"],
        ["20 on", "1", "2", "0.00"],
        ["all", "4", "8", "12.50"],
    ]


def test_speakers_and_genders_make_groups(recogs: Path, run_local: Callable[..., Result]) -> None:
    by_speaker = rows(run_local("rates_by_group", recogs))
    assert [row[0] for row in by_speaker] == ["speaker-a", "speaker-b", "speaker-c", "speaker-d", "all"]
    assert by_speaker[0][3] == "50.00"
    assert [row[0] for row in rows(run_local("rates_by_group", recogs, "--by", "gender"))] == ["female", "all"]
    assert [row[0] for row in rows(run_local("rates_by_group", recogs, "--by", "corpus"))][:2] == ["aa", "bb"]


def test_errors_are_divided_by_those_of_a_baseline(
    recogs: Path, tmp_path: Path, run_local: Callable[..., Result]
) -> None:
    twice = [Decoded(name, "ONE TWO", "ONE TWO" if name != "a" else "") for name in AGES]
    (tmp_path / "baseline.txt").write_text(transcripts_text(twice))
    result = run_local("rates_by_group", recogs, "--baseline", tmp_path / "baseline.txt")
    first, *_, last = [line for line in result.out.splitlines() if line.startswith(("| speaker-", "| all"))]
    assert "| 0.500 [0.500, 0.500] |" in first and "| 0.500 [0.500, 0.500] |" in last, "one error of two in each draw"
    (tmp_path / "baseline.txt").write_text(transcripts_text(twice[1:]))
    failed = run_local("rates_by_group", recogs, "--baseline", tmp_path / "baseline.txt")
    assert failed.status == 1 and "decode the same split with both" in failed.err


def test_what_cannot_be_grouped_is_named(recogs: Path, run_local: Callable[..., Result]) -> None:
    result = run_local("rates_by_group", recogs, "--by", "age", "--age-groups", "10,20")
    assert result.status == 1 and "a: age 6 is below the first of --age-groups" in result.err
    recogs.write_text(transcripts_text([Decoded("other", "A", "A")]))
    assert "give the --split that was decoded" in run_local("rates_by_group", recogs).err
