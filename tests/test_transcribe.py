from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from shared_moe_conformer import transcribe
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import replace_fields
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.release.manifest import TEST_WAV, ExampleRecording, expected_text
from shared_moe_conformer.release.zoo_index import add
from shared_moe_conformer.speech.audio import write_wav

Save = Callable[..., Path]
Output = pytest.CaptureFixture[str]


def main(arguments: list[str]) -> None:
    """Transcribe without a detector of speech, since the tiny model's recordings are tones."""
    transcribe.main(["--vad", "false", *arguments])


@pytest.fixture
def model(saved: Save) -> Path:
    folder = saved()
    add(folder)
    return folder


def test_default_shows_the_text_and_the_token_times(model: Path, capsys: Output) -> None:
    main(["--model", str(model), str(model / TEST_WAV)])
    first, *rest = capsys.readouterr().out.splitlines()
    transcript = Bundle.load(model).transcribe(model / TEST_WAV)
    assert first == f"{model / TEST_WAV}: {expected_text(model)}"
    assert "".join(rest[::2]).split() == transcript.tokens
    assert [time for line in rest[1::2] for time in line.split()] == [f"{time:.2f}" for time in transcript.times]


def test_text_alone_is_one_line_a_file(model: Path, capsys: Output) -> None:
    main(["--model", str(model), "--format", "text", *[str(model / TEST_WAV)] * 2])
    assert capsys.readouterr().out == f"{expected_text(model)}\n" * 2


def test_models_have_names_in_a_zoo(model: Path, capsys: Output) -> None:
    main(["--model", "tiny", "--zoo-dir", str(model.parent), "--format", "text", str(model / TEST_WAV)])
    assert capsys.readouterr().out == f"{expected_text(model)}\n"


def test_another_search_can_be_chosen(model: Path, capsys: Output) -> None:
    arguments = ["--model", str(model), "--format", "json", str(model / TEST_WAV)]
    main([*arguments, "--decoding-method", "modified_beam_search", "--beam-size", "7"])
    decoding = DecodingConfig(decoding_method="modified_beam_search", beam_size=7)
    expected = Bundle.load(model).transcribe(model / TEST_WAV, decoding=decoding)
    assert json.loads(capsys.readouterr().out)["times"] == expected.times
    assert expected.text != expected_text(model)


def test_tuned_values_are_used_and_said_and_a_flag_wins(saved: Save, capsys: Output) -> None:
    folder = saved(
        "tuned", decoding_options={"greedy_search": {"blank_penalty": -6.0}, "modified_beam_search": {"beam_size": 7}}
    )

    def transcribed(*flags: str) -> tuple[str, str]:
        main(["--model", str(folder), "--format", "text", str(folder / TEST_WAV), *flags])
        return tuple(capsys.readouterr())  # type: ignore[return-value]

    def expected(**options: Any) -> str:
        decoding = DecodingConfig(**options)
        return f"{Bundle.load(folder).transcribe(folder / TEST_WAV, decoding=decoding).text}\n"

    line = "with the model's tuned values: {}\n".format
    assert transcribed() == (expected(blank_penalty=-6.0), line("greedy_search blank-penalty -6"))
    assert transcribed("--blank-penalty", "0") == (expected(), "")
    beam = {"decoding_method": "modified_beam_search", "beam_size": 7}
    assert transcribed("--decoding-method", "modified_beam_search") == (
        expected(**beam),
        line("modified_beam_search beam-size 7"),
    )
    assert expected() != expected(blank_penalty=-6.0)


def test_a_model_of_several_depths_transcribes_with_fewer_layers(
    tiny_bundle: Bundle, lang_dir: Path, tones: np.ndarray, tmp_path: Path, capsys: Output
) -> None:
    config = replace_fields(tiny_bundle.config, {"experts_in": "none", "group_sizes": (4,), "depths": (2, 4)})
    elastic = dataclasses.replace(tiny_bundle, config=config, model=AsrModel(config.model).eval())
    elastic.save(tmp_path / "elastic", lang_dir=lang_dir, example=ExampleRecording(tones, 16000, "ONE"))
    shown = []
    for num_layers in (2, 4, 0):
        main(
            [
                "--model",
                str(tmp_path / "elastic"),
                "--num-layers",
                str(num_layers),
                "--format",
                "json",
                str(tmp_path / "elastic" / TEST_WAV),
            ]
        )
        shown.append(capsys.readouterr().out)
        elastic.model.encoder.use_layers(num_layers)
        tokens = elastic.transcribe(tmp_path / "elastic" / TEST_WAV).tokens
        assert json.loads(shown[-1])["tokens"] == tokens
    assert shown[0] != shown[1] == shown[2]


