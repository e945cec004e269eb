from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

for package in ("onnx", "onnxruntime", "sherpa_onnx"):
    pytest.importorskip(package)

from shared_moe_conformer.bundle import Bundle  # noqa: E402
from shared_moe_conformer.onnx_compare import Row, compare_precisions, main, table, write_test_set  # noqa: E402
from shared_moe_conformer.onnx_export import export_onnx  # noqa: E402
from shared_moe_conformer.speech.audio import write_wav  # noqa: E402

Save = Callable[..., Path]


@pytest.fixture
def recipe(tmp_path: Path, tones: np.ndarray) -> Path:
    """A prepared recipe of three test cuts at 8 kHz."""
    folder = tmp_path / "recipe"
    (folder / "data" / "fbank").mkdir(parents=True)
    cuts = [make_cut(folder, f"cut{i}", part) for i, part in enumerate((tones, tones[::-1], tones[8000:]))]
    CutSet.from_cuts(cuts).to_file(folder / "data" / "fbank" / "cuts_test.jsonl.gz")
    return folder


def make_cut(folder: Path, name: str, samples: np.ndarray) -> MonoCut:
    write_wav(folder / f"{name}.wav", samples[::2], sampling_rate=8000)
    cut = Recording.from_file(folder / f"{name}.wav", recording_id=name).to_cut()
    cut.recording.sources[0].source = f"{name}.wav"
    cut.supervisions = [SupervisionSegment(name, name, start=0, duration=cut.duration, text="ONE TWO")]
    return cut


@pytest.mark.slow
def test_float32_is_the_model_and_the_others_are_near_it(
    saved: Save, recipe: Path, tmp_path: Path, tiny_bundle: Bundle
) -> None:
    export_onnx(saved(), tmp_path / "onnx")
    (tmp_path / "wavs").mkdir()
    utterances = write_test_set(recipe, "test", tmp_path / "wavs", bundle=tiny_bundle)
    assert [(u.name, u.text) for u in utterances] == [(f"cut{i}", "ONE TWO") for i in range(3)]
    rows = compare_precisions(tiny_bundle, tmp_path / "onnx", utterances, rounds=2)
    assert [(row.kind, row.precision) for row in rows] == [
        (kind, precision) for kind in ("transducer", "ctc") for precision in ("float32", "float16", "int8")
    ]
    for full, half, byte in (rows[:3], rows[3:]):
        assert (full.equal, full.difference) == (1.0, 0.0)
        assert half.megabytes < full.megabytes  # of so tiny a model int8 saves less than it writes
        assert half.difference > 0 and byte.difference > 0
        assert full.word_error_rate > 0 and full.seconds > 0


def test_times_are_told_as_ratios() -> None:
    rows = [Row("ctc", "float32", 4.0, 10.0, 1.0, 2.0, 0.0), Row("ctc", "int8", 1.0, 10.5, 0.5, 1.5, 0.25)]
    assert table(rows).splitlines()[2:] == [
        "| ctc | float32 | 4.00 | 10.00 | 100 % | 0 | 1.00 |",
        "| ctc | int8 | 1.00 | 10.50 | 50 % | 0.25 | 0.75 |",
    ]


def test_files_that_were_not_exported_are_missed(saved: Save, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved()
    with pytest.raises(SystemExit):
        main(["--model", str(folder), "--recipe-dir", str(recipe)])
    err = capsys.readouterr().err
    assert f"no encoder.onnx in {folder}-onnx: run" in err
    assert err.count("\n") == 1
