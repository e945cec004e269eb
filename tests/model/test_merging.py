from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from shared_moe_conformer.config import BLOCK_PARTS
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import Encoder
from shared_moe_conformer.model.merging import DepthGates, Merged
from shared_moe_conformer.params import count_parameters
from shared_moe_conformer.training.initialise import part_state
from shared_moe_conformer.training.precision import compilable_parts

X, X_LENS = torch.randn(3, 60, 20, generator=torch.Generator().manual_seed(1)), torch.tensor([60, 48, 31])
MERGED = {"experts_in": "none", "group_sizes": (4,), "merged_sets": 3}


def test_merged_weights_compute_what_a_part_with_their_mean_computes() -> None:
    merged = Merged(nn.Linear(3, 2) for _ in range(2))
    gates, x = torch.tensor([0.25, 0.75]), torch.randn(4, 3)
    plain = nn.Linear(3, 2)
    first, second = merged.sets
    plain.weight.data = 0.25 * first.weight.data + 0.75 * second.weight.data  # type: ignore[operator]
    plain.bias.data = 0.25 * first.bias.data + 0.75 * second.bias.data  # type: ignore[operator]
    torch.testing.assert_close(merged(gates, x), plain(x))


@pytest.mark.parametrize("kind", ["table", "network"])
@pytest.mark.parametrize("parts", [BLOCK_PARTS, ("feed_forward2",), ("attention", "convolution")])
def test_an_encoder_of_merged_weights_is_one_whose_layers_have_the_means(
    encoder_config: Any, kind: str, parts: tuple[str, ...]
) -> None:
    config = encoder_config(**MERGED, merged_parts=parts, merge_gates=kind)
    merged = Encoder(config, num_mel_bins=20).eval()
    for name, parameter in merged.named_parameters():
        if ".gates." in name:
            nn.init.normal_(parameter)
    dense = Encoder(config.unshared(), num_mel_bins=20).eval()
    outside = {name: value for name, value in merged.state_dict().items() if not name.startswith("groups.")}
    dense.load_state_dict(dense.state_dict() | outside)
    for ours, theirs in zip(merged.layers(), dense.layers()):
        theirs.individual().norms.load_state_dict(ours.individual().norms.state_dict())
        for name in BLOCK_PARTS:
            theirs.part(name).load_state_dict(part_state(ours, name))
    out = merged(X, X_LENS).encoder_out
    torch.testing.assert_close(out, dense(X, X_LENS).encoder_out, rtol=1e-4, atol=1e-5)


def test_equal_sets_are_plain_sharing(encoder_config: Any) -> None:
    merged = Encoder(encoder_config(**MERGED), num_mel_bins=20).eval()
    shared = Encoder(encoder_config(experts_in="none", group_sizes=(4,)), num_mel_bins=20).eval()
    state = shared.state_dict()
    merged.load_state_dict({name: state.get(plain_name(name), value) for name, value in merged.state_dict().items()})
    assert len(state) < len(merged.state_dict())
    torch.testing.assert_close(merged(X, X_LENS).encoder_out, shared(X, X_LENS).encoder_out, rtol=1e-4, atol=1e-5)


def plain_name(name: str) -> str:
    """Of a set's weight: what it is called where there is one set."""
    before, _, after = name.partition(".sets.")
    return f"{before}.{after[2:]}" if after else name


@pytest.mark.parametrize("options", [{}, {"mixing_pattern": "AABB"}, {"merged_parts": ("feed_forward1",)}])
def test_merging_once_changes_nothing_but_gradients_until_training_begins(
    encoder_config: Any, options: dict[str, Any]
) -> None:
    encoder = Encoder(encoder_config(**MERGED, **options), num_mel_bins=20).eval()
    expected, names = encoder(X, X_LENS).encoder_out, [*encoder.state_dict()]
    encoder.merge_once()
    calls: list[Any] = []
    for module in encoder.modules():
        if isinstance(module, Merged):
            module.register_forward_hook(lambda *call: calls.append(call))
    assert torch.equal(encoder(X, X_LENS).encoder_out, expected) and not calls
    assert [*encoder.state_dict()] == names
    encoder.train()
    encoder(X, X_LENS).encoder_out.sum().backward()
    assert calls and all(p.grad is not None for name, p in encoder.named_parameters() if ".sets." in name)


