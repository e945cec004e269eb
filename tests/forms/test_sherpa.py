from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sherpa_onnx")

from shared_moe_conformer.forms.sherpa import recognise  # noqa: E402
from shared_moe_conformer.speech.audio import write_wav  # noqa: E402


def test_a_model_that_it_dislikes_ends_no_more_than_its_process(tmp_path: Path) -> None:
    (tmp_path / "ctc.onnx").write_bytes(b"no graph")
    (tmp_path / "tokens.txt").write_text("<blk> 0\n")
    write_wav(tmp_path / "a.wav", np.zeros(16000), sampling_rate=16000)
    with pytest.raises(ValueError, match="sherpa-onnx ended with status") as caught:
        recognise({"ctc": {"ctc": "ctc.onnx"}}, [tmp_path / "a.wav"], folder=tmp_path, sampling_rate=16000)
    assert "\n" not in str(caught.value)
