from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lhotse import CutSet
from lhotse.utils import fastcopy

from shared_moe_conformer.data.batch import AsrBatch, CutDataset
from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.loaders import (
    WHOLE,
    EvalLoader,
    Part,
    TrainLoader,
    largest_batches,
    plan_batches,
)
from shared_moe_conformer.data.manifests import StoredCuts
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


def train_loader(
    corpus: Corpus,
    *,
    seed: int = 7,
    part: Part = WHOLE,
    accumulate_batches: int = 1,
    num_copies: int = 1,
    **data: Any,
) -> TrainLoader:
    config = dataclasses.replace(corpus.config.data, **data)
    dataset = CutDataset(corpus.tokenizer, config, num_copies=num_copies)
    return TrainLoader(
        StoredCuts(corpus.cuts("train")), dataset, seed=seed, part=part, accumulate_batches=accumulate_batches
    )


def eval_loader(corpus: Corpus, *, part: Part = WHOLE, **data: Any) -> EvalLoader:
    dataset = CutDataset(corpus.tokenizer, dataclasses.replace(corpus.config.data, **data))
    return EvalLoader(CutSet.from_cuts(corpus.cuts("train")), dataset, part=part)


def ids(batches: list[AsrBatch]) -> list[list[str]]:
    return [batch.cut_ids for batch in batches]


def assert_equal(first: list[AsrBatch], second: list[AsrBatch]) -> None:
    assert ids(first) == ids(second)
    for one, other in zip(first, second):
        assert all(torch.equal(a, b) for a, b in zip(one[:4], other[:4]))
        assert one.texts == other.texts


def test_an_epoch_holds_every_cut_once_in_batches_that_fit(corpus: Corpus) -> None:
    loader = train_loader(corpus)
    for epoch in (1, 2, 3):
        loader.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader) > 1
        assert sorted(cut_id for batch in batches for cut_id in batch.cut_ids) == sorted(
            cut.id for cut in corpus.cuts("train")
        )
        for batch in batches:
            assert sum(sorted(batch.x_lens.tolist())[:-1]) <= 800, "8 s at most, and one cut more"


def test_a_batch_holds_what_its_cuts_say(corpus: Corpus) -> None:
    cuts = {cut.id: cut for cut in corpus.cuts("train")}
    for batch in train_loader(corpus, num_time_masks=0, num_freq_masks=0):
        for i, cut_id in enumerate(batch.cut_ids):
            features = torch.from_numpy(cuts[cut_id].load_features())
            assert torch.equal(batch.x[i, : batch.x_lens[i]], features)
            assert batch.texts[i] == cuts[cut_id].supervisions[0].text
            assert corpus.tokenizer.decode(batch.y[i, : batch.y_lens[i]].tolist()) == batch.texts[i]


def test_seed_and_epoch_decide_everything(corpus: Corpus) -> None:
    first, again = train_loader(corpus), train_loader(corpus)
    again.set_epoch(5)
    list(again)
    again.set_epoch(1)
    first_epoch = list(first)
    assert_equal(first_epoch, list(again))
    first.set_epoch(2)
    assert ids(list(first)) != ids(first_epoch)
    assert ids(list(train_loader(corpus, seed=8))) != ids(first_epoch)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(corpus: Corpus, num_workers: int) -> None:
    assert_equal(list(train_loader(corpus)), list(train_loader(corpus, num_workers=num_workers)))
    assert_equal(list(eval_loader(corpus)), list(eval_loader(corpus, num_workers=num_workers)))


def test_global_random_state_is_left_alone(corpus: Corpus) -> None:
    before = torch.get_rng_state()
    list(train_loader(corpus))
    list(eval_loader(corpus))
    assert torch.equal(before, torch.get_rng_state())


def test_a_cut_that_a_worker_cannot_read_is_one_line(corpus: Corpus) -> None:
    loader = train_loader(corpus, num_workers=1)
    cuts = corpus.cuts("train")
    cuts[5].features.storage_path = "/none"
    loader.cuts = StoredCuts(cuts)
    with pytest.raises(ValueError, match=r"^cut train-5 cannot be read: .*none.*$"):
        list(loader)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("taken", [0, 1, 3, 100])
