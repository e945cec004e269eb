"""Layers that share one block's weights, and the parts that each layer has for itself.

Source: Bai et al. 2022, abstract (arXiv 2209.08326).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.model.conformer import ConformerBlock, IndividualParts, Norms, Routers, merged_parts
from shared_moe_conformer.model.merging import Deltas, DepthGates
from shared_moe_conformer.model.moe import Router, Routing, expert_usage, load_balancing_loss, router_z_loss


class RouterLosses(NamedTuple):
    """The losses of L routers on a batch, each averaged over its valid frames."""

    load_balancing_loss: Tensor
    """(L,)."""
    router_z_loss: Tensor
    """(L,)."""
    frames_per_expert: Tensor
    """Frames that each expert computed, (L, E), without gradient."""


class BlockGroup(nn.Module):
    """Layers that use one block; each has its own norms, routers, deltas and gates if the config says so."""

    def __init__(self, config: EncoderConfig, size: int, *, has_mixer: bool = True) -> None:
        super().__init__()
        self.size = size
        self.balances_together = config.balance_over == "group"
        self.block = ConformerBlock(config, has_mixer=has_mixer)
        num_norms = size if config.individual_norms else 1
        self.norms = nn.ModuleList(Norms(config, num_layers=size // num_norms) for _ in range(num_norms))
        self.routers = nn.ModuleList(Routers(config) for _ in range(size if config.individual_routers else 1))
        rank = config.low_rank_delta
        self.deltas = nn.ModuleList(Deltas(self.block, rank) for _ in range(size if rank else 0))
        self.merged_parts = merged_parts(config)
        shape = size, len(self.merged_parts), config.merged_sets
        self.gates = DepthGates(*shape, kind=config.merge_gates) if self.merged_parts else None
        self.merged: dict[int, dict[str, nn.Module]] = {}
        """Parts with weights that `Encoder.merge_once` has merged, by layer and name; no modules of the group."""

    def individual(self, depth: int) -> IndividualParts:
        """The own parts of the group's layer at this depth (0 is its first)."""
        return IndividualParts(
            norms=self.norms[depth % len(self.norms)],  # type: ignore[arg-type]
            routers=self.routers[depth % len(self.routers)],  # type: ignore[arg-type]
            adapters=self.deltas[depth].by_part() if len(self.deltas) else {},  # type: ignore[operator]
            gates={} if self.gates is None else dict(zip(self.merged_parts, self.gates(depth).unbind())),
            depth=depth // len(self.norms),
            merged=self.merged.get(depth, {}),
        )

    def train(self, mode: bool = True) -> BlockGroup:
        """Begin or end training, before which merged weights are dropped."""
        if mode:
            self.merged.clear()
        return super().train(mode)

    def _apply(self, *args: Any, **options: Any) -> BlockGroup:
        """Move or convert the weights; merged ones, which would stay as they are, are dropped."""
        self.merged.clear()
        return super()._apply(*args, **options)

    def _load_from_state_dict(self, *args: Any) -> None:
        """Load weights; merged ones, which would stay as they are, are dropped."""
        self.merged.clear()
        super()._load_from_state_dict(*args)

    def routers_of(self, depth: int) -> list[Router]:
        """The routers of the group's layer at this depth, in the order in which it calls them."""
        return list(self.routers[depth % len(self.routers)].children())  # type: ignore[arg-type]

    def router_losses(self, routing: Routing) -> RouterLosses:
        """The losses of the group's L routers, whose decisions are stacked in the order of depth."""
        usage = expert_usage(routing)
        balanced = type(usage)(*map(self.balanced, usage))
        return RouterLosses(load_balancing_loss(balanced), router_z_loss(routing.router_logits), usage.frames)

    def balanced(self, rows: Tensor) -> Tensor:
        """The use of experts that the config balances: each layer's, or its mean over the group's layers; (L, E)."""
        if not self.balances_together:
            return rows
        return rows.unflatten(0, (self.size, -1)).mean(dim=0).repeat(self.size, 1)

    def balance(self, frames_per_expert: Tensor) -> Tensor:
        """`Encoder.balance_experts` for the group's L routers."""
        frames = self.balanced(frames_per_expert)
        routers = [router for depth in range(self.size) for router in self.routers_of(depth)]  # shared ones repeat
        for router in dict.fromkeys(routers):
            router.balance(sum(row for owner, row in zip(routers, frames) if owner is router))  # type: ignore[arg-type]
        return frames
