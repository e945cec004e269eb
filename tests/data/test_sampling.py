from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from lhotse.utils import fastcopy

from shared_moe_conformer.data.batch import CutDataset
from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.sampling import largest_batches, plan_batches
from shared_moe_conformer.data.stored_cuts import StoredCuts
from tests.data.conftest import Corpus


def plan(durations: list[float], *, max_duration: float = 10.0, num_buckets: int = 4, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    batches = plan_batches(np.array(durations), max_duration=max_duration, num_buckets=num_buckets, generator=generator)
    return [batch.tolist() for batch in batches]


@given(st.lists(st.floats(0.1, 40.0), max_size=60), st.floats(0.5, 60.0), st.integers(1, 9))
def test_every_cut_is_in_one_batch_that_fits(durations: list[float], max_duration: float, num_buckets: int) -> None:
    batches = plan(durations, max_duration=max_duration, num_buckets=num_buckets)
    assert sorted(index for batch in batches for index in batch) == list(range(len(durations)))
    for batch in batches:
        assert batch and (len(batch) == 1 or sum(durations[i] for i in batch) <= max_duration + 1e-3)


def test_a_batch_holds_cuts_of_one_bucket_and_is_full() -> None:
    durations = [1.0] * 40 + [4.0] * 10
    batches = plan(durations, num_buckets=2)
    assert sorted(len(batch) for batch in batches) == [2] * 5 + [10] * 4
    assert all(len({durations[i] for i in batch}) == 1 for batch in batches)


def test_the_seed_decides_and_another_one_mixes_otherwise() -> None:
    durations = np.random.default_rng(0).uniform(1, 9, 200).tolist()
    assert plan(durations) == plan(durations)
    first, second = plan(durations), plan(durations, seed=1)
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    lengths = [max(durations[i] for i in batch) for batch in first]
    assert lengths != sorted(lengths)


def test_the_batches_are_full_and_of_extremes(corpus: Corpus) -> None:
    cuts = corpus.cuts("train")  # 0.6, 0.7, ... 2.9 s
    wordy = fastcopy(cuts[3], supervisions=[fastcopy(cuts[3].supervisions[0], text="ALPHA BRAVO " * 20)])
    dataset = CutDataset(corpus.tokenizer, corpus.config.data)
    split = StoredCuts([*cuts[:3], wordy, *cuts[4:]])
    longest, densest, shortest = largest_batches(split, dataset, max_duration=8.0)
    assert longest.cut_ids == ["train-23", "train-22"]
    assert densest.cut_ids[0] == "train-3"
    assert shortest.cut_ids == [f"train-{n}" for n in range(len(shortest.cut_ids))] and len(shortest.cut_ids) == 8
    assert longest.x.size(1) == int(longest.x_lens.max())


def test_no_batch_of_three_epochs_has_more_padded_frames(corpus: Corpus) -> None:
    config = corpus.config
    loader = AsrDataModule(config, corpus.recipe_dir, corpus.tokenizer).train_loader()
    largest = largest_batches(loader.cuts, loader.dataset, max_duration=config.data.max_duration)
    most = max(batch.x.size(0) * batch.x.size(1) for batch in largest)
    for epoch in range(1, 4):
        loader.set_epoch(epoch)
        assert all(batch.x.size(0) * batch.x.size(1) <= most for batch in loader)


def test_a_cut_longer_than_a_batch_is_a_batch(corpus: Corpus) -> None:
    cuts = StoredCuts(corpus.cuts("train"))
    longest, _, shortest = largest_batches(cuts, CutDataset(corpus.tokenizer, corpus.config.data), max_duration=0.1)
    assert longest.cut_ids == ["train-23"] and shortest.cut_ids == ["train-0"]
