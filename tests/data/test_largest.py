from __future__ import annotations

from lhotse.utils import fastcopy

from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.largest import largest_batches
from shared_moe_conformer.data.loaders import CutDataset
from shared_moe_conformer.data.stored_cuts import StoredCuts
from tests.data.conftest import Corpus


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