@pytest.mark.parametrize("change", ["load", "convert"])
def test_weights_that_are_loaded_or_converted_later_are_those_that_compute(encoder_config: Any, change: str) -> None:
    encoder, other = (Encoder(encoder_config(**MERGED), num_mel_bins=20).eval() for _ in range(2))
    encoder.merge_once()
    if change == "load":
        encoder.load_state_dict(other.state_dict())
        assert torch.equal(encoder(X, X_LENS).encoder_out, other(X, X_LENS).encoder_out)
    else:
        assert encoder.double()(X.double(), X_LENS).encoder_out.dtype == torch.float64


def test_sets_and_gates_learn(encoder_config: Any) -> None:
    encoder = Encoder(encoder_config(**MERGED), num_mel_bins=20)
    encoder(X, X_LENS).encoder_out.square().sum().backward()
    learners = {n: p for n, p in encoder.named_parameters() if ".sets." in n or (".gates." in n and p.dim() > 1)}
    weights = {name: p.grad for name, p in learners.items() if not name.endswith("bias")}
    assert any(".gates." in name for name in weights)
    assert all(grad is not None and grad.any() for grad in weights.values())


def test_a_table_begins_by_depth_and_a_network_with_equal_gates() -> None:
    table = gates_of(DepthGates(6, 2, 2, kind="table"))
    assert table.shape == (6, 2, 2) and table[0, 0, 0] > 0.8 and table[5, 1, 1] > 0.8
    assert (table[1:, :, 0] < table[:-1, :, 0]).all()
    torch.testing.assert_close(table.sum(-1), torch.ones(6, 2))
    torch.testing.assert_close(gates_of(DepthGates(6, 2, 4, kind="network")), torch.full((6, 2, 4), 0.25))


def test_a_network_gives_each_depth_gates_of_its_own() -> None:
    network = DepthGates(6, 2, 4, kind="network")
    nn.init.normal_(network.output.weight)
    assert len(gates_of(network).flatten(1).unique(dim=0)) == 6


@pytest.mark.parametrize("kind", ["table", "network"])
def test_gates_and_merged_weights_stay_in_float32_under_autocast(kind: Any) -> None:
    gates, merged = DepthGates(6, 2, 2, kind=kind), Merged(nn.Linear(3, 2) for _ in range(2))
    for parameter in gates.parameters():
        nn.init.normal_(parameter)
    expected = gates(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gates(4), expected)
        assert {weight.dtype for weight in merged.weights(gates(4)[0]).values()} == {torch.float32}


def gates_of(gates: DepthGates) -> torch.Tensor:
    """The gates of six layers, (6, P, E)."""
    return torch.stack([gates(layer) for layer in range(6)])


def test_active_counts_one_set_and_stored_all(model_config: Any) -> None:
    shared = count_parameters(model_config(experts_in="none", group_sizes=(4,)))["encoder"]
    merged = count_parameters(model_config(**MERGED))["encoder"]
    gates = 4 * len(BLOCK_PARTS) * 3
    assert merged.active == shared.active + gates
    block = count_parameters(model_config(experts_in="none", group_sizes=(2, 2)))["encoder"].unique - shared.unique
    assert merged.unique == shared.unique + 2 * block + gates


def test_sets_are_not_compiled_by_themselves(model_config: Any) -> None:
    """Each call computes with other weights than the module's own, and a compiled module would not."""
    parts = compilable_parts(AsrModel(model_config(**MERGED, merged_parts=("feed_forward1",))))
    assert len(parts) == 2  # attention and the second feed-forward
