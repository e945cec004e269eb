from __future__ import annotations

from typing import Any

import pytest
import torch

from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import Encoder
from shared_moe_conformer.params import count_parameters

X, X_LENS = torch.randn(3, 60, 20, generator=torch.Generator().manual_seed(1)), torch.tensor([60, 48, 31])


def encoder_of(config: Any) -> Encoder:
    torch.manual_seed(3)
    return Encoder(config, num_mel_bins=20)


def test_a_pattern_of_runs_is_groups(encoder_config: Any) -> None:
    groups = encoder_of(encoder_config(group_sizes=(3, 1), experts_in="both"))
    pattern = encoder_of(encoder_config(group_sizes=(4,), pattern="AAAB", experts_in="both"))
    assert list(groups.state_dict()) == list(pattern.state_dict())
    pattern.load_state_dict(groups.state_dict())
    ours, theirs = pattern(X, X_LENS), groups(X, X_LENS)
    assert torch.equal(ours.encoder_out, theirs.encoder_out)
    assert all(map(torch.equal, pattern.router_losses(ours.routing), groups.router_losses(theirs.routing)))


def test_blocks_used_in_turn_are_layers_with_their_weights(encoder_config: Any) -> None:
    turns = encoder_of(encoder_config(group_sizes=(4,), pattern="ABAB", experts_in="none")).eval()
    alone = encoder_of(encoder_config(group_sizes=(1, 1, 1, 1), experts_in="none")).eval()
    outside = {name: value for name, value in turns.state_dict().items() if not name.startswith("groups.")}
    alone.load_state_dict(alone.state_dict() | outside)
    for ours, theirs, block in zip(turns.layers(), alone.layers(), [0, 1, 0, 1]):
        theirs.group.block.load_state_dict(turns.block_groups()[block].block.state_dict())
        theirs.individual().norms.load_state_dict(ours.individual().norms.state_dict())
    torch.testing.assert_close(turns(X, X_LENS).encoder_out, alone(X, X_LENS).encoder_out)


def test_attention_can_follow_a_pattern_of_its_own(encoder_config: Any) -> None:
    same = encoder_of(encoder_config(group_sizes=(4,), pattern="AABB", mixing_pattern="AABB"))
    plain = encoder_of(encoder_config(group_sizes=(2, 2)))
    state = {
        name.replace(f"groups.{n}.block.{part}", f"mixers.{n}.{part}") if part in name else name: value
        for name, value in plain.state_dict().items()
        for n in [name.split(".")[1]]
        for part in ["attention" if ".block.attention" in name else "convolution"]
    }
    same.load_state_dict({name.replace(".block.mixers", ".mixers"): value for name, value in state.items()})
    assert torch.equal(same(X, X_LENS).encoder_out, plain(X, X_LENS).encoder_out)
    own = encoder_of(encoder_config(group_sizes=(4,), mixing_pattern="ABCD"))
    assert len(own.mixers) == 4 and len(own.groups) == 1 and not hasattr(own.groups[0].block, "attention")
    own(X, X_LENS).encoder_out.square().sum().backward()
    assert all(p.grad is not None for p in own.mixers.parameters())


def test_routers_of_interleaved_blocks_stand_in_the_order_of_depth(encoder_config: Any) -> None:
    """ABBAB: to sort the rows by group is no exchange of pairs, so that the way back is another way."""
    options = {"group_sizes": (5,), "pattern": "ABBAB", "experts_in": "second", "num_experts": 2}
    encoder = encoder_of(encoder_config(**options, balancing_bias_rate=1.0))
    first, second = (group.routers for group in encoder.block_groups())
    in_order = [first[0], second[0], second[1], first[1], second[2]]
    assert encoder.routers() == [routers.feed_forward2 for routers in in_order]
    rows = [[4.0, 0.0], [0.0, 3.0], [2.0, 0.0], [0.0, 1.0], [0.0, 5.0]]
    assert encoder.balance_experts(torch.tensor(rows)).tolist() == rows
    expected = [[-1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, -1.0]]
    assert [router.balancing_bias.tolist() for router in encoder.routers()] == expected
    routing = encoder(X, X_LENS).routing
    assert routing is not None
    frames = [row.bincount(minlength=2).tolist() for row in routing.expert_ids.flatten(1)]
    assert encoder.router_losses(routing).frames_per_expert.tolist() == frames


def test_only_the_named_blocks_carry_experts_and_each_has_its_size(encoder_config: Any) -> None:
    config = encoder_config(
        group_sizes=(4,), pattern="ABBA", expert_blocks="B", block_feed_forward_dims=(40, 24), num_experts=2
    )
    encoder = encoder_of(config)
    assert config.expert_layers == (1, 2) and len(encoder.routers()) == 2
    first, second = encoder.block_groups()
    assert first.block.feed_forward2.hidden.weight.shape == (40, 16)
    assert second.block.feed_forward2.experts.hidden_weight.shape == (2, 16, 24)
    out = encoder(X, X_LENS)
    assert out.routing is not None and out.routing.expert_ids.shape[0] == 2
    assert encoder.router_losses(out.routing).load_balancing_loss.shape == (2,)


@pytest.mark.parametrize(
    "options",
    [
        {"group_sizes": (4,), "pattern": "ABBA", "expert_blocks": "B"},
        {"group_sizes": (4,), "pattern": "ABAB", "mixing_pattern": "ABCA", "experts_in": "none"},
        {"group_sizes": (2, 2), "block_feed_forward_dims": (24, 40)},
        {"group_sizes": (4,), "merged_sets": 2, "mixing_pattern": "AABB"},
    ],
)
def test_counts_are_what_is_stored_and_what_the_unshared_model_stores(model_config: Any, options: Any) -> None:
    config = model_config(**options)
    counts = count_parameters(config, num_mel_bins=20)["encoder"]
    assert counts.unique == sum(p.numel() for p in AsrModel(config, num_mel_bins=20).encoder.parameters())
    alone = encoder_of(config.encoder.unshared())
    if config.encoder.merged_sets == 1:
        assert counts.unrolled == sum(p.numel() for p in alone.parameters())
    else:
        assert counts.active < counts.unrolled