def test_a_resumed_epoch_goes_on_where_it_stopped(corpus: Corpus, taken: int, num_workers: int) -> None:
    whole = train_loader(corpus)
    whole.set_epoch(3)
    expected = list(whole)

    stopped = train_loader(corpus, num_workers=num_workers)
    stopped.set_epoch(3)
    begun = [batch for _, batch in zip(range(taken), stopped)]
    resumed = train_loader(corpus, num_workers=num_workers)
    resumed.load_state_dict(stopped.state_dict())
    assert resumed.epoch == 3 and len(resumed) == len(expected)
    assert_equal(begun + list(resumed), expected)
    assert list(resumed) == [], "an epoch is given once"
    resumed.set_epoch(3)
    assert_equal(list(resumed), expected)


def test_a_state_of_other_batches_is_refused(corpus: Corpus) -> None:
    state = train_loader(corpus).state_dict()
    for other in (train_loader(corpus, seed=8), train_loader(corpus, max_duration=5.0)):
        with pytest.raises(ValueError, match="other batches"):
            other.load_state_dict(state)


def test_masks_in_training_only_and_new_ones_each_epoch(corpus: Corpus) -> None:
    masks: dict[str, Any] = {"num_time_masks": 2, "max_time_mask_fraction": 0.5}
    plain = {cut.id: torch.from_numpy(cut.load_features()) for cut in corpus.cuts("train")}

    def changed(batches: list[AsrBatch]) -> dict[str, torch.Tensor]:
        pairs = ((cut_id, x[:n], plain[cut_id]) for b in batches for cut_id, x, n in zip(b.cut_ids, b.x, b.x_lens))
        return {cut_id: x != features for cut_id, x, features in pairs}

    assert not any(mask.any() for mask in changed(list(eval_loader(corpus, **masks))).values())
    loader = train_loader(corpus, **masks)
    first = changed(list(loader))
    loader.set_epoch(2)
    second = changed(list(loader))
    assert sum(mask.any() for mask in first.values()) > 20
    assert sum(torch.equal(first[cut_id], second[cut_id]) for cut_id in first) < 3


def test_copies_differ_in_their_masks_alone_and_resume_at_the_same_bits(corpus: Corpus) -> None:
    plain = {cut.id: torch.from_numpy(cut.load_features()) for cut in corpus.cuts("train")}
    loader, resumed = (train_loader(corpus, num_copies=2, num_time_masks=2, num_freq_masks=0) for _ in range(2))
    batches = list(loader)
    for batch in batches:
        half = len(batch.cut_ids) // 2
        assert batch.num_copies == 2 and batch.cut_ids[:half] == batch.cut_ids[half:]
        for tensor in batch[1:4]:
            assert torch.equal(tensor[:half], tensor[half:])
        assert not torch.equal(batch.x[:half], batch.x[half:])
        for cut_id, x, n in zip(batch.cut_ids, batch.x, batch.x_lens):
            same = (x[:n] == plain[cut_id]).all(dim=1)
            torch.testing.assert_close(x[:n][~same], plain[cut_id].mean(dim=0).expand_as(x[:n][~same]))
    assert all(batch.num_copies == 1 for batch in eval_loader(corpus))
    next(iter(resumed))
    other = train_loader(corpus, num_copies=2, num_time_masks=2, num_freq_masks=0)
    other.load_state_dict(resumed.state_dict())
    assert_equal(list(other), batches[1:])


def test_evaluation_is_the_same_each_time_and_complete(corpus: Corpus) -> None:
    loader = eval_loader(corpus)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert_equal(batches, list(loader))
    lengths = [length for batch in batches for length in batch.x_lens.tolist()]
    assert lengths == sorted(lengths, reverse=True) and len(lengths) == 24


