from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared_moe_conformer.config import ModelConfig
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.frames import Frames
from shared_moe_conformer.model.merging import LowRankDelta
from shared_moe_conformer.training.initialise import approximate, initialise

UNITS = [(unit, unit) for unit in range(11)]
X, X_LENS = torch.randn(2, 60, 20, generator=torch.Generator().manual_seed(2)), torch.tensor([60, 33])
DENSE = {"group_sizes": (1, 1, 1, 1), "experts_in": "none"}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def trained(config: ModelConfig) -> AsrModel:
    """A model none of whose tensors is as at the beginning."""
    torch.manual_seed(7)
    model = AsrModel(config, num_mel_bins=20).eval()
    for value in model.state_dict().values():
        if value.is_floating_point():
            value += 0.1 * torch.randn_like(value).abs()
    return model


def begun(
    config: ModelConfig,
    old: AsrModel,
    *,
    noise: float = 0.0,
    rows: list[tuple[int, int]] = UNITS,
    modules: Sequence[str] = (),
) -> AsrModel:
    torch.manual_seed(8)
    model = AsrModel(config, num_mel_bins=20).eval()
    initialise(model, old, rows=rows, noise=noise, modules=modules)
    return model


def posteriors(model: AsrModel) -> Tensor:
    """Of valid frames, (M, V)."""
    encoder_out, lens, _ = model.encode(X, X_LENS)
    return Frames(lens, encoder_out.size(1), head_dim=2).pack(model.ctc_log_probs(encoder_out))


@pytest.mark.parametrize("options", [{}, DENSE, {"low_rank_delta": 2}, {"individual_norms": False}])
def test_the_same_layout_is_copied_bit_by_bit(model_config: Any, options: dict[str, Any]) -> None:
    old = trained(model_config(**options))
    new = begun(model_config(**options, dropout=0.3, balance_over="group"), old)
    assert all(torch.equal(value, new.state_dict()[name]) for name, value in old.state_dict().items())


@pytest.mark.parametrize("options", [{}, {"group_sizes": (1, 1, 1, 1)}])
def test_statistics_of_features_are_gathered_anew_if_only_one_model_has_one_loudness(
    model_config: Any, options: dict[str, Any]
) -> None:
    """Its features are louder or quieter than those that the statistics are of."""
    old = trained(model_config(loudness_norm=True))
    old.encoder.feature_norm.num_frames.fill_(100)
    for loudness_norm in (True, False):
        norm = begun(model_config(**options, loudness_norm=loudness_norm), old).encoder.feature_norm
        theirs = old.encoder.feature_norm
        assert norm.num_frames == (100 if loudness_norm else 0)
        assert torch.equal(norm.mean, theirs.mean if loudness_norm else torch.zeros(20))
        assert torch.equal(norm.variance, theirs.variance if loudness_norm else torch.ones(20))


def test_a_shared_model_unrolled_computes_the_same(model_config: Any) -> None:
    old = trained(model_config())
    new = begun(model_config(group_sizes=(1, 1, 1, 1)), old)
    torch.testing.assert_close(posteriors(new), posteriors(old), rtol=1e-4, atol=1e-4)


def test_layers_become_one_by_the_mean_of_their_weights_and_keep_their_norms(model_config: Any) -> None:
    old = trained(model_config(**DENSE))
    new = begun(model_config(group_sizes=(3, 1), experts_in="none"), old)
    layers, group = old.encoder.groups, new.encoder.groups[0]
    for name in ("attention.output.weight", "convolution.depthwise.bias", "feed_forward2.hidden.weight"):
        mean = torch.stack([layer.block.state_dict()[name] for layer in layers[:3]]).mean(0)
        torch.testing.assert_close(group.block.state_dict()[name], mean)
        assert torch.equal(new.encoder.groups[1].block.state_dict()[name], layers[3].block.state_dict()[name])
    for depth in range(3):
        norms = layers[depth].norms[0].state_dict()
        assert all(torch.equal(value, norms[name]) for name, value in group.norms[depth].state_dict().items())
        assert group.norms[depth].depthwise.running_var.ne(1).all()


def test_norms_of_a_whole_group_are_the_mean_too(model_config: Any) -> None:
    old = trained(model_config(**DENSE))
    new = begun(model_config(group_sizes=(4,), experts_in="none", individual_norms=False), old)
    mean = torch.stack([group.norms[0].final.weight for group in old.encoder.groups]).mean(0)
    torch.testing.assert_close(new.encoder.groups[0].norms[0].final.weight, mean)


def test_layers_of_groups_of_any_size_keep_their_statistics_in_shared_norms(model_config: Any) -> None:
    old = trained(model_config(group_sizes=(1, 3), individual_norms=False))
    new = begun(model_config(group_sizes=(4,), individual_norms=False), old)
    first, others = (group.norms[0].depthwise for group in old.encoder.groups)
    merged = new.encoder.groups[0].norms[0].depthwise
    assert torch.equal(merged.running_var, torch.cat([first.running_var[None], others.running_var]))
    torch.testing.assert_close(merged.weight, (first.weight + 3 * others.weight) / 4)


