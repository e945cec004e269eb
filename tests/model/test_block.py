from __future__ import annotations

from typing import Any

import pytest
import torch

from shared_moe_conformer.model.block import ConformerBlock, IndividualParts, Norms, Routers


@pytest.mark.parametrize(("experts_in", "num_routers"), [("none", 0), ("first", 1), ("second", 1), ("both", 2)])
def test_each_expert_feed_forward_tells_its_routing(encoder_config: Any, experts_in: str, num_routers: int) -> None:
    config = encoder_config(experts_in=experts_in)
    block, individual = ConformerBlock(config), IndividualParts(Norms(config), Routers(config))
    x = torch.randn(2, 9, 16)
    y, routing = block(x, torch.zeros(2, 9, dtype=torch.bool), individual)
    assert y.shape == x.shape
    assert len(routing) == num_routers


def test_a_shared_block_acts_differently_with_other_individual_parts(encoder_config: Any) -> None:
    config = encoder_config()
    block, norms, routers = ConformerBlock(config).eval(), Norms(config).eval(), Routers(config)
    x, no_padding = torch.randn(2, 9, 16), torch.zeros(2, 9, dtype=torch.bool)
    y, _ = block(x, no_padding, IndividualParts(norms, routers))
    other_router, _ = block(x, no_padding, IndividualParts(norms, Routers(config)))
    norms.attention.weight.data *= 2
    other_norm, _ = block(x, no_padding, IndividualParts(norms, routers))
    assert not torch.allclose(other_router, y)
    assert not torch.allclose(other_norm, y)


def test_the_block_owns_neither_norms_nor_routers(encoder_config: Any) -> None:
    names = ConformerBlock(encoder_config(experts_in="both")).state_dict()
    assert not [name for name in names if "norm" in name or "router" in name]
