"""The part of a report that shows what a model's experts did."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.reporting.expert_usage import (
    COLLAPSED,
    ExpertUsage,
    evenness,
    expert_layer_names,
    usage_map,
    usage_over_time,
)
from shared_moe_conformer.reporting.history import Series, dev_epochs
from shared_moe_conformer.reporting.line_chart import Curve, line_chart
from shared_moe_conformer.reporting.markup import Markup, tag
from shared_moe_conformer.reporting.page import cards, wide_card
from shared_moe_conformer.reporting.style import NUM_COLOURS


class UsageHistory(NamedTuple):
    """Shares of the experts at moments of a training."""

    steps: list[int]
    shares: list[list[list[float]]]
    """(moments, L, E)."""


def usage_history(history: Mapping[str, Series], part: str) -> UsageHistory | None:
    """What was written of the training's or the validation set's frames; None without experts.

    Args:
      history: TensorBoard's scalars.
      part: `train` or `dev`.
    """
    pattern = rf"{part}_expert_share/feed_forward_(\d+)/expert_(\d+)"
    cells = {(int(m[1]), int(m[2])): history[m[0]] for name in history if (m := re.fullmatch(pattern, name))}
    if not cells:
        return None
    num_layers, num_experts = (max(index) + 1 for index in zip(*cells))
    by_cell = {cell: dict(zip(*series)) for cell, series in cells.items()}
    steps = sorted(set.intersection(*(set(values) for values in by_cell.values())))
    if not steps or len(cells) < num_layers * num_experts:
        return None
    shares = [[[by_cell[n, e][step] for e in range(num_experts)] for n in range(num_layers)] for step in steps]
    return UsageHistory(steps, shares)


def expert_charts(history: Mapping[str, Series], encoder: EncoderConfig) -> list[Markup | None]:
    """Usage at the end, over the training, and how even it is; empty without experts."""
    dev = usage_history(history, "dev")
    if dev is None:
        return []
    names = _names(encoder, len(dev.shares[0]))
    epochs = dict(zip(history["dev/loss"].steps, dev_epochs(history))) if "dev/loss" in history else {}
    when = [f"epoch {epochs[step]}" if step in epochs else f"update {step}" for step in dev.steps]
    end = usage_map(ExpertUsage(names, dev.shares[-1]), title=f"Share of the dev frames, {when[-1]}")
    over_time = tag(
        "div",
        tag("h3", "Over the training, dev: a band for each layer, in it a row for each expert"),
        usage_over_time(names, dev.shares, when=when),
    )
    train = usage_history(history, "train") or dev
    return [cards(end, _evenness_chart(names, train)), wide_card(over_time)]


def collapsed_experts(history: Mapping[str, Series], encoder: EncoderConfig) -> list[str]:
    """A line for each expert that the training found collapsed, or that the last validation hardly used."""
    found: dict[tuple[int, int], str] = {}
    for name, series in history.items():
        match = re.fullmatch(r"collapsed_expert/feed_forward_(\d+)/expert_(\d+)", name)
        if match:
            cell = int(match[1]), int(match[2])
            found[cell] = f"{series.values[0]:.2%} of the frames of 200 updates up to update {series.steps[0]}"
    dev = usage_history(history, "dev")
    for layer, row in enumerate(dev.shares[-1] if dev else []):
        for expert, share in enumerate(row):
            if share < COLLAPSED:
                more = f"{share:.2%} of the dev frames of the last validation"
                found[layer, expert] = "; ".join(filter(None, (found.get((layer, expert)), more)))
    names = _names(encoder, max((layer for layer, _ in found), default=-1) + 1)
    return [f"{names[layer]}, expert {expert + 1}: {text}" for (layer, expert), text in sorted(found.items())]


def _names(encoder: EncoderConfig, count: int) -> list[str]:
    """The layers' names; numbers alone if the config has others than were written."""
    names = expert_layer_names(encoder)
    return names if len(names) >= count else [f"feed-forward {n + 1}" for n in range(count)]


def _evenness_chart(names: list[str], usage: UsageHistory) -> Markup:
    """Entropy of each layer's shares; with more layers than colours, the least, the mean and the largest."""
    values = [[evenness(moment[layer]) for moment in usage.shares] for layer in range(len(usage.shares[0]))]
    if len(values) <= NUM_COLOURS:
        curves = [Curve(name, usage.steps, row) for name, row in zip(names, values)]
    else:
        columns = list(zip(*values))
        means = [sum(column) / len(column) for column in columns]
        rows = {"least even layer": [*map(min, columns)], "mean": means, "most even": [*map(max, columns)]}
        curves = [Curve(name, usage.steps, row) for name, row in rows.items()]
    return line_chart(curves, title="Evenness of usage (entropy, 1 = even)", x_name="updates")
