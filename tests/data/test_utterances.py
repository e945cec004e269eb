from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.data.utterances import (
    Utterance,
    assign_splits,
    held_out,
    read_table,
    seconds,
    shared_texts,
    span,
    split_of,
    with_ids,
    write_table,
)


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


@pytest.mark.parametrize(
    ("value", "expected"),
    [("62.5", 62.5), ("1:02.5", 62.5), ("00:01:02,500", 62.5), ("75:30", 4530.0), ("2:00:00", 7200.0), ("1e1", 10.0)],
)
def test_times_are_seconds_or_what_a_clock_shows(value: str, expected: float) -> None:
    assert seconds(value, "start") == expected


@pytest.mark.parametrize(
    "value", ["1:60", "1:2", "1:60:00", "1:2:03", "-1:00", "1:00:", ":30", "1:2:3:4", "00:01:02;5"]
)
def test_what_no_clock_shows_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"write seconds, as 62\.5 or 1:02\.5"):
        seconds(value, "start")


def utterance(number: int, text: str, *, path: str = "", speaker: str = "", split: str = "") -> Utterance:
    return Utterance(f"u{number}", path or f"{number}.wav", text, speaker, split, 0.0, 1.0, f"clips.tsv line {number}")


def test_splits_follow_from_the_text_alone() -> None:
    texts = [f"SENTENCE {i}" for i in range(1000)]
    splits = {u.text: u.split for u in assign_splits([utterance(i, text) for i, text in enumerate(texts)])}
    assert splits == {text: split_of(text.lower()) for text in texts}
    shares = Counter(splits.values())
    assert 70 < shares["test"] < 130 and 70 < shares["dev"] < 130
    some = assign_splits([utterance(i, text) for i, text in enumerate(texts[::-2])])
    assert all(splits[u.text] == u.split for u in some), "more speech does not move what was there"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 25), st.integers(0, 40)), min_size=60, max_size=200))
def test_equal_texts_and_a_recording_stay_together(pairs: list[tuple[int, int]]) -> None:
    utterances = [utterance(i, f"TEXT {text}", path=f"{path}.wav") for i, (text, path) in enumerate(pairs)]
    try:
        assigned = assign_splits(utterances)
    except ValueError as error:
        assert "too few to hold out" in str(error)
        return
    assert {u.split for u in assigned} == {"train", "dev", "test"}
    for name in ("text", "path"):
        splits = defaultdict(set)
        for u in assigned:
            splits[getattr(u, name)].add(u.split)
        assert all(len(its) == 1 for its in splits.values())


def test_few_texts_still_give_three_splits() -> None:
    for count in range(3, 20):
        assigned = assign_splits([utterance(i, f"{i} OF {count}") for i in range(count)])
        assert {u.split for u in assigned} == {"train", "dev", "test"}
    with pytest.raises(ValueError, match="2 groups .* too few to hold out test and dev"):
        assign_splits([utterance(i, f"TEXT {i}") for i in range(2)])


@pytest.mark.parametrize("name", ["a", "b", "c", "d", "e", "f", "g", "h"])
def test_what_most_utterances_have_in_common_is_for_training(name: str) -> None:
    calls = [utterance(i, "YES" if i % 4 == 0 else f"{name} {i}", path=f"{name}{i // 4}.wav") for i in range(40)]
    others = [utterance(100 + i, f"{name} OTHER {i // 4}", path=f"{name}-{i // 4}.wav") for i in range(8)]
    splits = [u.split for u in assign_splits(calls + others)]
    assert set(splits[:40]) == {"train"} and sorted(splits[40:]) == ["dev"] * 4 + ["test"] * 4
    with pytest.raises(ValueError, match=r"1 group of .* a text or a recording in common.* --split-by speaker$"):
        assign_splits(calls)


def test_whole_speakers_can_be_held_out() -> None:
    utterances = [utterance(i, f"DIGIT {i % 10}", speaker=f"S{i // 10}") for i in range(300)]
    assigned = assign_splits(utterances, by="speaker")
    splits = {u.speaker: {v.split for v in assigned if v.speaker == u.speaker} for u in assigned}
    assert all(len(its) == 1 for its in splits.values())
    assert {split for its in splits.values() for split in its} == {"train", "dev", "test"}
    assert len(shared_texts(assigned)) == 10
    with pytest.raises(ValueError, match="no speaker, which --split-by speaker needs: write one"):
        assign_splits([utterance(1, "A"), *utterances], by="speaker")


def test_given_splits_stay_and_a_missing_one_comes_from_train() -> None:
    given = [utterance(i, f"TEXT {i}", split="test" if i < 20 else "train") for i in range(200)]
    assigned = assign_splits(given)
    assert [u.split for u in assigned[:20]] == ["test"] * 20
    assert {u.split for u in assigned[20:]} == {"train", "dev"}
    whole = [u._replace(split=split) for u, split in zip(given, ["train", "dev", "test"])]
    assert assign_splits(whole) == whole


def test_splits_for_some_lines_only_are_refused() -> None:
    with pytest.raises(ValueError, match="clips.tsv line 1: no split, where other lines have one"):
        assign_splits([utterance(1, "A"), utterance(2, "B", split="dev")])
    with pytest.raises(ValueError, match="no utterance is in train"):
        assign_splits([utterance(1, "A", split="test"), utterance(2, "B", split="dev")])


def test_groups_are_held_out_until_they_have_their_share() -> None:
    sizes = {f"speaker {number}": 10.0 + number % 3 for number in range(50)}
    chosen = held_out(sizes, 0.1)
    assert 0.1 * sum(sizes.values()) <= sum(sizes[name] for name in chosen) < 0.1 * sum(sizes.values()) + 12
    assert chosen == held_out(dict(reversed(sizes.items())), 0.1) < held_out(sizes, 0.3)
    assert held_out(sizes, 0) == set() and held_out(sizes, 1) == set(sizes)
