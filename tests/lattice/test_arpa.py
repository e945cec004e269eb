from __future__ import annotations

from pathlib import Path

import pytest

from shared_moe_conformer.lattice.arpa import NgramModel

MODEL = NgramModel(
    order=2,
    log_probs={("A",): -1.0, ("B",): -2.0, ("</s>",): -1.5, ("<s>", "A"): -0.25, ("A", "B"): -0.5},
    backoffs={("<s>",): -0.75, ("A",): -3.0},
)


def test_save_and_load(tmp_path: Path) -> None:
    MODEL.save(tmp_path / "G.arpa")
    loaded = NgramModel.load(tmp_path / "G.arpa")
    assert loaded.order == 2 and loaded.words == ["A", "B"]
    assert loaded.log_probs == pytest.approx(MODEL.log_probs, abs=1e-6)
    assert loaded.backoffs == pytest.approx(MODEL.backoffs, abs=1e-6)


def test_missing_damaged_and_empty_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "G.arpa"
    with pytest.raises(FileNotFoundError, match="prepare.sh"):
        NgramModel.load(path)
    path.write_text("no model\n")
    with pytest.raises(ValueError, match="is no ARPA file"):
        NgramModel.load(path)
    path.write_text("\\data\\\nngram 1=2\n\n\\1-grams:\n-99\t<s>\n-1\t</s>\n\n\\end\\\n")
    with pytest.raises(ValueError, match="knows no word"):
        NgramModel.load(path)
