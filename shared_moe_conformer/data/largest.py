"""The batches that need most memory of all that a sampler can make of a cut set."""

from __future__ import annotations

from collections.abc import Iterable

from lhotse import CutSet, MonoCut

from shared_moe_conformer.data.batch import AsrBatch
from shared_moe_conformer.data.loaders import CutDataset, PlannedBatch


def largest_batches(cuts: CutSet, dataset: CutDataset, *, max_duration: float) -> list[AsrBatch]:
    """Three full batches: of the longest cuts, of those with the most text for their frames, and of the shortest.

    The first has the longest frames to attend to, the second the largest lattices (frames by tokens, of which
    characters tell enough), the third the most utterances. Padding can make a batch of training a little larger than
    these, the more so the fewer the buckets.

    Args:
      cuts: the training split.
      dataset: loads them; nothing is masked or mixed.
      max_duration: audio in a batch, in seconds.
    """
    orders = (
        sorted(cuts, key=lambda cut: -cut.duration),
        sorted(cuts, key=lambda cut: -cut.duration * len(cut.supervisions[0].text)),
        sorted(cuts, key=lambda cut: cut.duration),
    )
    return [dataset[PlannedBatch(CutSet.from_cuts(_filled(order, max_duration)), None)] for order in orders]


def _filled(cuts: Iterable[MonoCut], max_duration: float) -> list[MonoCut]:
    """The first cuts, as many as stay within the duration, as the sampler counts it: without padding; at least one."""
    batch: list[MonoCut] = []
    total = 0.0
    for cut in cuts:
        total += cut.duration
        if batch and total > max_duration:
            break
        batch.append(cut)
    return batch
