"""float16 and int8 on real speech, with the model that `make run` trains."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

for package in ("onnx", "onnxruntime", "sherpa_onnx"):
    pytest.importorskip(package)

from shared_moe_conformer.bundle import Bundle  # noqa: E402
from shared_moe_conformer.onnx_compare import compare_precisions, write_test_set  # noqa: E402
from shared_moe_conformer.onnx_export import export_onnx  # noqa: E402

ROOT = Path(os.environ.get("TRAINED_CLONE") or Path(__file__).resolve().parents[2])
"""A clone in which `make run` has been run."""
MODEL, RECIPE = ROOT / "zoo/asterisk-en-base", ROOT / "egs/asterisk/ASR"


@pytest.mark.slow
@pytest.mark.skipif(
    not (MODEL.is_dir() and (RECIPE / "data/fbank").is_dir()),
    reason="no trained model here: make run trains one; or give such a clone as TRAINED_CLONE",
)
def test_smaller_files_recognise_the_whole_test_set_as_well(tmp_path: Path) -> None:
    export_onnx(MODEL, tmp_path / "onnx")
    bundle = Bundle.load(MODEL)
    (tmp_path / "wavs").mkdir()
    utterances = write_test_set(RECIPE, "test", tmp_path / "wavs", bundle=bundle)
    assert len(utterances) == 52
    rows = compare_precisions(bundle, tmp_path / "onnx", utterances, rounds=1)
    rates = {(row.kind, row.precision): row.word_error_rate for row in rows}
    for (kind, precision), rate in rates.items():
        assert abs(rate - rates[kind, "float32"]) <= 0.5, (kind, precision)
    assert all(row.equal == 1.0 for row in rows if row.precision == "float32")
    sizes = {(row.kind, row.precision): row.megabytes for row in rows}
    assert sizes["ctc", "int8"] < 0.4 * sizes["ctc", "float32"]
