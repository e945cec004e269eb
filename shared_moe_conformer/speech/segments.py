"""Long audio, cut where it is quiet, so that recognising an hour takes no more memory than half a minute.

Half a minute stays whole, as the utterances of corpora do. Of a longer recording segments are cut off its beginning
until the rest may stay whole. Each cut makes that rest shorter, from half a minute down to a segment's longest, so the
number of segments grows by one at a time as recordings get longer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

WHOLE = 30.0
"""Seconds of audio that are recognised as one; what is longer is cut."""
USUAL_SHARE = 0.95
"""Share of the training's utterances that a segment is no longer than. Chosen on the dev sets of asterisk and fillets:
segments much longer than a model's training utterances cost word errors, and so do cuts within sentences."""
LEAST = 5.0
"""Smallest limit of a segment's length in seconds: shorter audio may hold no pause to cut in."""
SHORTEST_PART = 1 / 3
"""Length of a segment that is cut off, at least, as a share of the longest."""
SHRINKING = 1 / 6
"""Length by which each cut shortens the rest that stays whole, as a share of the longest segment. It is less than the
shortest segment; otherwise one more second of audio could make several segments more."""
QUIET = 0.4
"""Seconds over which loudness is measured: a pause between words, not the closure of a stop consonant."""
STEP = 0.01
"""Seconds from one measurement to the next."""
REST = 1.0
"""Seconds that the last segment has at least."""


def usual_length(durations: Sequence[float]) -> float:
    """The longest segment in seconds, for a model that was trained on utterances of these durations in seconds."""
    return float(np.clip(np.quantile(durations, USUAL_SHARE), LEAST, WHOLE).round(1))


def cut_at_silences(
    blocks: Iterable[np.ndarray], sampling_rate: int, *, longest: float = WHOLE
) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a stream of samples into segments that make up all of it; half a minute or less stays whole.

    Args:
      blocks: samples (num_samples,) in order, however they are split.
      sampling_rate: their rate in Hz.
      longest: the longest segment that is cut off, in seconds, 5 to 30.

    Yields:
      Each segment's first sample, counted from the beginning, and its samples.
    """
    first, waiting, whole = 0, np.zeros(0, dtype=np.float32), WHOLE
    needed = itertools.chain(((block, longest + REST) for block in blocks), [(waiting, 0.0)])
    for block, seconds in needed:  # a cut must see all that it may choose from, or the end
        waiting = np.concatenate([waiting, block])
        while len(waiting) > max(whole, seconds) * sampling_rate:
            cut = quietest(waiting, sampling_rate, longest=longest)
            yield first, waiting[:cut]
            first, waiting = first + cut, waiting[cut:]
            whole = max(longest, whole - SHRINKING * longest)
    if len(waiting):
        yield first, waiting


def quietest(samples: np.ndarray, sampling_rate: int, *, longest: float) -> int:
    """The middle of the quietest 0.4 s between a third and the whole of the longest segment; the last of equals."""
    step = max(1, round(STEP * sampling_rate))
    begin = int(longest * SHORTEST_PART * sampling_rate)
    end = int(min(longest * sampling_rate, len(samples) - REST * sampling_rate))
    frames = samples[begin:end][: (end - begin) // step * step].astype(np.float64).reshape(-1, step)
    width = round(QUIET / STEP)
    energies = np.convolve((frames**2).mean(axis=1), np.ones(width), mode="valid")
    quietest_first = len(energies) - 1 - int(np.argmin(energies[::-1]))
    return begin + (quietest_first + width // 2) * step
