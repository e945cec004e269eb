"""Pictures of how many frames each expert of each layer computed: on a test set, and over a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.reporting.markup import Markup, join, tag
from shared_moe_conformer.reporting.svg import drawing, label, text_width

COLLAPSED = 0.01
"""An expert with a smaller share of its layer's frames is as good as unused."""
CELL_WIDTH, CELL_HEIGHT = 62.0, 26.0
GAP = 2.0
MAX_MOMENTS = 60
"""Columns of a picture over time at most."""


class ExpertUsage(NamedTuple):
    """Frames that each expert computed."""

    layers: list[str]
    """A name for each expert feed-forward, in the order of depth."""
    frames: list[list[float]]
    """(L, E), counts or shares."""

    def shares(self) -> list[list[float]]:
        """(L, E), each row with a sum of 1."""
        return [[count / max(sum(row), 1e-12) for count in row] for row in self.frames]


def expert_layer_names(encoder: EncoderConfig) -> list[str]:
    """Names of the expert feed-forwards, in the order of depth: `layer 3`, or with two in a layer `layer 3, second`."""
    if encoder.experts_in == "none":
        return []
    places = (", first", ", second") if encoder.experts_in == "both" else ("",)
    return [f"layer {n}{place}" for n in range(1, sum(encoder.group_sizes) + 1) for place in places]


def evenness(shares: Sequence[float]) -> float:
    """Entropy of the shares as a part of the largest possible: 1 if all experts compute alike, 0 if one computes all.

    Source: Pielou 1966, The measurement of diversity in different types of biological collections.
    """
    entropy = sum(share * math.log(1 / share) for share in shares if share > 0)
    return entropy / math.log(len(shares)) if len(shares) > 1 else 1.0


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
    left, top = text_width(usage.layers) + 16, 52.0
    shares = usage.shares()
    num_experts = len(shares[0])
    most = max(max(row) for row in shares)
    right = left + num_experts * CELL_WIDTH
    parts = [label(12, 20, title, class_="title")]
    parts += [
        label(left + (n + 0.5) * CELL_WIDTH, top - 8, f"{n + 1}", anchor="middle", class_="faint")
        for n in range(num_experts)
    ]
    parts.append(label(12, top - 8, "expert", class_="faint"))
    parts.append(label(right + 12, top - 8, "evenness", class_="faint"))
    for row, (layer, values) in enumerate(zip(usage.layers, shares)):
        y = top + row * CELL_HEIGHT
        parts.append(label(12, y + 17, layer))
        parts += [_cell(left + n * CELL_WIDTH, y, value, most, f"{layer}, expert {n + 1}") for n, value in
                  enumerate(values)]  # fmt: skip
        parts.append(label(right + 12, y + 17, f"{evenness(values):.2f}"))
    return drawing(right + 76, top + len(shares) * CELL_HEIGHT + 10, *parts, title=title)


def _cell(x: float, y: float, share: float, most: float, name: str) -> Markup:
    size = {"x": x + GAP / 2, "y": y + GAP / 2, "width": CELL_WIDTH - GAP, "height": CELL_HEIGHT - GAP, "rx": 3}
    strength = 0.06 + 0.94 * share / most
    class_ = "on" if strength > 0.6 else "warn" if share < COLLAPSED else None
    return tag(
        "g",
        tag("title", f"{name}: {share:.2%} of the frames"),
        tag("rect", class_="cell", fill_opacity=strength, **size),
        tag("rect", class_="outline", **size) if share < COLLAPSED else None,
        label(x + CELL_WIDTH / 2, y + 17, f"{100 * share:.0f} %", anchor="middle", class_=class_),
    )


def usage_over_time(
    names: Sequence[str], history: Sequence[Sequence[Sequence[float]]], *, when: Sequence[str]
) -> Markup:
    """For each layer a band with a row for each expert and a column for each moment.

    Args:
      names: the layers'.
      history: shares, (moments, L, E).
      when: a name for each moment.
    """
    chosen = _spread(len(history), MAX_MOMENTS)
    history, when = [history[i] for i in chosen], [when[i] for i in chosen]
    num_experts, row_height = len(history[0][0]), 11.0
    left, top, band = text_width([*names]) + 16, 10.0, num_experts * row_height + 8
    width = min(max(560.0 / len(history), 5.0), 80.0)
    most = max(share for moment in history for row in moment for share in row)
    parts: list[Markup] = []
    for layer, name in enumerate(names):
        y = top + layer * band
        parts.append(label(12, y + band / 2, name))
        for column, moment in enumerate(history):
            for expert, share in enumerate(moment[layer]):
                parts.append(
                    tag(
                        "rect",
                        tag("title", f"{name}, expert {expert + 1}, {when[column]}: {share:.1%}"),
                        x=left + column * width,
                        y=y + expert * row_height,
                        width=width - 0.5,
                        height=row_height - 1,
                        class_="cell",
                        fill_opacity=0.05 + 0.95 * share / most,
                    )
                )
    bottom = top + len(names) * band
    right = left + len(history) * width
    parts += [label(left, bottom + 12, when[0], class_="faint")]
    parts += [label(right, bottom + 12, when[-1], anchor="end", class_="faint")] if len(when) > 1 else []
    return drawing(right + 12, bottom + 20, join(*parts), title="Share of its layer's frames that each expert computed")


def _spread(count: int, at_most: int) -> list[int]:
    """Indices of up to `at_most` of `count` things, evenly spread, the first and the last among them."""
    if count <= at_most:
        return list(range(count))
    return [round(i * (count - 1) / (at_most - 1)) for i in range(at_most)]
