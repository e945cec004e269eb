from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.forms.icefall import write_icefall

Save = Callable[..., Path]


def test_icefalls_layout_holds_the_model_and_its_units(saved: Save, tiny_bundle: Bundle, tmp_path: Path) -> None:
    write_icefall(saved(), tmp_path / "icefall")
    state = torch.load(tmp_path / "icefall" / "exp" / "pretrained.pt", map_location="cpu")["model"]
    expected = tiny_bundle.model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert Tokenizer.load(tmp_path / "icefall" / "data" / "lang_bpe_40").pieces == tiny_bundle.tokenizer.pieces
    with pytest.raises(FileExistsError):
        write_icefall(tmp_path / "zoo" / "tiny", tmp_path / "icefall")
    write_icefall(tmp_path / "zoo" / "tiny", tmp_path / "icefall", overwrite=True)
