from __future__ import annotations

from pathlib import Path

import pytest

from shared_moe_conformer.data.utterances import Utterance, read_table, span, with_ids, write_table


def test_ids_are_unique_and_without_folders(tmp_path: Path) -> None:
    paths = ["a/b.wav", "a-b.wav", "a/b.ogg", "my clip.wav", "/far/away/c.wav"]
    utterances = [Utterance("", path, "X", "", "", 0.0, 0.0, "") for path in paths]
    assert [u.id for u in with_ids(utterances)] == ["a-b", "a-b-2", "a-b-3", "my_clip", "c.wav"]
    assert [u.id for u in with_ids([utterances[0]._replace(id="own")])] == ["own"]


def test_the_table_comes_back_and_a_spoiled_line_is_named(tmp_path: Path) -> None:
    utterances = [
        Utterance("b", 'c/"q".wav', 'DON\'T "X"', "anna", "dev", 0.25, 1.5, ""),
        Utterance("a", "d.wav", "é", "", "train", 0.0, 2.0, ""),
    ]
    write_table(utterances, tmp_path / "t.tsv")
    assert [u[:7] for u in read_table(tmp_path / "t.tsv")] == [u[:7] for u in sorted(utterances)]
    text = (tmp_path / "t.tsv").read_text()
    (tmp_path / "t.tsv").write_text(text.replace("\tdev\t", "\tdevelopment\t"))
    with pytest.raises(ValueError, match="t.tsv line 3: the split is 'development'"):
        read_table(tmp_path / "t.tsv")
    (tmp_path / "t.tsv").write_text(text.replace("\t2.0", ""))
    with pytest.raises(ValueError, match="t.tsv line 2: .*the columns are id, path"):
        read_table(tmp_path / "t.tsv")
    (tmp_path / "t.tsv").write_text(text.replace("id\tpath", "path\tid"))
    with pytest.raises(ValueError, match="t.tsv line 1: write the columns id, path"):
        read_table(tmp_path / "t.tsv")
    with pytest.raises(FileNotFoundError, match="no file"):
        read_table(tmp_path / "nothing.tsv")


def test_channels_get_a_column_of_their_own(tmp_path: Path) -> None:
    utterances = [
        Utterance("a", "call.wav", "X", "", "train", 0.0, 1.0, "", 1),
        Utterance("b", "b.wav", "Y", "", "dev", 0.0, 1.0, ""),
    ]
    write_table(utterances, tmp_path / "t.tsv")
    assert [u.channel for u in read_table(tmp_path / "t.tsv")] == [1, None]
    write_table(utterances[1:], tmp_path / "t.tsv")
    assert (tmp_path / "t.tsv").read_text().splitlines()[0].split("\t")[-1] == "duration"


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (("-0.5", "1"), "it starts at -0.5 s, before its recording"),
        (("1.4", "0.9"), r"it ends \(0.9 s\) before it starts \(1.4 s\)"),
        (("1", "nan"), "the end is 'nan': write seconds"),
        (("1,5", "2"), "the start is '1,5': write seconds"),
        (("0", "inf"), "the end is 'inf'"),
        (("0", "-2"), "before it starts"),
    ],
)
def test_times_that_are_none(times: tuple[str, str], message: str) -> None:
    assert span("0.5", "-1.0") == (0.5, 0.0) and span("0.5", "2") == (0.5, 1.5)
    with pytest.raises(ValueError, match=message):
        span(*times)