@pytest.mark.parametrize(
    "gates", [{"top_k": 1}, {"top_k": 2}, {"top_k": 2, "router_gates": "sigmoid", "gate_scale": 0.3}], ids=str
)
@pytest.mark.parametrize("experts_in", ["first", "both"])
def test_experts_without_noise_compute_what_the_dense_feed_forward_did(
    model_config: Any, gates: dict[str, Any], experts_in: str
) -> None:
    old = trained(model_config(**DENSE))
    config = model_config(group_sizes=(1, 1, 1, 1), experts_in=experts_in, **gates)
    torch.testing.assert_close(posteriors(begun(config, old)), posteriors(old), rtol=0.05, atol=0.05)
    noisy = begun(config, old, noise=0.2).encoder.groups[0].block.feed_forward1.experts.hidden_weight.detach()
    dense = old.encoder.groups[0].block.feed_forward1.hidden.weight.T
    assert 0.1 < float((noisy[0] - dense).std() / dense.std()) < 0.3 and not torch.equal(noisy[0], noisy[1])


def test_experts_that_there_are_stay_with_their_routers(model_config: Any) -> None:
    old = trained(model_config(group_sizes=(1, 1, 1, 1)))
    new = begun(model_config(group_sizes=(4,), balancing_bias_rate=0.1), old)
    routers = [router.linear.weight for router in new.encoder.routers()]
    assert all(torch.equal(a, b.linear.weight) for a, b in zip(routers, old.encoder.routers()))
    mean = torch.stack([group.block.feed_forward2.experts.hidden_weight for group in old.encoder.groups]).mean(0)
    torch.testing.assert_close(new.encoder.groups[0].block.feed_forward2.experts.hidden_weight, mean)


def test_layers_become_experts_unless_a_block_would_be_of_experts_and_dense_feed_forwards(model_config: Any) -> None:
    old = trained(model_config(group_sizes=(2, 2), expert_blocks="B"))
    new, theirs = (model.encoder.groups for model in (begun(model_config(group_sizes=(2, 2)), old), old))
    dense = theirs[0].block.feed_forward2.hidden.weight.T
    torch.testing.assert_close(new[0].block.feed_forward2.experts.hidden_weight[1], dense)
    experts = [groups[1].block.feed_forward2.experts.hidden_weight for groups in (new, theirs)]
    assert torch.equal(*experts)
    for blocks in ("A", "B"):
        with pytest.raises(ValueError, match="some of its second feed-forwards are experts and some dense"):
            begun(model_config(group_sizes=(4,)), trained(model_config(group_sizes=(2, 2), expert_blocks=blocks)))


def test_experts_that_are_no_copies_of_a_dense_feed_forward_are_refused(model_config: Any) -> None:
    with pytest.raises(ValueError, match="dense feed-forwards cannot become experts with expert_norm"):
        begun(model_config(expert_norm=True), trained(model_config(**DENSE, expert_norm=True)))
    with pytest.raises(ValueError, match="expert_dim 0 there, 5 here"):
        begun(model_config(expert_dim=5), trained(model_config(**DENSE)))


def test_deltas_of_full_rank_hold_all_that_the_mean_lacks(model_config: Any) -> None:
    """With equal convolutions and biases, which have no deltas, the shared model is then the unshared one."""
    old = trained(model_config(**DENSE))
    first = old.encoder.groups[0].block.state_dict()
    without = {name: value for name, value in first.items() if "convolution" in name or name.endswith("bias")}
    for group in old.encoder.groups:
        group.block.load_state_dict(group.block.state_dict() | without)
    shared = {"group_sizes": (4,), "experts_in": "none"}
    distances = [
        float((posteriors(begun(model_config(**shared, low_rank_delta=rank), old)) - posteriors(old)).norm())
        for rank in (0, 8, 16)
    ]
    assert distances[0] > distances[1] > 10 * distances[2] and distances[2] < 1e-2


def test_deltas_of_layers_that_were_one_can_still_learn(model_config: Any) -> None:
    new = begun(model_config(low_rank_delta=2), trained(model_config()))
    for name, value in new.named_parameters():
        assert ".deltas." not in name or bool(value.any()) == name.endswith("down")


def test_units_are_matched_by_their_rows_and_others_stay_new(model_config: Any) -> None:
    old = trained(model_config())
    config = dataclasses.replace(model_config(), vocab_size=9)
    torch.manual_seed(8)
    fresh = AsrModel(config, num_mel_bins=20)
    new = begun(config, old, rows=[(0, 0), (4, 10)])
    for layer in ("decoder.embedding.weight", "joiner.output.bias", "ctc_head.weight", "simple_lm.weight"):
        found, before, there = (model.state_dict()[layer] for model in (new, fresh, old))
        assert torch.equal(found[[0, 4]], there[[0, 10]]) and torch.equal(found[[1, 2, 3, 8]], before[[1, 2, 3, 8]])
    assert torch.equal(new.joiner.encoder_projection.weight, old.joiner.encoder_projection.weight)


