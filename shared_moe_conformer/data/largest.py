"""The batches that need most memory of all that a sampler can make of a cut set."""

from __future__ import annotations

import numpy as np

from shared_moe_conformer.data.batch import AsrBatch, collate
from shared_moe_conformer.data.joining import with_most_silence
from shared_moe_conformer.data.loaders import CutDataset
from shared_moe_conformer.data.stored_cuts import StoredCuts


def largest_batches(cuts: StoredCuts, dataset: CutDataset, *, max_duration: float) -> list[AsrBatch]:
    """Full batches of the longest cuts, of those with the most text for their frames, and of the shortest.

    The first has the longest frames to attend to, the second the largest lattices (frames by tokens, of which
    characters tell enough), the third the most utterances. Where training utterances get silence, these have as much
    of it as they can; where they are joined, each of the three is followed by itself, joined. Padding can make a batch
    of training a little larger than these, the more so the fewer the buckets.

    Args:
      cuts: the training split.
      dataset: loads them; nothing is masked, and no noise is mixed in.
      max_duration: audio in a batch, in seconds.
    """
    lattices = np.array([cut.duration * len(cut.supervisions[0].text) for cut in cuts])
    orders = (np.argsort(size, kind="stable") for size in (-cuts.durations, -lattices, cuts.durations))
    chosen = (_filled(order, cuts.durations, max_duration) for order in orders)
    plain = (dataset.examples(cuts[index] for index in indexes) for indexes in chosen)
    batches = (batch for examples in plain for batch in with_most_silence(examples, dataset.config))
    return [collate(batch * dataset.num_copies, num_copies=dataset.num_copies) for batch in batches]


def _filled(order: np.ndarray, durations: np.ndarray, max_duration: float) -> list[int]:
    """The first cuts, as many as stay within the duration, as a batch counts it: without padding; at least one."""
    within = np.cumsum(durations[order]) <= max_duration
    return order[: max(int(within.sum()), 1)].tolist()
