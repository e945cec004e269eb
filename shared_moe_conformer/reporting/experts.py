"""Frames that each expert of each layer computed: on a test set, and over a training."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.reporting.page import CARD, CURVES, INK, WARN, Curve, drawing, line_chart
from shared_moe_conformer.reporting.records import Series, dev_epochs
from shared_moe_conformer.web import Markup, cards, wide_card

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLLAPSED = 0.01
"""An expert with a smaller share of its layer's frames counts as unused."""
MAX_MOMENTS = 60
"""Most columns of a picture over time."""


class ExpertUsage(NamedTuple):
    """Frames that each expert computed."""

    layers: list[str]
    """A name for each expert feed-forward, in the order of depth."""
    frames: list[list[float]]
    """(L, E), counts or shares."""

    def shares(self) -> list[list[float]]:
        """(L, E), each row with a sum of 1."""
        return [[count / max(sum(row), 1e-12) for count in row] for row in self.frames]


class UsageHistory(NamedTuple):
    """Shares of the experts at moments of a training."""

    steps: list[int]
    shares: list[list[list[float]]]
    """(moments, L, E)."""


def expert_layer_names(encoder: EncoderConfig) -> list[str]:
    """Names of the expert feed-forwards by depth: `layer 3`, or `layer 3, second` where a layer has two."""
    places = (", first", ", second") if encoder.experts_in == "both" else ("",)
    return [f"layer {layer + 1}{place}" for layer in encoder.expert_layers for place in places]


def evenness(shares: Sequence[float]) -> float:
    """Entropy of the shares over its largest possible value: 1 if all experts compute alike, 0 if one computes all.

    Source: Pielou 1966, The measurement of diversity in different types of biological collections.
    """
    entropy = sum(share * math.log(1 / share) for share in shares if share > 0)
    return entropy / math.log(len(shares)) if len(shares) > 1 else 1.0


def information(counts: np.ndarray) -> float:
    """Mutual information of two labels in bits, given the counts of their pairs, (A, B).

    Source: Shannon 1948, A mathematical theory of communication, section 12.
    """
    joint = counts / counts.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log2(joint[there] / independent[there])).sum())


def usage_table(usage: ExpertUsage) -> str:
    """The shares in percent, for reading, and the evenness of each layer."""
    names = [f"expert {n}" for n in range(1, len(usage.frames[0]) + 1)]
    rows = [["", *names, "evenness"]]
    for layer, shares in zip(usage.layers, usage.shares()):
        rows.append([layer, *(f"{share:.1%}" for share in shares), f"{evenness(shares):.3f}"])
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + "\n" for row in rows)


def usage_map(usage: ExpertUsage, *, title: str) -> Markup:
    """A row for each layer and a cell for each expert, the darker the more frames; hardly used ones are outlined."""
    shares = usage.shares()
    num_experts = len(shares[0])
    cells = {(e, n): share for n, row in enumerate(shares) for e, share in enumerate(row)}

    def draw(axes: Axes) -> None:
        hints = [f"{usage.layers[n]}, expert {e + 1}: {share:.2%} of the frames" for (e, n), share in cells.items()]
        _draw_cells(axes, cells, hints, height=0.92, width=0.97, outlined=True)
        for (e, n), share in cells.items():
            colour = WARN if share < COLLAPSED else CARD if share > 0.6 * max(cells.values()) else INK
            axes.text(e, n, f"{100 * share:.0f} %", ha="center", va="center", color=colour)
        for n, row in enumerate(shares):
            axes.text(num_experts - 0.1, n, f"{evenness(row):.2f}", ha="center", va="center")
        axes.set_xticks([*range(num_experts), num_experts - 0.1], [*range(1, num_experts + 1), "evenness"])
        axes.xaxis.tick_top()
        axes.set_yticks(range(len(shares)), usage.layers, color=INK)
        axes.set_ylabel("expert", rotation=0, y=1.01, va="bottom", labelpad=0)

    return drawing(draw, title=title, width=190 + 62 * num_experts, height=50 + 26 * len(shares))