def test_parts_that_are_not_named_stay_new(model_config: Any) -> None:
    old, config = trained(model_config()), model_config()
    torch.manual_seed(8)
    fresh = AsrModel(config, num_mel_bins=20).state_dict()
    for modules in (["encoder"], ["decoder", "ctc_head"]):
        new = begun(config, old, modules=modules).state_dict()
        for name, value in new.items():
            source = old.state_dict() if name.split(".")[0] in modules else fresh
            assert torch.equal(value, source[name]), name
    with pytest.raises(ValueError, match="--init-modules decodr: give some of encoder, decoder, joiner"):
        begun(config, old, modules=["decodr"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_dim": 32}, "encoder_dim 16 there, 32 here"),
        ({"group_sizes": (5,)}, "number of layers 4 there, 5 here"),
        ({"experts_in": "first"}, "second feed-forwards are experts, which cannot become dense"),
        ({"expert_blocks": "B"}, "second feed-forwards are experts, which cannot become dense"),
        ({"group_sizes": (4,), "num_experts": 3}, "has 4 experts, not 3"),
        ({"conv_norm": "layer_norm"}, "conv_norm batch_norm there, layer_norm here"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(model_config: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        begun(model_config(**options), trained(model_config()))
    with pytest.raises(ValueError, match="low-rank-delta can only begin one of the same layout"):
        begun(model_config(group_sizes=(4,)), trained(model_config(low_rank_delta=2)))


def test_every_parameter_begins_somewhere(model_config: Any) -> None:
    """No tensor of an upcycled model is left as its constructor made it, but routers and deltas."""
    torch.manual_seed(8)
    fresh = dict(AsrModel(model_config(group_sizes=(4,)), num_mel_bins=20).named_parameters())
    new: nn.Module = begun(model_config(group_sizes=(4,)), trained(model_config(**DENSE)))
    kept = [name for name, value in new.named_parameters() if torch.equal(value, fresh[name])]
    assert kept == []


def test_each_set_begins_as_the_mean_of_the_layers_that_use_it_most(model_config: Any) -> None:
    old = trained(model_config(**DENSE))
    new = begun(model_config(group_sizes=(4,), experts_in="none", merged_sets=2), old)
    sets = new.encoder.groups[0].block.attention.sets
    for one, layers in zip(sets, (old.encoder.groups[:2], old.encoder.groups[2:])):
        for name, value in one.state_dict().items():
            mean = torch.stack([layer.block.attention.state_dict()[name] for layer in layers]).mean(0)
            torch.testing.assert_close(value, mean)


def test_a_set_that_no_layer_uses_most_begins_as_the_mean_of_all(model_config: Any) -> None:
    old = trained(model_config(**DENSE))
    new = begun(model_config(group_sizes=(4,), experts_in="none", merged_sets=5), old)
    found = new.encoder.groups[0].block.attention.sets[2].output.weight
    mean = torch.stack([layer.block.attention.output.weight for layer in old.encoder.groups]).mean(0)
    torch.testing.assert_close(found, mean)


def test_merged_layers_unrolled_compute_the_same(model_config: Any) -> None:
    old = trained(model_config(group_sizes=(4,), experts_in="none", merged_sets=3))
    new = begun(model_config(**DENSE), old)
    torch.testing.assert_close(posteriors(new), posteriors(old), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"group_sizes": (4,), "pattern": "ABAB", "experts_in": "none"},
        {"group_sizes": (4,), "mixing_pattern": "ABBC", "experts_in": "none"},
    ],
)
def test_a_pattern_unrolled_computes_the_same(model_config: Any, options: dict[str, Any]) -> None:
    old = trained(model_config(**options))
    new = begun(model_config(**DENSE), old)
    torch.testing.assert_close(posteriors(new), posteriors(old), rtol=1e-4, atol=1e-4)
    again = begun(model_config(**options), new)
    torch.testing.assert_close(posteriors(again), posteriors(old), rtol=1e-4, atol=1e-4)


def test_a_delta_can_be_any_matrix_of_its_rank() -> None:
    delta, matrix = LowRankDelta(nn.Linear(6, 4), 2), torch.randn(4, 2) @ torch.randn(2, 6)
    approximate(delta, matrix)
    torch.testing.assert_close((delta.up @ delta.down), matrix, rtol=1e-4, atol=1e-5)


def test_the_nearest_matrix_of_low_rank_is_nearer_than_others() -> None:
    delta, matrix = LowRankDelta(nn.Linear(6, 4), 1), torch.randn(4, 6)
    approximate(delta, matrix)
    distance = ((delta.up @ delta.down) - matrix).norm()
    torch.testing.assert_close(distance, torch.linalg.svdvals(matrix)[1:].norm())


def test_a_rank_beyond_the_matrix_leaves_the_rest_at_nothing() -> None:
    delta, matrix = LowRankDelta(nn.Linear(3, 9), 5), torch.randn(9, 3)
    approximate(delta, matrix)
    torch.testing.assert_close((delta.up @ delta.down), matrix, rtol=1e-4, atol=1e-5)
