from __future__ import annotations

from pathlib import Path

import pytest

from shared_moe_conformer.data.utterances import Utterance, read_kaldi, read_table, read_tsv, with_ids, write_table


def tsv(folder: Path, text: str, *, encoding: str = "utf-8") -> Path:
    (folder / "clips.tsv").write_bytes(text.encode(encoding))
    return folder / "clips.tsv"


def test_columns_by_order(tmp_path: Path) -> None:
    lines = "a.wav\tONE TWO\r\n\nsub/b.ogg\t THREE \tanna\tdev\n"
    first, second = read_tsv(tsv(tmp_path, lines, encoding="utf-8-sig"))
    assert first == Utterance("", "a.wav", "ONE TWO", "", "", 0.0, 0.0, "clips.tsv line 1")
    assert second == Utterance("", "sub/b.ogg", "THREE", "anna", "dev", 0.0, 0.0, "clips.tsv line 3")


def test_columns_by_name(tmp_path: Path) -> None:
    (utterance,) = read_tsv(tsv(tmp_path, "split\ttext\tpath\ntest\tONE\ta.wav\n"))
    assert utterance[:5] == ("", "a.wav", "ONE", "", "test")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a.wav ONE\n", r"clips.tsv line 1: no tab between path and text: write path<TAB>text"),
        ("a.wav\tONE\nb.wav\t \n", r"line 2: no text: write what is said, or take the line out"),
        ("a.wav\tONE\tx\tvalid\n", r"line 1: the split is 'valid': write train, dev, test"),
        ("a.wav\tA\tx\tdev\t1\n", r"line 1: 5 columns: 4 are known, path, text, speaker, split"),
        ("\tONE\n", "line 1: no path"),
        ("a.wav\tA\nb.wav\tB\na.wav\tC\n", "line 3: the same recording as clips.tsv line 1: take one out"),
        ("\n" * 3, "clips.tsv has no lines"),
        ("bad\n" * 6, r"line 1: .*; .*line 2: .*; .*line 3: [^;]*; and 3 more"),
    ],
)
def test_lines_that_cannot_be_used_are_named(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_tsv(tsv(tmp_path, lines))
    assert "\n" not in str(error.value)


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="clips.tsv line 2 is not UTF-8"):
        read_tsv(tsv(tmp_path, "a.wav\tONE\nb.wav\tÉTÉ\n", encoding="latin-1"))
    with pytest.raises(FileNotFoundError, match="no file .*other.tsv"):
        read_tsv(tmp_path / "other.tsv")


KALDI = {
    "wav.scp": "r1 audio/one.wav\nr2 audio/two.wav\n",
    "text": "u1 ONE TWO\nu2 THREE\nu3 FOUR\n",
    "segments": "u1 r1 0.5 2.25\nu2 r1 2.25 3\nu3 r2 0 1\nu4 r2 1 2\n",
    "utt2spk": "u1 anna\nu2 anna\nu3 bob\n",
}


def kaldi(folder: Path, **changes: str | None) -> Path:
    for name, text in {**KALDI, **changes}.items():
        if text is not None:
            (folder / name).write_text(text)
    return folder


def test_a_kaldi_folder_with_segments(tmp_path: Path) -> None:
    utterances = read_kaldi(kaldi(tmp_path), split="dev")
    assert [u[:7] for u in utterances] == [
        ("u1", "audio/one.wav", "ONE TWO", "anna", "dev", 0.5, 1.75),
        ("u2", "audio/one.wav", "THREE", "anna", "dev", 2.25, 0.75),
        ("u3", "audio/two.wav", "FOUR", "bob", "dev", 0.0, 1.0),
    ], "u4 has no text"


def test_a_kaldi_folder_without(tmp_path: Path) -> None:
    (utterance,) = read_kaldi(kaldi(tmp_path, text="r2 FIVE\n", segments=None, utt2spk=None))
    assert utterance[:7] == ("r2", "audio/two.wav", "FIVE", "", "", 0.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wav.scp": "r1 sph2pipe -f wav x.sph |\nr2 b.wav\n"}, "wav.scp line 1: a command, not a file"),
        ({"text": "u1 ONE\nu9 TWO\n"}, "text line 2: no usable line in segments and wav.scp for u9"),
        ({"segments": "u1 r1 3 2\nu2 r1 2 3\nu3 r2 0 1\n"}, "text line 1: no usable line in segments"),
        ({"segments": "u1 r1 0\nu2 r1 2 3\nu3 r2 0 1\n"}, "text line 1: no usable line"),
        ({"text": "u1\n"}, "text line 1: no text"),
        ({"text": "u1 A\nu1 B\n"}, "text line 2: u1 has a line already, text line 1"),
    ],
)
def test_kaldi_lines_that_cannot_be_used_are_named(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_kaldi(kaldi(tmp_path, **changes))


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
    assert [u[:-1] for u in read_table(tmp_path / "t.tsv")] == [u[:-1] for u in sorted(utterances)]
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