def groups_table(usages: Mapping[str, ExpertUsage], *, by: str) -> str:
    """The shares of each group in percent, layer by layer, and the share of the choice of experts that it explains.

    That is mutual information over entropy; the part of it that is due to chance is not taken off.
    """
    layers = next(iter(usages.values())).layers
    width = max(map(len, [by, *usages]))
    lines = []
    for layer, name in enumerate(layers):
        counts = np.array([usage.frames[layer] for usage in usages.values()])
        entropy = information(np.diag(counts.sum(axis=0)))
        share = information(counts) / entropy if entropy else 0.0
        lines.append(f"{name}: the {by} explains {share:.1%} of the choice of experts")
        for group, usage in usages.items():
            lines.append(f"  {group:{width}}" + "".join(f"{share:7.1%}" for share in usage.shares()[layer]))
    return "".join(f"{line}\n" for line in lines)


def groups_map(usages: Mapping[str, ExpertUsage], *, title: str) -> Markup:
    """A row for each group, and for each layer as many cells as it has experts, the darker the more frames."""
    names, layers = [*usages], next(iter(usages.values())).layers
    num_experts = len(next(iter(usages.values())).frames[0])
    band = num_experts + 1  # columns, one of them empty
    cells, hints = {}, []
    for row, (group, usage) in enumerate(usages.items()):
        for layer, shares in enumerate(usage.shares()):
            for expert, share in enumerate(shares):
                cells[layer * band + expert, row] = share
                hints.append(f"{group}, {layers[layer]}, expert {expert + 1}: {share:.1%} of the frames")

    def draw(axes: Axes) -> None:
        _draw_cells(axes, cells, hints)
        for (column, row), share in cells.items():
            colour = CARD if share > 0.6 * max(cells.values()) else INK
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour)
        middles = [layer * band + (num_experts - 1) / 2 for layer in range(len(layers))]
        axes.set_xticks(middles, layers)
        axes.xaxis.tick_top()
        axes.set_yticks(range(len(names)), names, color=INK)

    return drawing(draw, title=title, width=110 + 28 * band * len(layers), height=70 + 22 * len(names))


def usage_over_time(
    names: Sequence[str], history: Sequence[Sequence[Sequence[float]]], *, when: Sequence[str]
) -> Markup:
    """For each layer a band with a row for each expert and a column for each moment.

    Args:
      names: the layers'.
      history: shares, (moments, L, E).
      when: a name for each moment.
    """
    last = len(history) - 1
    chosen = sorted({round(i * last / (MAX_MOMENTS - 1)) for i in range(MAX_MOMENTS)})
    band = len(history[0][0]) + 1  # rows, one of them empty
    cells, hints = {}, []
    for column, moment in enumerate(chosen):
        for n, layer in enumerate(names):
            for e, share in enumerate(history[moment][n]):
                cells[column, n * band + e] = share
                hints.append(f"{layer}, expert {e + 1}, {when[moment]}: {share:.1%}")

    def draw(axes: Axes) -> None:
        _draw_cells(axes, cells, hints)
        axes.set_yticks([n * band + band / 2 - 1 for n in range(len(names))], names, color=INK)
        ends = {0: when[0], len(chosen) - 1: when[-1]}
        axes.set_xticks([*ends], [*ends.values()])

    title = "Over the training, dev: a band for each layer, in it a row for each expert"
    return drawing(draw, title=title, width=720, height=60 + 11 * band * len(names))