@pytest.mark.parametrize(("max_duration", "num_buckets"), [(0.1, 10), (1000.0, 100)])
def test_extreme_sizes_still_give_every_cut(corpus: Corpus, max_duration: float, num_buckets: int) -> None:
    for loader in (train_loader, eval_loader):
        batches = list(loader(corpus, max_duration=max_duration, num_buckets=num_buckets))
        assert sum(len(batch.cut_ids) for batch in batches) == 24


@pytest.mark.parametrize("count", [2, 3, 5])
def test_processes_divide_an_epoch_and_no_cut_is_seen_twice(corpus: Corpus, count: int) -> None:
    loaders = [train_loader(corpus, part=Part(rank, count)) for rank in range(count)]
    for epoch in (1, 2):
        parts = []
        for loader in loaders:
            loader.set_epoch(epoch)
            parts.append(list(loader))
            assert len(parts[-1]) == len(loader) == len(loaders[0]), "all take part in every update"
        seen = [cut_id for part in parts for batch in part for cut_id in batch.cut_ids]
        assert sorted(seen) == sorted(cut.id for cut in corpus.cuts("train"))


def test_an_update_of_two_processes_is_that_of_one_that_accumulates_two_batches(corpus: Corpus) -> None:
    alone = list(train_loader(corpus, accumulate_batches=2))
    parts = [list(train_loader(corpus, part=Part(rank, 2))) for rank in range(2)]
    assert_equal(alone, [batch for update in zip(*parts) for batch in update])
    assert len(alone) % 2 == 0


def test_a_process_resumes_its_part_and_another_number_of_processes_does_not(corpus: Corpus) -> None:
    whole, stopped = (train_loader(corpus, part=Part(1, 2)) for _ in range(2))
    rest = list(whole)[1:]
    next(iter(stopped))
    resumed = train_loader(corpus, part=Part(1, 2))
    resumed.load_state_dict(stopped.state_dict())
    assert_equal(list(resumed), rest)
    with pytest.raises(ValueError, match="number of processes"):
        train_loader(corpus).load_state_dict(stopped.state_dict())


def test_too_few_cuts_for_another_update_are_left_out(corpus: Corpus) -> None:
    assert len(train_loader(corpus, part=Part(0, 25))) == 0
    (few,) = train_loader(corpus, part=Part(3, 13), max_duration=0.1)
    assert len(few.cut_ids) == 1


@pytest.mark.parametrize("count", [2, 30])
def test_processes_divide_a_split_to_validate_on(corpus: Corpus, count: int) -> None:
    parts = [ids(list(eval_loader(corpus, part=Part(rank, count)))) for rank in range(count)]
    everything = [batch for part in parts for batch in part]
    assert sorted(everything) == sorted(ids(list(eval_loader(corpus))))


def test_the_batches_of_an_update_are_of_similar_sizes(corpus: Corpus) -> None:
    """Padded durations of two processes differ less than those of batches in random order would."""
    parts = [[padded(batch) for batch in train_loader(corpus, part=Part(rank, 2), max_duration=3.0)] for rank in (0, 1)]
    differences = sum(abs(a - b) for a, b in zip(*parts))
    shifted = sum(abs(a - b) for a, b in zip(parts[0], parts[1][1:] + parts[1][:1]))
    assert len(parts[0]) > 3 and differences < 0.5 * shifted


def test_the_updates_of_an_epoch_come_in_another_order_in_the_next(corpus: Corpus) -> None:
    loader = train_loader(corpus, part=Part(0, 2), max_duration=3.0)
    first = [padded(batch) for batch in loader]
    loader.set_epoch(2)
    assert first != [padded(batch) for batch in loader] and first != sorted(first)


def padded(batch: AsrBatch) -> int:
    return batch.x.size(0) * batch.x.size(1)


def test_a_cut_above_max_duration_is_a_batch_by_itself_without_a_warning(corpus: Corpus) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader = eval_loader(corpus, max_duration=0.01)
    assert [len(cut_ids) for cut_ids in ids([*loader])] == [1] * len(corpus.cuts("train"))
