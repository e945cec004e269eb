from __future__ import annotations

from shared_moe_conformer.config import Config, replace_fields
from shared_moe_conformer.sizes import named_sizes

BASE = replace_fields(Config(), {"group_sizes": (3, 2), "experts_in": "both", "num_experts": 4})


def test_the_sizes_differ_in_what_they_are_compared_for() -> None:
    sizes = named_sizes(BASE, small={"encoder_dim": 64})
    assert list(sizes) == ["full", "shared", "base", "merged", "streaming", "small"]
    assert sizes["base"] == BASE
    assert sizes["shared"] == replace_fields(BASE, {"experts_in": "none"})
    assert sizes["full"].model.encoder.group_sizes == (1, 1, 1, 1, 1)
    assert replace_fields(sizes["full"], {"group_sizes": (3, 2)}) == sizes["shared"]
    assert sizes["small"] == replace_fields(BASE, {"encoder_dim": 64})
