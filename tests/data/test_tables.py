from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.data.marks import marks_in, without_marks
from shared_moe_conformer.data.normalisation import normalise
from shared_moe_conformer.data.tables import read_kaldi, read_tsv
from shared_moe_conformer.data.utterances import Utterance, read_table, with_ids, write_table


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


def test_a_spreadsheet_puts_a_cell_with_tabs_in_quotes(tmp_path: Path) -> None:
    lines = 'path\ttext\tspeaker\na.wav\t"ONE\tTWO"\nb.wav\t"A ""B"" \t C"\tbob\nc.wav\t"so he\t"anna"\n'
    found = [(u.text, u.speaker) for u in read_tsv(tsv(tmp_path, lines))]
    assert found == [("ONE TWO", ""), ('A "B" C', "bob"), ('"so he', "anna")]


def test_a_spreadsheets_delimiter_and_speechbrains_columns(tmp_path: Path) -> None:
    assert read_tsv(tsv(tmp_path, "sep=;\r\npath;text\r\na.wav;ONE\r\n"))[0][:3] == ("", "a.wav", "ONE")
    assert read_tsv(tsv(tmp_path, "ID,duration,wav,spk_id,wrd\n7,1.5,a.wav,bob,ONE\n"))[0][:4] == (
        "7",
        "a.wav",
        "ONE",
        "bob",
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a.wav ONE\n", r"clips.tsv line 1: no tab between path and text: write path<TAB>text, or name the columns"),
        ("client_id\tpath\tlabel\nx\ta.wav\tONE\n", "line 1: no column of texts: call one text or sentence or"),
        ("path,text\na.wav\n", "line 2: no , between path and text"),
        ("a.wav\tONE\nb.wav\t \n", r"line 2: no text: write what is said, or take the line out"),
        ("a.wav\tONE\tx\tvalid\n", r"line 1: the split is 'valid': write train, dev, test"),
        ("a.wav\tA\tx\tdev\t1\n", r"line 1: 5 columns: 4 are known, path, text, speaker, split"),
        ("\tONE\n", "line 1: no path: name the audio file, as path or audio_filepath"),
        ("a.wav\tA\nb.wav\tB\na.wav\tC\n", "line 3: the same recording as clips.tsv line 1: take one out"),
        ("a.wav\tA\n./a.wav\tC\n", "line 2: the same recording as clips.tsv line 1: take one out"),
        ("path\ttext\ttext\na.wav\tA\tB\n", "line 1: two columns are called text: name one of them otherwise"),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\3\4\0\0", r"clips.tsv is a spreadsheet, or another zip file: save the sheet as CSV in UTF-8"),
        (b"\x1f\x8b\x08", r"clips.tsv is compressed: unpack it"),
        (b"RIFF\0\0\0\0WAVE", r"clips.tsv is audio, not text"),
        (b"RIFF RAFF", r"clips.tsv line 1: no tab between"),
        (
            b'File type = "ooTextFile"\n',
            r"clips.tsv is no table but a TextGrid of Praat: write a line for each segment",
        ),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n", r"clips.tsv is no table but XML, as ELAN writes it"),
        (b"1\n00:00:01,000 --> 00:00:02,000\nONE\n", r"clips.tsv is no table but subtitles"),
        (b"WEBVTT\n", r"clips.tsv is no table but subtitles"),
        (b"0.000000\t1.500000\tONE\n", r"clips.tsv is no table but labels of Audacity"),
    ],
)
def test_files_that_are_no_tables_are_called_what_they_are(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "clips.tsv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_tsv(tmp_path / "clips.tsv")
    assert "\n" not in str(error.value)
    with pytest.raises(IsADirectoryError, match="is a folder: name the file in it"):
        read_tsv(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_unicode_as_spreadsheets_save_it(tmp_path: Path, encoding: str) -> None:
    assert read_tsv(tsv(tmp_path, "path\ttext\na.wav\t\u00c9T\u00c9\n", encoding=encoding))[0].text == "\u00c9T\u00c9"


def test_columns_of_common_voice(tmp_path: Path) -> None:
    head = "client_id\tpath\tsentence_id\tsentence\tup_votes\tage\tsegment\n"
    first, second = read_tsv(tsv(tmp_path, head + 'anna\ta.mp3\t7f\tONE, "TWO"\t2\t\t\nbob\tb.mp3\t8a\tTHREE\t2\n'))
    assert first[:5] == ("", "a.mp3", 'ONE, "TWO"', "anna", "") and second[:4] == ("", "b.mp3", "THREE", "bob")


@pytest.mark.parametrize(("delimiter"), [",", ";"])
def test_columns_parted_by_commas_or_semicolons(tmp_path: Path, delimiter: str) -> None:
    lines = ["file_name,transcription,speaker_id", '"a.wav","ONE, ""TWO""",anna', "b.wav,THREE,", 'c.wav,"FOUR']
    path = tsv(tmp_path, "\n".join(line.replace(",", delimiter) for line in lines[:3]))
    first, second = read_tsv(path)
    assert first[:4] == ("", "a.wav", f'ONE{delimiter} "TWO"', "anna") and second[1:3] == ("b.wav", "THREE")
    path = tsv(tmp_path, "\n".join(line.replace(",", delimiter) for line in lines))
    with pytest.raises(ValueError, match="clips.tsv line 4: a cell in quotes begins .*: end it, or write quotes"):
        read_tsv(path)


@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
def test_a_cell_in_quotes_may_hold_line_ends(tmp_path: Path, delimiter: str) -> None:
    rows = (
        'path,text,speaker\r\na.wav,"ONE\n\nTWO ""THREE""\n",anna\r\nb.wav,FOUR,bob\r\nc.wav,"FIVE\n"\r\nd.wav,SIX,bob'
    )
    found = read_tsv(tsv(tmp_path, rows.replace(",", delimiter)))
    assert [(u.text, u.speaker, u.origin) for u in found] == [
        ('ONE TWO "THREE"', "anna", "clips.tsv line 2"),
        ("FOUR", "bob", "clips.tsv line 6"),
        ("FIVE", "", "clips.tsv line 7"),
        ("SIX", "bob", "clips.tsv line 9"),
    ]


def test_a_quote_that_does_not_end_is_named_by_the_line_where_it_begins(tmp_path: Path) -> None:
    for delimiter in "\t,;":
        rows = 'path,text\na.wav,A\nb.wav,"B\nc\nd.wav,D "x"\n'.replace(",", delimiter)
        with pytest.raises(ValueError, match="clips.tsv line 3: a cell in quotes begins") as error:
            read_tsv(tsv(tmp_path, rows))
        assert "\n" not in str(error.value)


def test_quotes_of_texts_in_neighbouring_lines_join_nothing(tmp_path: Path) -> None:
    found = read_tsv(tsv(tmp_path, 'a.wav\t"ONE she said\nb.wav\tTWO"\nc.wav\tTHREE\n'))
    assert [u.text for u in found] == ['"ONE she said', 'TWO"', "THREE"]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('"Hello, ""you"""', 'Hello, "you"'),
        ('"plain"', "plain"),
        ('"Yes" or "no"', '"Yes" or "no"'),
        ('He said ""', 'He said ""'),
        ('"half', '"half'),
        ('"', '"'),
    ],
)
def test_quotes_of_spreadsheets_are_taken_off(tmp_path: Path, cell: str, text: str) -> None:
    assert read_tsv(tsv(tmp_path, f"a.wav\t{cell}\n"))[0].text == text


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"audio_filepath": "a.wav", "duration": 2.5, "text": "ONE"}, ("", "a.wav", "ONE", "", "", 0.0, 2.5)),
        ({"audio_filepath": "a.wav", "offset": 1.5, "duration": 2, "text": "É\tX", "speaker": 7, "lang": None},
         ("", "a.wav", "É X", "7", "", 1.5, 2.0)),
        ({"audio": {"path": "a.wav", "bytes": None}, "text": "ONE"}, ("", "a.wav", "ONE", "", "", 0.0, 0.0)),
        ({"audio_filepath": "a.wav", "duration": None, "text": "ONE"}, ("", "a.wav", "ONE", "", "", 0.0, 0.0)),
        ({"key": "u1", "wav": "a.wav", "txt": "ONE"}, ("u1", "a.wav", "ONE", "", "", 0.0, 0.0)),
        ({"utt_id": "u1", "speech": "a.wav", "text": "ONE", "spk": "s"}, ("u1", "a.wav", "ONE", "s", "", 0.0, 0.0)),
    ],
)  # fmt: skip
def test_objects_of_json(tmp_path: Path, record: dict[str, object], expected: tuple[object, ...]) -> None:
    other = {**record, next(iter({"audio_filepath", "wav", "speech", "audio"} & set(record))): "b.wav"}
    (first, second) = read_tsv(tsv(tmp_path, f"{json.dumps(record)}\n\n{json.dumps(other)}\n"))
    assert first[:7] == expected and first.origin == "clips.tsv line 1"
    assert second.path == "b.wav" and second.origin == "clips.tsv line 3"
    assert read_tsv(tsv(tmp_path, json.dumps([record, other], indent=1)))[0][:7] == expected
    by_id = read_tsv(tsv(tmp_path, json.dumps({"x": record, "y": other})))
    assert by_id[0][1:7] == expected[1:] and by_id[1].origin == "clips.tsv entry y"
    assert [u.id for u in by_id] == ["x", "y"]
    assert read_tsv(tsv(tmp_path, json.dumps(record, indent=1)))[0][:7] == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"audio_filepath": "b.wav", "text": "B"', "line 2: no object of JSON (Expecting ',' delimiter"),
        ('{"audio_filepath": "b.wav", "text": null}', "line 2: no text: write what is said"),
        ('{"audio_filepath": "b.wav"}', "line 2: no text"),
        ('{"audio_filepath": ["b.wav", "c.wav"], "text": "B"}', "line 2: audio_filepath is ['b.wav', 'c.wav']: write"),
        ('{"audio_filepath": "b.wav", "text": 12}', "line 2: text is 12: write it in quotes"),
        ('{"audio_filepath": "b.wav", "text": "B", "duration": 0}', "line 2: it lasts 0 s"),
        ('{"audio_filepath": "b.wav", "text": "B", "offset": -1}', "line 2: it starts at -1 s, before its recording"),
        ('{"audio_filepath": "b.wav", "text": "B", "duration": NaN}', "line 2: the duration is 'nan'"),
        ('{"audio_filepath": "b.wav", "text": "\\ud800"}', "line 2: text has half a character"),
        ('{"audio_filepath": "b\\t.wav", "text": "B"}', "line 2: a path with a tab"),
        ('{"audio_filepath": "a.wav", "text": "B"}', "line 2: the same recording as clips.tsv line 1"),
        ("[1]", "line 2: no object of JSON: write"),
    ],
)
def test_objects_that_cannot_be_used_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        read_tsv(tsv(tmp_path, '{"audio_filepath": "a.wav", "text": "A"}\n' + line))
    assert str(error.value).startswith(f"clips.tsv {message}") and "\n" not in str(error.value)


