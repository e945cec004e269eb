"""The picture of an ablation: error rates against the encoder's stored parameters, and the frontier between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shared_moe_conformer.ablation.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Point(NamedTuple):
    """A variant in the picture."""

    name: str
    unique: int
    """Parameters that the encoder stores."""
    wer: Estimate
    cer: Estimate


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points of which no other is both smaller and better, from the smallest on.

    Args:
      points: size and error rate; less is better in both.
    """
    best: list[tuple[float, float]] = []
    for point in sorted(points):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


def draw(path: Path, points: Sequence[Point]) -> None:
    """Write the picture as SVG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ablation", "font.size": 9}):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
        for axis, kind, name in zip(axes, ("wer", "cer"), ("WER", "CER")):
            _panel(axis, [(p.name, p.unique / 1e6, getattr(p, kind)) for p in points])
            axis.set(xlabel="parameters that the encoder stores, in millions", ylabel=f"{name} in %, greedy search")
        figure.savefig(path, format="svg", metadata={"Date": None})
        plt.close(figure)


def _panel(axis: Axes, points: Sequence[tuple[str, float, Estimate]]) -> None:
    for name, size, rate in points:
        axis.errorbar(size, rate.mean, yerr=[[rate.mean - rate.low], [rate.high - rate.mean]], fmt="o", color="C0",
                      ecolor="0.75", markersize=4)  # fmt: skip
        axis.annotate(name, (size, rate.mean), xytext=(4, 3), textcoords="offset points", fontsize=7)
    best = frontier([(size, rate.mean) for _, size, rate in points])
    axis.step(*zip(*best), where="post", color="C1", linewidth=1)
    axis.margins(x=0.15)
    axis.grid(alpha=0.3)
