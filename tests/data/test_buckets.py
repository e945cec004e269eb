from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared_moe_conformer.data.buckets import plan_batches


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


def test_the_seed_decides_and_another_one_mixes_anew() -> None:
    durations = np.random.default_rng(0).uniform(1, 9, 200).tolist()
    assert plan(durations) == plan(durations)
    first, second = plan(durations), plan(durations, seed=1)
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    lengths = [max(durations[i] for i in batch) for batch in first]
    assert lengths != sorted(lengths)
