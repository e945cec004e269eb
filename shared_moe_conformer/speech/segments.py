"""Long audio, cut where it is quiet, so that recognising an hour takes no more memory than half a minute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

WHOLE = 30.0
"""Seconds of audio that are recognised as one; what is longer is cut."""
USUAL_SHARE = 0.95
"""Share of the training's utterances that a segment is no longer than. Chosen on the dev sets of asterisk and fillets:
segments much longer than what a model was trained on cost word errors, and so do cuts within sentences."""
LEAST = 5.0
"""Seconds of the longest segment at least: in less there may be no pause to cut in."""
SHORTEST_PART = 1 / 3
"""Share of the longest segment that a cut one has at least."""
QUIET = 0.4
"""Seconds over which loudness is measured: a pause between words, not the closure of a stop consonant."""
STEP = 0.01
"""Seconds from one measurement to the next."""
REST = 1.0
"""Seconds that the last segment has at least."""


def usual_length(durations: Sequence[float]) -> float:
    """Seconds of a segment at most, for a model that was trained on utterances of these durations, in seconds."""
    return float(np.clip(np.quantile(durations, USUAL_SHARE), LEAST, WHOLE).round(1))


def cut_at_silences(
    blocks: Iterable[np.ndarray], sampling_rate: int, *, longest: float = WHOLE
) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a stream of samples, if it is longer than half a minute, into segments: nothing is lost, nothing said twice.

    Args:
      blocks: samples (num_samples,) in order.
      sampling_rate: theirs, in Hz.
      longest: seconds of a segment at most, 5 to 30.

    Yields:
      Each segment's first sample, counted from the beginning, and its samples.
    """
    first, waiting = 0, np.zeros(0, dtype=np.float32)
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        is_long = first > 0 or len(waiting) > WHOLE * sampling_rate
        while is_long and len(waiting) > longest * sampling_rate:
            cut = quietest(waiting, sampling_rate, longest=longest)
            yield first, waiting[:cut]
            first, waiting = first + cut, waiting[cut:]
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