def test_hotwords_are_found_and_confidences_shown(model: Path, capsys: Output) -> None:
    arguments = ["--model", str(model), "--decoding-method", "modified_beam_search", str(model / TEST_WAV)]
    main([*arguments, "--format", "text"])
    assert "FOUR" not in capsys.readouterr().out
    hotwords = ["--hotwords", "FOUR,THANK YOU", "--hotwords-score", "60", "--beam-size", "8"]
    main([*arguments, "--format", "ctm", *hotwords])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert any("FOUR" in row[4] for row in rows)
    assert all(0 <= float(row[5]) <= 1 for row in rows)


def test_an_error_of_one_file_does_not_stop_the_others(
    model: Path, tmp_path: Path, tones: np.ndarray, capsys: Output
) -> None:
    bad, missing, short, good = (tmp_path / name for name in ("bad.wav", "missing.wav", "short.wav", "good.wav"))
    bad.write_text("not audio")
    write_wav(short, tones[:100], sampling_rate=16000)
    write_wav(good, tones, sampling_rate=16000)
    with pytest.raises(SystemExit) as exit_:
        main(["--model", str(model), "--format", "text", *map(str, (bad, short, missing, good))])
    out, err = capsys.readouterr()
    assert exit_.value.code == 1
    assert out == f"\n{expected_text(model)}\n"
    first, second, last = err.splitlines()
    assert str(bad) in first
    assert str(missing) in second
    assert last == f"error: 2 of 4 files failed: {bad}, {missing}"


def test_folders_and_the_standard_input_are_files(
    model: Path, tmp_path: Path, tones: np.ndarray, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    calls.mkdir()
    write_wav(calls / "b.wav", tones, sampling_rate=16000)
    with (model / TEST_WAV).open("rb") as file:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(file))
        main(["--model", str(model), "--format", "json", "-", str(calls), "-"])
    first, second, third = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["file"], second["file"]) == ("stdin", str(calls / "b.wav"))
    assert first == third
    assert first["text"] == second["text"] == expected_text(model)


def test_sub_folders_are_mirrored_in_the_folder_of_the_output(model: Path, tmp_path: Path, tones: np.ndarray) -> None:
    for name in ("calls/a.wav", "calls/monday/a.wav", "calls/monday/b.c.wav", "d.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_wav(tmp_path / name, tones[:4000], sampling_rate=16000)
    start, out = ["--model", str(model), "--format", "text", "--output-dir"], tmp_path / "out"
    main([*start, str(out), str(tmp_path / "calls"), str(tmp_path / "d.wav")])
    found = {str(path.relative_to(out)) for path in out.rglob("*.txt")}
    assert found == {"a.txt", "monday/a.txt", "monday/b.c.txt", "d.txt"}
    main([*start, str(tmp_path / "each"), "--channel", "each", f"{tmp_path}/calls/*/a.wav"])
    assert (tmp_path / "each/monday/a-0.txt").is_file()
    shutil.copy(tmp_path / "d.wav", tmp_path / "calls/a.flac")
    main([*start, str(tmp_path / "alike"), "--channel", "each", str(tmp_path / "calls")])
    found = {str(path.relative_to(tmp_path / "alike")) for path in (tmp_path / "alike").rglob("*.txt")}
    assert found == {"a-0.wav.txt", "a-0.flac.txt", "monday/a-0.txt", "monday/b.c-0.txt"}


def test_a_named_pipe_is_read_once(model: Path, tmp_path: Path, capsys: Output) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes((model / TEST_WAV).read_bytes()))
    writer.start()
    main(["--model", str(model), "--format", "text", str(tmp_path / "pipe")])
    writer.join()
    assert capsys.readouterr().out == f"{expected_text(model)}\n"


def test_names_that_are_no_text_are_read_and_shown(model: Path, tmp_path: Path, capfdbinary: Any) -> None:
    (tmp_path / "calls").mkdir()
    name = os.fsdecode(os.fsencode(tmp_path) + b"/calls/caf\xe9.wav")
    shutil.copy(model / TEST_WAV, name)
    main(["--model", str(model), "--format", "json", name])
    main(["--model", str(model), "--format", "json", "--output-dir", str(tmp_path / "out"), str(tmp_path / "calls")])
    assert json.loads(capfdbinary.readouterr().out)["text"] == expected_text(model)
    (written,) = (tmp_path / "out").iterdir()
    assert json.loads(written.read_bytes())["text"] == expected_text(model)


def test_each_channel_has_a_transcript(model: Path, tmp_path: Path, tones: np.ndarray, capsys: Output) -> None:
    soundfile.write(tmp_path / "call.wav", np.stack([0 * tones, tones], axis=1), 16000)
    (tmp_path / "bad.wav").write_text("not audio")
    call, start = str(tmp_path / "call.wav"), ["--model", str(model), "--format", "json"]
    main([*start, "--channel", "each", call])
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert [Path(r["file"]).name for r in (first, second)] == ["call-0.wav", "call-1.wav"]
    assert second["text"] == expected_text(model)
    main([*start, "--channel", "1", call])
    assert json.loads(capsys.readouterr().out) == second
    for channel, name, message in (
        ("7", call, f"{call} has no channel 7: its channels are 0 to 1"),
        ("each", "bad.wav", "bad.wav\n"),
    ):
        with pytest.raises(SystemExit):
            main([*start, "--channel", channel, str(tmp_path / name)])
        assert message in capsys.readouterr().err


