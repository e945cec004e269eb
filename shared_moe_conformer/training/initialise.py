"""First weights from a trained model, which has the same layout or shares less.

Source: Komatsuzaki et al. 2022, Sparse upcycling (arXiv 2212.05055), for dense feed-forwards that become experts; Bae
et al. 2024, Relaxed recursive transformers, section 2.3 (arXiv 2410.20672), for layers that become one by the mean of
their weights, with the nearest matrices of low rank to what the mean lacks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shared_moe_conformer.config import BLOCK_PARTS, EncoderConfig, ModelConfig, require
from shared_moe_conformer.model.asr_model import VOCAB_LAYERS, AsrModel
from shared_moe_conformer.model.conformer import ConformerBlock, Routers
from shared_moe_conformer.model.encoder import Encoder, Layer
from shared_moe_conformer.model.merging import Deltas, LowRankDelta, Merged
from shared_moe_conformer.model.moe import MoeFeedForward, choose_experts
from shared_moe_conformer.model.sharing import BlockGroup

MAY_DIFFER = (
    "group_sizes",
    "pattern",
    "mixing_pattern",
    "merged_sets",
    "merged_parts",
    "merge_gates",
    "expert_blocks",
    "experts_in",
    "num_experts",
    "top_k",
    "router_gates",
    "gate_scale",
    "individual_routers",
    "individual_norms",
    "router_jitter",
    "low_rank_delta",
    "balance_over",
    "balancing_bias_rate",
    "chunk_sizes",
    "left_contexts",
    "depths",
    "dropout",
    "loudness_norm",
)
"""Options in which an encoder may differ from the one whose weights it begins with; all others must be equal."""
LIKE_DENSE = ("expert_dim", "common_expert_dim", "expert_norm")
"""Options with which experts are not copies of a dense feed-forward."""
NEW_ROUTER_SCALE = 0.01
"""Routers of new experts begin near 0, so that the gates begin near 1/E."""


@torch.no_grad()
def initialise(
    model: AsrModel,
    trained: AsrModel,
    *,
    rows: Sequence[tuple[int, int]],
    noise: float,
    modules: Sequence[str] = (),
) -> None:
    """Copy a trained model into one that may share more of its weights, have experts, or other units.

    A group's block gets the mean of its layers' weights; each layer's own parts are copied, and deltas of low
    rank take what they can of the difference. A dense feed-forward becomes experts that are noisy copies of it.
    If only one of the two models brings utterances to one loudness, its normalisation of features starts afresh.

    Args:
      model: as its constructor leaves it.
      trained: of the same channels and depth.
      rows: (unit of the model, the same unit of the trained one); other units stay as they are.
      noise: standard deviation of the noise added to each new expert's weights, as a share of theirs.
      modules: names of the model's parts that are copied; others stay as they are. Empty: all.

    Raises:
      ValueError: the trained model does not fit, or the model has no part of a name.
    """
    refuse_misfit(model.config, trained.config)
    parts = [name for name, _ in model.named_children()]
    for name in modules:
        require(name in parts, f"--init-modules {name}: give some of {', '.join(parts)}")
    modules = modules or parts
    _copy_outside_groups(model, trained, rows, modules)
    if "encoder" not in modules:
        return
    if same_layout(model.config.encoder, trained.config.encoder):
        _load(model.encoder, trained.encoder.state_dict())
    else:
        _fill_groups(model, trained, noise)
    if model.config.encoder.loudness_norm != trained.config.encoder.loudness_norm:
        model.encoder.feature_norm.restart()


def _fill_groups(model: AsrModel, trained: AsrModel, noise: float) -> None:
    """Fill the layers of an encoder from one that shares its weights in another way."""
    layers = list(trained.encoder.layers())
    for name in BLOCK_PARTS:
        for part, depths in _users(model.encoder, name).items():
            sources = [layers[depth] for depth in depths]
            _fill_part(part, [part_state(layer, name) for layer in sources], noise)
    for group in model.encoder.block_groups():
        own = [layer for layer, ours in zip(layers, model.encoder.layers()) if ours.group is group]
        _fill_individual(group, own)


def refuse_misfit(config: ModelConfig, trained: ModelConfig) -> None:
    """Raise `ValueError` unless a model can begin with the weights of the trained one."""
    ours, theirs = dataclasses.asdict(config.encoder), dataclasses.asdict(trained.encoder)
    pairs = {name: (ours[name], theirs[name]) for name in ours if name not in MAY_DIFFER}
    pairs["number of layers"] = config.encoder.num_layers, trained.encoder.num_layers
    for name in ("decoder_dim", "context_size", "joiner_dim"):
        pairs[name] = getattr(config, name), getattr(trained, name)
    different = [f"{name} {theirs} there, {ours} here" for name, (ours, theirs) in pairs.items() if ours != theirs]
    require(not different, f"the model to begin with has another size ({', '.join(different)}): give it the same")
    if same_layout(config.encoder, trained.encoder):
        return
    require(trained.encoder.low_rank_delta == 0, "a model with --low-rank-delta can only begin one of the same layout")
    for number in ("first", "second"):
        here, there = (
            set(e.expert_layers if e.experts_in in (number, "both") else ()) for e in (config.encoder, trained.encoder)
        )
        require(
            there <= here,
            f"its {number} feed-forwards are experts, which cannot become dense: keep --experts-in, --expert-blocks",
        )
        blocks = [(config.encoder.layer_blocks[layer], layer in there) for layer in here]
        require(
            len(set(blocks)) == len(set(dict(blocks))),
            f"some of its {number} feed-forwards are experts and some dense, and a block here would be of both: give "
            "another --group-sizes or --pattern",
        )
        require(
            not (here and there) or config.encoder.num_experts == trained.encoder.num_experts,
            f"it has {trained.encoder.num_experts} experts, not {config.encoder.num_experts}: give the same",
        )
        changed = [name for name in LIKE_DENSE if getattr(config.encoder, name)]
        require(
            here <= there or not changed,
            f"dense feed-forwards cannot become experts with {', '.join(changed)}: leave this out",
        )


def same_layout(config: EncoderConfig, trained: EncoderConfig) -> bool:
    """Whether both store tensors of the same names and shapes."""
    free: dict[str, Any] = {
        "top_k": 1,
        "router_gates": "softmax",
        "gate_scale": 1.0,
        "router_jitter": 0.0,
        "dropout": 0.0,
        "balance_over": "layer",
        "balancing_bias_rate": 0.0,
        "chunk_sizes": (),
        "left_contexts": (),
        "depths": (),
        "loudness_norm": False,
    }
    if config.experts_in == trained.experts_in == "none":
        free |= {"num_experts": 1, "individual_routers": True}
    return dataclasses.replace(config, **free) == dataclasses.replace(trained, **free)


def part_state(layer: Layer, name: str) -> dict[str, Tensor]:
    """The weights with which a layer computes a part of its block; of several sets their mean."""
    part = layer.part(name)
    return part.weights(layer.individual().gates[name]) if isinstance(part, Merged) else part.state_dict()


def _users(encoder: Encoder, name: str) -> dict[nn.Module, list[int]]:
    """For each stored part of this name, and for each set of several, the layers that use it (most)."""
    users: dict[nn.Module, list[int]] = {}
    for depth, layer in enumerate(encoder.layers()):
        part = layer.part(name)
        if isinstance(part, Merged):
            sets = list(part.sets)
            users |= {one: users.get(one, []) for one in sets}
            part = sets[int(layer.individual().gates[name].argmax())]
        users.setdefault(part, []).append(depth)
    everyone = list(range(depth + 1))
    return {part: depths or everyone for part, depths in users.items()}


def _copy_outside_groups(
    model: AsrModel, trained: AsrModel, rows: Sequence[tuple[int, int]], modules: Sequence[str]
) -> None:
    """Copy front end, decoder, joiner and heads; where rows are units, only the rows of common units."""
    ours, theirs = model.state_dict(), trained.state_dict()
    here, there = torch.tensor(list(rows), dtype=torch.int64).view(-1, 2).unbind(1)
    for name in ours.keys() & theirs.keys():
        if name.startswith(("encoder.groups.", "encoder.mixers.")) or name.split(".")[0] not in modules:
            continue
        if name.startswith(VOCAB_LAYERS):
            ours[name][here] = theirs[name][there]
        else:
            ours[name].copy_(theirs[name])


def _fill_part(part: nn.Module, sources: Sequence[dict[str, Tensor]], noise: float) -> None:
    if isinstance(part, MoeFeedForward) and "hidden.weight" in sources[0]:
        _fill_experts(part, _mean_of(sources), noise)
    else:
        _load(part, _mean_of(sources))


def _fill_individual(group: BlockGroup, layers: Sequence[Layer]) -> None:
    for norms, of in zip(group.norms, _divided(layers, len(group.norms))):
        _load(norms, _norms_of(of))
    for routers, of in zip(group.routers, _divided(layers, len(group.routers))):
        _fill_routers(routers, [layer.individual().routers for layer in of])  # type: ignore[arg-type]
    for deltas, layer in zip(group.deltas, layers):
        _fill_deltas(deltas, group.block, layer)  # type: ignore[arg-type]


def _fill_experts(part: MoeFeedForward, dense: dict[str, Tensor], noise: float) -> None:
    """Make every expert a noisy copy of a dense feed-forward.

    The first sum of the gates is known (1/E for one expert and a softmax). The last map is divided by it, so the whole
    computes the same as before.
    """
    experts = part.experts
    first_gates = choose_experts(torch.zeros(1, part.num_experts), part.top_k, kind=part.gates, scale=part.gate_scale)
    for layer, scale in (("hidden", 1.0), ("output", 1 / float(first_gates.gates.sum()))):
        weight = getattr(experts, f"{layer}_weight")
        copy = dense[f"{layer}.weight"].T
        weight.copy_((copy + noise * copy.std() * torch.randn_like(weight)) * scale)
        getattr(experts, f"{layer}_bias").copy_((dense[f"{layer}.bias"] * scale).expand(weight.size(0), -1))


def _fill_routers(routers: Routers, sources: Sequence[Routers]) -> None:
    for name in ("feed_forward1", "feed_forward2"):
        router, theirs = getattr(routers, name), [getattr(source, name) for source in sources]
        if router is None:
            continue
        if theirs[0] is None:
            router.linear.weight.mul_(NEW_ROUTER_SCALE)
        else:
            _load(router, _mean_of([router.state_dict() for router in theirs]))


def _fill_deltas(deltas: Deltas, block: ConformerBlock, source: Layer) -> None:
    for part, maps in deltas.by_part().items():
        for name, delta in maps.items():
            ours, theirs = getattr(getattr(block, part), name).weight, part_state(source, part)[f"{name}.weight"]
            approximate(delta, theirs - ours)  # type: ignore[arg-type]


def approximate(delta: LowRankDelta, matrix: Tensor) -> None:
    """Make B A the matrix of its rank that is nearest to one of W's shape; for 0 it stays as it began.

    Source: Eckart and Young 1936, The approximation of one matrix by another of lower rank.
    """
    if not matrix.any():
        return  # A and B both 0 would never learn
    left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = min(delta.up.size(1), singular.numel())
    root = singular[:rank].sqrt()
    with torch.no_grad():
        delta.up[:, :rank] = left[:, :rank] * root
        delta.down[:rank] = root.unsqueeze(1) * right[:rank]


def _divided(layers: Sequence[Layer], parts: int) -> list[Sequence[Layer]]:
    """The layers one by one, or all together."""
    return [[layer] for layer in layers] if parts == len(layers) else [layers]


def _norms_of(layers: Sequence[Layer]) -> dict[str, Tensor]:
    """The layers' norms as one: the mean of scales and biases, and the statistics of each layer."""
    states = [layer.individual().norms.state_dict() for layer in layers]
    merged = _mean_of([{name: value for name, value in state.items() if "running_" not in name} for state in states])
    for name in states[0].keys() - merged.keys():
        stored = (state[name].view(-1, state[name].size(-1)) for state in states)  # a row for each layer that shares it
        merged[name] = torch.stack([rows[layer.individual().depth] for rows, layer in zip(stored, layers)]).squeeze(0)
    return merged


def _mean_of(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        for name, value in states[0].items()
    }


def _load(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load what the module has of a state; balancing biases that the state lacks stay 0."""
    own = module.state_dict()
    module.load_state_dict(own | {name: value for name, value in state.items() if name in own})
