from __future__ import annotations

from pathlib import Path

import pytest

from shared_moe_conformer.data.kaldi import read_kaldi

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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wav.scp": "r1 sph2pipe -f wav x.sph |\nr2 b.wav\n"}, "wav.scp line 1: a command, not a file"),
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