def _draw_cells(
    axes: Axes,
    cells: Mapping[tuple[int, int], float],
    hints: Sequence[str],
    *,
    width: float = 0.95,
    height: float = 0.92,
    outlined: bool = False,
) -> None:
    """Draw rectangles around points, the darker the larger their share; row 0 is at the top."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    most = max(cells.values())
    x, y = width / 2, height / 2
    corners = [[(c - x, r - y), (c + x, r - y), (c + x, r + y), (c - x, r + y)] for c, r in cells]
    faces = [to_rgba(CURVES[0], 0.05 + 0.95 * share / most) for share in cells.values()]
    edges = [WARN if outlined and share < COLLAPSED else "none" for share in cells.values()]
    axes.add_collection(
        PolyCollection(corners, facecolors=faces, edgecolors=edges, linewidths=2, urls=hints, clip_on=False)
    )
    columns, rows = (max(places) for places in zip(*cells))
    axes.set_xlim(-0.5, columns + 0.5)
    axes.set_ylim(rows + 0.5, -0.5)
    axes.spines[:].set_visible(False)


def usage_history(history: Mapping[str, Series], part: str) -> UsageHistory | None:
    """Shares of the training's or the validation set's frames, as logged; None without experts.

    Args:
      part: `train` or `dev`.
    """
    pattern = rf"{part}_expert_share/feed_forward_(\d+)/expert_(\d+)"
    cells = {
        (int(m[1]), int(m[2])): dict(zip(*history[m[0]])) for name in history if (m := re.fullmatch(pattern, name))
    }
    if not cells:
        return None
    num_layers, num_experts = (max(index) + 1 for index in zip(*cells))
    steps = sorted(set.intersection(*map(set, cells.values())))
    if not steps or len(cells) < num_layers * num_experts:
        return None
    shares = [[[cells[n, e][step] for e in range(num_experts)] for n in range(num_layers)] for step in steps]
    return UsageHistory(steps, shares)


def expert_charts(history: Mapping[str, Series], encoder: EncoderConfig) -> list[Markup | None]:
    """Charts of the usage at the end and over the training, and of its evenness; empty without experts."""
    dev = usage_history(history, "dev")
    if dev is None:
        return []
    names = _names(encoder, len(dev.shares[0]))
    epochs = dict(zip(history["dev/loss"].steps, dev_epochs(history))) if "dev/loss" in history else {}
    when = [f"epoch {epochs[step]}" if step in epochs else f"update {step}" for step in dev.steps]
    end = usage_map(ExpertUsage(names, dev.shares[-1]), title=f"Share of the dev frames, {when[-1]}")
    train = usage_history(history, "train") or dev
    return [cards(end, _evenness_chart(names, train)), wide_card(usage_over_time(names, dev.shares, when=when))]


def collapsed_experts(history: Mapping[str, Series], encoder: EncoderConfig) -> list[str]:
    """A line for each expert that collapsed in training, or that the last validation hardly used."""
    found: dict[tuple[int, int], list[str]] = {}
    for name, series in history.items():
        match = re.fullmatch(r"collapsed_expert/feed_forward_(\d+)/expert_(\d+)", name)
        if match:
            text = f"{series.values[0]:.2%} of the frames of 200 updates up to update {series.steps[0]}"
            found[int(match[1]), int(match[2])] = [text]
    dev = usage_history(history, "dev")
    for layer, row in enumerate(dev.shares[-1] if dev else []):
        for expert, share in enumerate(row):
            if share < COLLAPSED:
                text = f"{share:.2%} of the dev frames of the last validation"
                found.setdefault((layer, expert), []).append(text)
    names = _names(encoder, max((layer for layer, _ in found), default=-1) + 1)
    return [
        f"{names[layer]}, expert {expert + 1}: {'; '.join(text)}" for (layer, expert), text in sorted(found.items())
    ]


def _names(encoder: EncoderConfig, count: int) -> list[str]:
    """The layers' names; only numbers if the config does not match what was written."""
    names = expert_layer_names(encoder)
    return names if len(names) >= count else [f"feed-forward {n + 1}" for n in range(count)]


def _evenness_chart(names: list[str], usage: UsageHistory) -> Markup:
    """Entropy of each layer's shares; with more layers than colours, the least, the mean and the largest."""
    values = [[evenness(moment[layer]) for moment in usage.shares] for layer in range(len(usage.shares[0]))]
    rows = dict(zip(names, values))
    if len(values) > len(CURVES):
        columns = [*zip(*values)]
        means = [sum(column) / len(column) for column in columns]
        rows = {"least even layer": [*map(min, columns)], "mean": means, "most even": [*map(max, columns)]}
    curves = [Curve(name, usage.steps, row) for name, row in rows.items()]
    return line_chart(curves, title="Evenness of usage (entropy, 1 = even)", x_name="updates")