def test_parts_of_recordings(tmp_path: Path) -> None:
    head = "path\ttext\tstart\tend\tchannel\n"
    found = read_tsv(tsv(tmp_path, head + "a.wav\tA\t0\t1.5\t\na.wav\tB\t1.5\t-1\t\na.wav\tC\t1.5\t2\t1\n"))
    assert [(u.start, u.duration, u.channel) for u in found] == [(0.0, 1.5, None), (1.5, 0.0, None), (1.5, 0.5, 1)]
    with pytest.raises(ValueError, match="line 3: the same recording as clips.tsv line 2"):
        read_tsv(tsv(tmp_path, head + "a.wav\tA\t1\t2\t\na.wav\tB\t1\t2\t\n"))
    with pytest.raises(ValueError, match="line 2: the channel is 'left'"):
        read_tsv(tsv(tmp_path, head + "a.wav\tA\t1\t2\tleft\n"))
    with pytest.raises(ValueError, match="no lines below its names"):
        read_tsv(tsv(tmp_path, head))


CELLS = (
    "\u0130I\u0131i ",
    "\u0645\u06cc\u200c\u062e ",
    '\u05e6\u05d4"\u05dc ',
    "l\u00b7l ",
    "\u0e01\u0e33 ",
    "gu\u0308\u00ad ",
    '"',
    '""',
    "a.wav",
    "b.wav",
    "path",
    "text",
    "sentence",
    "start",
    "end",
    "channel",
    "duration",
    "train",
    "<unk>",
)
SIGNS = (
    "(",
    ")",
    "*",
    "#",
    "/",
    "\t",
    ",",
    ";",
    "{",
    "[",
    "]",
    "}",
    ":",
    "\n",
    "\r",
    "\r\n",
    " ",
    "\0",
    "\u2028",
    "\ufeff",
    "\u00b2",
    "é",
)
NUMBERS = ("-1", "0.5", "nan", "1e999", "1" * 400)
LINES = (
    '{"audio_filepath":"a.wav","text":"X"}',
    '{"path":"c.wav","text":"Y","duration":1e400}',
    '{"k":{"wav":"d.wav","txt":"Z"}}',
    '"text":"\\ud83d"',
    "path\ttext\tstart\tend\tchannel\n",
    "a.wav\tHI\t",
)
PIECES = st.sampled_from(CELLS + SIGNS + NUMBERS + LINES)


