from __future__ import annotations

import re

from shared_moe_conformer.reporting.style import COLOURS, DRAWING, NUM_COLOURS


def test_every_colour_that_is_used_has_a_light_and_a_dark_value() -> None:
    light, dark = COLOURS.split("@media")
    for name in {*re.findall(r"var\((--\w+)\)", DRAWING), *(f"--c{n}" for n in range(NUM_COLOURS))}:
        assert f"{name}: #" in light and f"{name}: #" in dark
