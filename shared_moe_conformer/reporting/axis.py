"""Axes of charts: round ticks, linear or logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

LOGARITHMIC_FROM = 20.0
"""Largest value over smallest from which an axis is better logarithmic."""


class Axis(NamedTuple):
    """Where values are between two ends of a chart."""

    low: float
    high: float
    ticks: list[float]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        low, high, value = (math.log(max(v, 1e-30)) if self.logarithmic else v for v in (self.low, self.high, value))
        return min(max((value - low) / (high - low), -0.02), 1.02)


def axis_of(
    values: Sequence[float], *, from_zero: bool = False, may_be_logarithmic: bool = False, num_steps: int = 4
) -> Axis:
    """An axis on which all finite values have a place, with ends at round numbers.

    Args:
      values: what it shows.
      from_zero: it begins at 0.
      may_be_logarithmic: it is, where the values range far.
      num_steps: steps between ticks, about; there may be fewer.
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if may_be_logarithmic and low > 0 and high / low >= LOGARITHMIC_FROM:
        return _logarithmic(low, high)
    if from_zero:
        low = min(low, 0.0)
    if high - low < 1e-12:
        low, high = low - abs(low) * 0.1 - 1e-6, high + abs(high) * 0.1 + 1e-6
    step = _round_step((high - low) / num_steps)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(n * step, 12) for n in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], ticks)


def short(value: float) -> str:
    """A number for an axis: 1500 as `1.5k`, 0.00025 as `2.5e-4`."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.4g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.4g}k"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def _round_step(step: float) -> float:
    """The next larger of 1, 2, 2.5, 5 and 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * n for n in (1, 2, 2.5, 5, 10) if power * n >= step * (1 - 1e-9))


def _logarithmic(low: float, high: float) -> Axis:
    """Ends and ticks at 1, 2 and 5 times powers of ten; powers alone where there are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1,)):
        candidates = [n * 10.0**power for power in powers for n in factors]
        first = max((tick for tick in candidates if tick <= low * (1 + 1e-9)), default=low)
        last = min((tick for tick in candidates if tick >= high * (1 - 1e-9)), default=high)
        ticks = [tick for tick in candidates if first <= tick <= last]
        if len(ticks) <= 7:
            break
    return Axis(first, last, ticks, logarithmic=True)