def test_an_error_of_the_standard_input_names_it(model: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"not audio" * 100)))
    with pytest.raises(SystemExit):
        main(["--model", str(model), "-"])
    assert capsys.readouterr().err.startswith("error: stdin cannot be read as audio")


def test_a_warning_about_a_pipe_names_it_and_its_suffix_counts(
    model: Path, tmp_path: Path, tones: np.ndarray, capsys: Output, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    write_wav(tmp_path / "a.wav", tones, sampling_rate=16000)
    half = (tmp_path / "a.wav").read_bytes()[:30_000]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(half)))
    os.mkfifo(tmp_path / "line.ulaw")
    writer = threading.Thread(target=(tmp_path / "line.ulaw").write_bytes, args=(bytes(range(256)) * 20,), daemon=True)
    writer.start()
    main(["--model", str(model), "-", str(tmp_path / "line.ulaw")])
    assert caplog.messages == ["stdin is cut off: it has 0.94 s, and its header says 2.00 s"]


def test_files_are_written_instead_of_printed(model: Path, tmp_path: Path, tones: np.ndarray, capsys: Output) -> None:
    write_wav(tmp_path / "a.wav", tones, sampling_rate=16000)
    files = [str(tmp_path / "a.wav"), str(model / TEST_WAV)]
    main(["--model", str(model), "--format", "srt", "--output-dir", str(tmp_path / "new" / "out"), *files])
    assert capsys.readouterr().out == ""
    assert {path.name for path in (tmp_path / "new" / "out").iterdir()} == {"a.srt", "test.srt"}
    assert (tmp_path / "new" / "out" / "a.srt").read_text().startswith("1\n00:00:00,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere/tiny"], "no released model in nowhere/tiny"),
        (["--model", "nobody", "--zoo-dir", "nowhere"], "the zoo nowhere has no model nobody"),
        (["--decoding-method", "nbest_rescoring"], "nbest_rescoring needs the scale of its language model: give one"),
        (["--decoding-method", "modified_beam_search_LODR"], "give --lm-type rnn or transformer"),
        (["--beam-size", "0"], "beam_size is 0"),
        (["--hotwords", "ONE"], "greedy_search has no --hotwords, which is an option of modified_beam_search, "),
        (
            ["--hotwords", "one", "--decoding-method", "modified_beam_search"],
            "the hotword 'one' has 'e', 'n', 'o', which no",
        ),
        (["--num-layers", "1"], "--num-layers: the model was trained only at its whole depth (--depths)"),
        (["--device", "abacus"], "--device abacus cannot be used here"),
        (["--format", "vtt", "other.wav"], "--format vtt holds one recording, and there are 2: give --output-dir"),
        (["--output-dir", "new", "other/test.wav"], "2 recordings are called test.wav, other/test.wav and "),
        (["--output-dir", __file__], "test_transcribe.py is a file: name a folder"),
        ([""], "an argument is empty: name a file or a folder"),
        (["nothing*.wav"], "no audio files in nothing*.wav"),
    ],
)
def test_a_wrong_call_is_one_line(model: Path, capsys: Output, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--model", str(model), *arguments, str(model / TEST_WAV)])
    out, err = capsys.readouterr()
    assert (exit_.value.code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("method", ["all", "nbest_oracle", "fast_beam_search_nbest_LG"])
def test_a_search_that_no_released_model_can_do_is_not_offered(method: str, capsys: Output) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--model", "tiny", "--decoding-method", method, "a.wav"])
    assert exit_.value.code == 2
    assert f"argument --decoding-method: invalid choice: '{method}'" in capsys.readouterr().err


def test_help_speaks_of_one_search(capsys: Output) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert not [word for word in ("all: ", "all}", ",all", "oracle", "--lm-order", "lang folder") if word in shown]
    assert "--beam-size" in shown


def test_a_changed_bundle_is_one_line(model: Path, capsys: Output) -> None:
    with (model / "tokens.txt").open("a") as file:
        file.write("x 40\n")
    with pytest.raises(SystemExit):
        main(["--model", str(model), str(model / TEST_WAV)])
    assert f"error: {model / 'tokens.txt'} is not the file that was released" in capsys.readouterr().err


def test_runs_as_a_module(model: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "shared_moe_conformer.transcribe",
        "--model",
        model.name,
        "--zoo-dir",
        model.parent,
        "--vad",
        "false",
    ]
    result = subprocess.run([str(part) for part in [*command, model / TEST_WAV]], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert expected_text(model) in result.stdout