CASES = int(os.environ.get("FUZZ_CASES", 300))


@settings(max_examples=CASES, deadline=None)
@given(st.lists(PIECES, max_size=14).map("".join), st.sampled_from(("upper", "lower")), st.sampled_from(("und", "tr")))
def test_any_text_is_read_or_refused_in_one_line(content: str, case: str, language: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            found = with_ids(utterance._replace(split="train") for utterance in read_tsv(tsv(folder, content)))
        except ValueError as error:
            assert "\n" not in str(error) and "clips.tsv" in str(error)
            return
        write_table(found, folder / "utterances.tsv")
        assert [u[:7] for u in read_table(folder / "utterances.tsv")] == sorted(u[:7] for u in found)
    for text in (without_marks(utterance.text) for utterance in found):
        normal = normalise(text, case, language=language)
        assert not marks_in(text) and normalise(normal, case, language=language) == normal


def test_lines_may_end_as_on_old_macs(tmp_path: Path) -> None:
    assert [u.text for u in read_tsv(tsv(tmp_path, "a.wav\tONE\rb.wav\tTWO\r"))] == ["ONE", "TWO"]


KALDI = {
    "wav.scp": "r1 audio/one.wav\nr2 audio/two.wav\n",
    "text": "u1 ONE TWO\nu2 THREE\nu3 FOUR\n",
    "segments": "u1 r1 0.5 2.25\nu2 r1 2.25 3\nu3 r2 0 1\n",
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
    ]


def test_a_kaldi_folder_without(tmp_path: Path) -> None:
    _, utterance = read_kaldi(kaldi(tmp_path, text="r1 FOUR\nr2 FIVE\n", segments=None, utt2spk=None))
    assert utterance[:7] == ("r2", "audio/two.wav", "FIVE", "", "", 0.0, 0.0)
    assert utterance.origin == f"{tmp_path.name}/text line 2 ({tmp_path.name}/wav.scp line 2)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wav.scp": "r1 sph2pipe -f wav x.sph |\nr2 b.wav\n"}, "wav.scp line 1: a command, not a file"),
        (
            {"wav.scp": "r1 raw/wav.ark:1234\nr2 b.wav\n"},
            r"wav.scp line 1: a part of a file \(raw/wav.ark:1234\), not a",
        ),
        ({"wav.scp": "r1 a.wav\nr2 b.wav[0:90]\n"}, r"wav.scp line 2: a part of a file \(b.wav\[0:90\]\), not a file"),
        ({"text": "u1 ONE\nu9 TWO\n"}, "text line 2: u9 has no line in segments"),
        ({"text": "u1 ONE\nu2 TWO\n"}, "segments line 3: u3 has no line in text: write one, or take this line out"),
        (
            {"segments": "u1 r1 3 2\nu2 r1 2 3\nu3 r2 0 1\n"},
            r"segments line 1: it ends \(2 s\) before it starts \(3 s\)",
        ),
        (
            {"segments": "u1 r1 0 2\nu2 r1 2\nu3 r2 0 1\n"},
            "segments line 2: 3 columns: write id, recording, start, end",
        ),
        ({"segments": "u1 r1 0 2\nu2 r9 2 3\nu3 r2 0 1\n"}, "segments line 2: r9 has no line in wav.scp"),
        ({"segments": "u1 r1 -0.2 2\nu2 r1 2 3\nu3 r2 0 1\n"}, "segments line 1: it starts at -0.2 s, before"),
        ({"segments": "u1 r1 0 2 A\nu2 r1 2 3\nu3 r2 0 1\n"}, "segments line 1: the channel is 'A': write 0, 1"),
        ({"segments": None, "text": "r1 X\nr2 Y\nr3 Z\n"}, "text line 3: r3 has no line in wav.scp"),
        ({"segments": None, "text": "r1 X\n"}, "wav.scp line 2: r2 has no line in text"),
        ({"text": "u1\n"}, "text line 1: no text"),
        ({"text": "u1 A\nu1 B\n"}, "text line 2: u1 has a line already, .*text line 1"),
    ],
)
def test_kaldi_lines_that_cannot_be_used_are_named(
    tmp_path: Path, changes: dict[str, str | None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_kaldi(kaldi(tmp_path, **changes))


def test_segments_to_the_end_and_of_channels(tmp_path: Path) -> None:
    segments = "u1 r1 0.5 -1\nu2 r1 2 3 1\nu3 r2 0.0 -1.0 0\n"
    found = read_kaldi(kaldi(tmp_path, segments=segments))
    assert [(u.start, u.duration, u.channel) for u in found] == [(0.5, 0.0, None), (2.0, 1.0, 1), (0.0, 0.0, 0)]
    assert found[1].origin == f"{tmp_path.name}/text line 2 ({tmp_path.name}/segments line 2)"


KALDI_PIECES = (
    "u1",
    "u2",
    "r1",
    "r2",
    "a.wav",
    "0",
    "0.5",
    "-1",
    "-1.0",
    "nan",
    "1e999",
    "A",
    "\u00b2",
    "|",
    "<unk>",
    "HI",
)


@settings(max_examples=CASES, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            name: st.none()
            | st.lists(st.sampled_from((*KALDI_PIECES, "\n", "\n", "\r\n", "\t")), max_size=14).map(" ".join)
            for name in KALDI
        }
    )
)
def test_any_kaldi_folder_is_read_or_refused_in_one_line(files: dict[str, str | None]) -> None:
    with tempfile.TemporaryDirectory() as name:
        try:
            found = read_kaldi(kaldi(Path(name), **files))
        except (ValueError, FileNotFoundError) as error:
            assert "\n" not in str(error) and any(file in str(error) for file in KALDI)
            return
    assert found and all(u.start >= 0 and u.duration >= 0 and u.text for u in found)
