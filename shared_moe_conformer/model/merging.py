"""A layer's own weights, made from those that its block shares: the mean of several sets, or a low-rank change.

The mean is computed once per forward pass, so in a batch a layer costs as much as a dense one, whatever the number of
sets. For a short utterance or chunk alone the mean takes as long as the rest; `Encoder.merge_once` saves that, and
`torch.jit.freeze` does in TorchScript.

Source: Bulat, Ouali and Tzimiropoulos 2026, One block, multiple depths, section 3 (arXiv 2610.12448), for means; Bae et
al. 2024, Relaxed recursive transformers, section 2.3 (arXiv 2410.20672), for low-rank matrices of each depth.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.config import MergeGates

SPREAD = 1.5
"""The first logits of a table of gates are minus this, times the distance of the layer from the set's depth."""
HIDDEN_CHANNELS = 16
"""Hidden channels of the network that gives gates."""


def with_weights(module: nn.Module, weights: Mapping[str, Tensor], prefix: str = "") -> nn.Module:
    """A module that computes like this one, but with other weights, given by name.

    `torch.func.functional_call` also does this, but not while a graph is traced, and it changes the module meanwhile.
    """
    twin: Any = copy.copy(module)
    twin._parameters = {name: weights[prefix + name] for name in module._parameters}
    children = ((name, child) for name, child in module._modules.items() if child is not None)
    twin._modules = {name: with_weights(child, weights, f"{prefix}{name}.") for name, child in children}
    return cast(nn.Module, twin)


class Merged(nn.Module):
    """E sets of weights for one part of a block, which is written as if there were one set."""

    def __init__(self, sets: Iterable[nn.Module]) -> None:
        super().__init__()
        self.sets = nn.ModuleList(sets)

    def weights(self, gates: Tensor) -> dict[str, Tensor]:
        """The mean of the sets' weights by their names, weighted by the gates (E,), in float32 even under autocast."""
        sets = [dict(one.named_parameters()) for one in self.sets]
        shares = gates.unbind()
        return {
            name: functools.reduce(Tensor.add, [share * one[name] for share, one in zip(shares, sets)])
            for name in sets[0]
        }

    def part(self, gates: Tensor) -> nn.Module:
        """The part with weights merged by the gates (E,)."""
        return with_weights(self.sets[0], self.weights(gates))

    def forward(self, gates: Tensor, *args: Any) -> Any:
        """Return what the part returns for these arguments with weights merged by the gates (E,)."""
        return self.part(gates)(*args)


class DepthGates(nn.Module):
    """Gates of the L layers of a group: for each of P parts the shares of its E sets.

    Either a free table, in which each set begins with most weight in the layers near its depth; or a network
    s -> 16 -> P * E with SiLU, of the depth s from 0 to 1, whose gates begin equal (Bulat et al., section 3.2).
    """

    depth: Tensor
    """Depth of each layer, 0 to 1, the input of a network, (L, 1)."""

    def __init__(self, num_layers: int, num_parts: int, num_sets: int, *, kind: MergeGates) -> None:
        super().__init__()
        self.shape = num_parts, num_sets
        depth = torch.linspace(0, 1, num_layers)
        if kind == "table":
            places = torch.linspace(0, 1, num_sets)
            logits = -SPREAD * (num_sets - 1) * (depth[:, None] - places).abs()
            self.table = nn.Parameter(logits[:, None].repeat(1, num_parts, 1))
        else:
            self.register_buffer("depth", depth[:, None], persistent=False)
            self.hidden = nn.Linear(1, HIDDEN_CHANNELS)
            self.output = nn.Linear(HIDDEN_CHANNELS, num_parts * num_sets)
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)
        self.kind = kind

    def forward(self, layer: int) -> Tensor:
        """Return the gates of one layer, (P, E), in float32 even under autocast; those of each part sum to 1."""
        if self.kind == "table":
            return self.table[layer].softmax(dim=-1)
        with torch.autocast(self.depth.device.type, enabled=False):
            return self.output(F.silu(self.hidden(self.depth[layer]))).view(self.shape).softmax(dim=-1)


class LowRankDelta(nn.Module):
    """B A x, which begins as 0, beside a linear map W x: one layer's own change of W.

    Source: Hu et al. 2021, LoRA, section 4.1 (arXiv 2106.09685); Bae et al. 2024 for one for each depth.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(linear.in_features)
        self.down = nn.Parameter(torch.empty(rank, linear.in_features).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out channels) for frames (..., in channels)."""
        return F.linear(F.linear(x, self.down), self.up)


class Deltas(nn.Module):
    """The deltas of one layer: to the linear maps of its block's attention and dense feed-forwards."""

    PARTS = ("feed_forward1", "attention", "feed_forward2")

    def __init__(self, block: nn.Module, rank: int) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        for part in self.PARTS:
            children = getattr(block, part, nn.Module()).named_children()  # a block may lack attention of its own
            maps = {name: child for name, child in children if isinstance(child, nn.Linear)}
            self.parts[part] = nn.ModuleDict({name: LowRankDelta(linear, rank) for name, linear in maps.items()})

    def by_part(self) -> dict[str, dict[str, nn.Module]]:
        """The deltas by the names of the block's part and of its linear map."""
        return {name: dict(part.items()) for name, part in self.parts.items()}  # type: ignore[operator]
