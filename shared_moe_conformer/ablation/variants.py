"""The variants of a config that an ablation compares; each differs from it in a few options."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any, NamedTuple

from shared_moe_conformer.config import Config, replace_fields, require
from shared_moe_conformer.sizes import narrower


class Variant(NamedTuple):
    """A row of the ablation."""

    name: str
    title: str
    """Description for the report."""
    options: dict[str, Any] = {}
    """Options that differ from the config which the ablation is about."""
    teacher: str = ""
    """Variant that teaches it, in the run with the same seed; empty: none."""
    begins_as: str = ""
    """Variant whose weights it begins with, from the run with the same seed; empty: none."""


MAIN = ("full", "shared", "base", "base-distilled")
"""The rows of the paper's claim; these are run first."""

DENSE = {"experts_in": "none"}
NOTHING_INDIVIDUAL = {"individual_norms": False, "individual_routers": False}
LESS_DISTILLATION = {"hidden_distillation_loss_scale": 0.1, "ctc_distillation_loss_scale": 0.1}


def variants_of(base: Config) -> dict[str, Variant]:
    """Every variant of a config that shares blocks and has experts, by name, the main ones first.

    Raises:
      ValueError: the config has nothing to ablate.
    """
    encoder = base.model.encoder
    require(
        encoder.experts_in != "none" and len(encoder.block_sizes) < encoder.num_layers,
        "an ablation is about a config that shares blocks and has experts: give one of these",
    )
    layers, experts, channels = encoder.num_layers, encoder.num_experts, encoder.feed_forward_dim
    two_sets = {**DENSE, "feed_forward_dim": narrower(encoder.feed_forward_dim)}
    merged = {**two_sets, "merged_sets": 2}
    half_as_wide = {**merged, "feed_forward_dim": channels // 2}
    alone = {"group_sizes": (1,) * layers, **({"pattern": ""} if encoder.pattern else {})}
    table = [
        Variant("full", "nothing shared, no experts", {**alone, **DENSE}),
        Variant("shared", "shared, no experts", DENSE),
        Variant("base", "shared, experts, individual norms and routers"),
        Variant("base-distilled", "the same, taught by `full`", teacher="full"),
        Variant("shared-norms", "shared with its norms, no experts", {**DENSE, "individual_norms": False}),
        Variant("experts-alone", "shared with norms and routers, experts", NOTHING_INDIVIDUAL),
        Variant("individual-norms", "shared with routers, experts, individual norms", {"individual_routers": False}),
        Variant("shared-distilled", "shared, no experts, taught by `full`", DENSE, teacher="full"),
        Variant("less-distilled", "`base-distilled`, its losses a fifth as strong", LESS_DISTILLATION, teacher="full"),
        Variant(
            "shared-less-distilled",
            "`shared-distilled`, its losses a fifth as strong",
            {**DENSE, **LESS_DISTILLATION},
            teacher="full",
        ),
        Variant("base-upcycled", "`base`, begun with the weights of `full`", begins_as="full"),
        Variant("full-distilled", "`full`, taught by `full`", {**alone, **DENSE}, teacher="full"),
        Variant("full-experts", "nothing shared, experts", alone),
        *[
            Variant(f"groups-of-{n}", f"a block for every {n} layers", {"group_sizes": split(layers, n)})
            for n in (3, 2)
        ],
        Variant("top-2", "two experts for each frame", {"top_k": 2, "num_experts": max(encoder.num_experts, 2)}),
        Variant("experts-first", "experts in the first feed-forward", {"experts_in": "first"}),
        Variant("experts-both", "experts in both feed-forwards", {"experts_in": "both"}),
        *[Variant(f"{n}-experts", f"{n} experts", {"num_experts": n}) for n in (2, 4, 8)],
        *(
            [Variant("adamw", "all weights by AdamW", {"optimizer": "adamw"})]
            if base.training.optimizer == "muon"
            else []
        ),
        Variant("block-lr-scaled", "shared weights learn at 1/sqrt(n)", {"shared_block_lr_scale": "inverse_sqrt"}),
        Variant(
            "bias-balanced",
            "experts balanced by biases, not by a loss",
            {"balancing_bias_rate": 0.001, "load_balancing_loss_scale": 0.0},
        ),
        Variant("balanced-over-group", "experts balanced over all layers together", {"balance_over": "group"}),
        Variant("unbalanced", "experts not balanced at all", {"load_balancing_loss_scale": 0.0}),
        Variant("no-z-loss", "without the router z loss", {"router_z_loss_scale": 0.0}),
        Variant("jittered", "router inputs with 10 % noise", {"router_jitter": 0.1}),
        Variant(
            "fine-experts",
            "8 times the experts, an eighth as wide, 8 for each frame, sigmoid gates",
            {
                "num_experts": 8 * experts,
                "expert_dim": channels // 8,
                "top_k": 8,
                "router_gates": "sigmoid",
                "gate_scale": 0.5,
            },
        ),
        Variant(
            "common-expert",
            "experts half as wide, and one of them for all frames",
            {"num_experts": 2 * experts - 1, "expert_dim": channels // 2, "common_expert_dim": channels // 2},
        ),
        Variant("dense-gates", "gates begin at the scale of a dense layer", {"gate_scale": float(experts)}),
        Variant("expert-norm", "outputs of experts normalised", {"expert_norm": True}),
        Variant("merged-2", "2 stored sets of narrower blocks, merged by depth", merged),
        Variant("merged-2-distilled", "the same, taught by `full`", merged, teacher="full"),
        Variant("merged-2-half-width", "`merged-2`, feed-forwards half as wide as `full`'s", half_as_wide),
        Variant("merged-2-half-width-distilled", "the same, taught by `full`", half_as_wide, teacher="full"),
        Variant(
            "merged-2-eighth-width",
            "`merged-2`, feed-forwards an eighth as wide",
            {**merged, "feed_forward_dim": channels // 8},
        ),
        Variant(
            "shared-eighth-width",
            "`shared`, feed-forwards an eighth as wide",
            {**DENSE, "feed_forward_dim": channels // 8},
        ),
        *[Variant(f"merged-{n}", f"{n} stored sets, merged by depth", {**DENSE, "merged_sets": n}) for n in (3, 4)],
        Variant(
            "merged-3-ff",
            "3 sets of both feed-forwards, merged by depth",
            {**DENSE, "merged_sets": 3, "merged_parts": ("feed_forward1", "feed_forward2")},
        ),
        Variant(
            "merged-2-network",
            "`merged-2`, gates by a network",
            {**merged, "merge_gates": "network"},
        ),
        Variant(
            "merged-2-elastic",
            "`merged-2`; each batch passes between half and all of its layers",
            {**merged, "depths": (*range(max(layers // 2, 1), layers), layers, layers)},
        ),
        Variant("turns-2", "2 narrower blocks, used in turn", {**two_sets, **in_turn(layers, 2)}),
        Variant("turns-3", "3 blocks, used in turn", {**DENSE, **in_turn(layers, 3)}),
        Variant("low-rank-8", "low-rank matrices of each layer", {"low_rank_delta": 8}),
    ]
    if layers <= len(string.ascii_uppercase):
        own_attention = {"group_sizes": (layers,), "mixing_pattern": string.ascii_uppercase[:layers]}
        table.append(Variant("own-attention", "attention of each layer, experts of all", own_attention))
    return {variant.name: variant for variant in table}


def in_turn(num_layers: int, num_blocks: int) -> dict[str, Any]:
    """Options of layers that use several blocks in turn: ABABAB."""
    letters = string.ascii_uppercase[: min(num_blocks, num_layers)]
    pattern = "".join(letters[layer % len(letters)] for layer in range(num_layers))
    return {"group_sizes": (num_layers,), "pattern": pattern}


def split(num_layers: int, size: int) -> tuple[int, ...]:
    """Layers in groups of a size; the last group has the remainder."""
    whole, left = divmod(num_layers, size)
    return (size,) * whole + ((left,) if left else ())


def chosen(variants: dict[str, Variant], names: Sequence[str]) -> list[Variant]:
    """The variants of these names; of all where none is given.

    Raises:
      ValueError: a name that no variant has.
    """
    unknown = [name for name in names if name not in variants]
    require(not unknown, f"no variant {', '.join(unknown)}: give some of {', '.join(variants)}")
    return [variants[name] for name in (names or variants)]


def config_of(base: Config, variant: Variant, *, seed: int, num_epochs: int) -> Config:
    """The variant's whole config, except its teacher's folder."""
    return replace_fields(base, {**variant.options, "seed": seed, "num_epochs": num_epochs})
