from __future__ import annotations

from pathlib import Path

import pytest

from shared_moe_conformer.data.saved_units import refuse_other_units, save_units, saved_units

PIECES = ["<blk>", "\u2581A", "\u2028", "B"]


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    assert saved_units(tmp_path) is None
    save_units(tmp_path, PIECES)
    assert saved_units(tmp_path) == PIECES and [path.name for path in tmp_path.iterdir()] == ["tokens.txt"]


def test_other_units_are_refused_and_the_first_named(tmp_path: Path) -> None:
    refuse_other_units(tmp_path, PIECES)
    save_units(tmp_path, PIECES)
    refuse_other_units(tmp_path, PIECES)
    with pytest.raises(ValueError, match="other units .*: unit 3 was 'B' and is 'C'; prepare .* or train anew"):
        refuse_other_units(tmp_path, [*PIECES[:3], "C"])
    with pytest.raises(ValueError, match="unit 4 was None and is 'C'"):
        refuse_other_units(tmp_path, [*PIECES, "C"])
