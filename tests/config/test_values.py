from __future__ import annotations

from typing import Literal

import pytest

from shared_moe_conformer.config import require, require_choice


def test_what_does_not_hold_is_a_user_s_mistake() -> None:
    require(True, "never said")
    with pytest.raises(ValueError, match="give one"):
        require(False, "give one")


def test_a_choice_is_one_of_its_literal() -> None:
    require_choice("colour", "red", Literal["red", "blue"])
    with pytest.raises(ValueError, match="colour is 'green': give one of red, blue"):
        require_choice("colour", "green", Literal["red", "blue"])
