from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from shared_moe_conformer.speech.audio import write_wav
from shared_moe_conformer.speech.files import Input, find_audio, inputs_of, place_of, seekable
from shared_moe_conformer.speech.recognition import Channel


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_folders_and_patterns_are_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = tmp_path / "calls"
    touch(calls, "b.wav", "a [1].WAV", "deep/er/c.flac", "notes.txt", "._b.wav", ".Trash/d.wav")
    names = [str(calls / name) for name in ("a [1].WAV", "b.wav", "deep/er/c.flac")]
    assert list(find_audio([str(calls)])) == names
    assert f"left out 1 file of {calls}, not named like audio: notes.txt" in capsys.readouterr().err
    assert list(find_audio([f"{calls}/**/*.flac", f"{calls}/?.wav", names[0]])) == [names[2], names[1], names[0]]
    assert list(find_audio(["-", "missing.wav"])) == ["-", "missing.wav"]


def test_links_that_lead_nowhere_or_to_folders_are_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "calls/a.wav", "more/b.wav")
    (tmp_path / "calls/gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "calls/more").symlink_to(tmp_path / "more")
    calls = str(tmp_path / "calls")
    assert list(find_audio([calls])) == [f"{calls}/a.wav", f"{calls}/gone.wav"]
    assert f"left out 1 link of {calls}, to folders, which are not followed: more" in capsys.readouterr().err
    assert f"{calls}/more/b.wav" in list(find_audio([f"{calls}/**/*.wav"]))


def test_what_is_left_out_is_told_in_one_line_also_pipes_and_names_with_line_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, "a.wav", "new\nline.txt", "red\x1b[31m.txt")
    os.mkfifo(tmp_path / "fifo.wav")
    assert list(find_audio([str(tmp_path)])) == [f"{tmp_path}/a.wav"]
    assert capsys.readouterr().err.splitlines() == [
        f"left out 2 files of {tmp_path}, not named like audio: new line.txt, red?[31m.txt",
        f"left out 1 pipe of {tmp_path}, which are read only where they are named: fifo.wav",
    ]


def test_a_file_has_an_input_for_each_channel_that_is_asked_for(tmp_path: Path) -> None:
    path = str(tmp_path / "call.wav")
    write_wav(Path(path), np.zeros(100), sampling_rate=16000)
    assert inputs_of(path, None, name="a/call.wav") == [Input("a/call.wav", path)]
    assert inputs_of(path, 1, name="a/call.wav") == [Input("a/call-1.wav", Channel(path, 1))]
    assert inputs_of(path, "each", name="a/call.wav") == [Input("a/call-0.wav", Channel(path, 0))]
    assert inputs_of("missing.wav", "each", name="b.wav") == [Input("b.wav", "missing.wav")], "no name of a channel"


def test_a_transcript_lies_below_the_output_as_its_recording_in_the_named_folder(tmp_path: Path) -> None:
    touch(tmp_path, "calls/monday/a.wav", "b.wav")
    name = str(tmp_path / "calls/monday/a.wav")
    assert place_of(name, [str(tmp_path / "calls")]) == Path("monday/a.wav")
    assert place_of(name, [f"{tmp_path}/*/monday/*.wav"]) == Path("calls/monday/a.wav")
    assert place_of(name, [name, str(tmp_path / "b.wav")]) == Path("a.wav")


def test_a_pipe_is_copied_and_a_file_is_not(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    assert seekable(str(tmp_path / "a.wav"), tmp_path / "copy") == str(tmp_path / "a.wav")
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(b"samples"))
    writer.start()
    assert seekable(str(tmp_path / "pipe"), tmp_path / "copy") == str(tmp_path / "copy")
    writer.join()
    assert (tmp_path / "copy").read_bytes() == b"samples"
