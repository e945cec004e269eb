from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared_moe_conformer.config import DataConfig, FeatureConfig
from shared_moe_conformer.data.batch import AsrBatch, Example
from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.features import compute_features
from shared_moe_conformer.data.joining import (
    DIGITAL_SILENCE,
    GAP,
    LONGEST_JOINED,
    MARGIN,
    with_most_silence,
    with_silence,
)
from tests.data.conftest import Corpus

LENGTHS = st.lists(st.integers(1, 900), min_size=1, max_size=9)
ALWAYS = DataConfig(join_probability=1.0, silence_probability=1.0)


def example(number: int, length: int) -> Example:
    """Its frames hold its number, as an energy that no silence has."""
    features = torch.full((length, 4), 1.0 + number)
    return Example(features, [number, number], f"cut{number}", f"TEXT {number}")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def speech_of(features: Tensor) -> Tensor:
    return features[features[:, 0] > 0, 0]


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(0, 2**31))
def test_all_that_is_said_comes_once_in_order_with_its_tokens(lengths: list[int], seed: int) -> None:
    examples = [example(i, length) for i, length in enumerate(lengths)]
    quiet = [e._replace(features=torch.cat([e.features, torch.full((99, 4), -5.0)])) for e in examples]
    found = with_silence(quiet, ALWAYS, generator=generator(seed))
    expected = torch.cat([e.features[:, 0] for e in examples])
    assert torch.equal(torch.cat([speech_of(e.features) for e in found]), expected)
    assert [token for e in found for token in e.tokens] == [token for e in examples for token in e.tokens]
    assert "+".join(e.cut_id for e in found) == "+".join(e.cut_id for e in examples)
    assert " ".join(e.text for e in found) == " ".join(e.text for e in examples)
    for e in found:
        assert set(e.features[e.features <= 0].tolist()) <= {-5.0, torch.tensor(DIGITAL_SILENCE).item()}


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(0, 2**31))
def test_joined_utterances_are_short_enough_and_alike_in_number(lengths: list[int], seed: int) -> None:
    config = dataclasses.replace(ALWAYS, silence_probability=0.0)
    found = with_silence([example(i, n) for i, n in enumerate(lengths)], config, generator=generator(seed))
    numbers = [e.cut_id.count("+") + 1 for e in found]
    together = max(numbers)
    assert numbers[:-1] == [together] * (len(numbers) - 1)
    assert together == 1 or together in (2, 3) and together * max(lengths) <= LONGEST_JOINED or len(found) == 1
    for number, e in zip(numbers, found):
        gaps = len(e.features) - sum(lengths[int(name[3:])] for name in e.cut_id.split("+"))
        assert (number - 1) * GAP[0] <= gaps <= (number - 1) * GAP[1]


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(0, 2**31), st.booleans(), st.booleans())
def test_no_batch_is_larger_than_the_largest(lengths: list[int], seed: int, join: bool, silence: bool) -> None:
    examples = [example(i, n) for i, n in enumerate(lengths)]
    config = DataConfig(join_probability=join, silence_probability=silence)
    separate, *joined = with_most_silence(examples, config)
    found = with_silence(examples, config, generator=generator(seed))
    assert len(joined) <= join and max(len(e.tokens) for e in found) <= max(
        len(e.tokens) for e in [separate, *joined][-1]
    )
    frames = [sum(len(e.features) for e in batch) for batch in (found, separate, *joined)]
    assert frames[0] <= max(frames[1:])
    assert silence or join or frames[0] == frames[1] == sum(lengths)


def test_digital_silence_is_what_features_make_of_zeros() -> None:
    features = compute_features(np.zeros(16000, dtype=np.float32), 16000, FeatureConfig())
    torch.testing.assert_close(features, torch.full_like(features, DIGITAL_SILENCE))


def test_both_happen_as_often_as_they_should_and_silence_is_of_both_kinds() -> None:
    config = DataConfig(join_probability=0.3, silence_probability=0.6)
    draws = [with_silence([example(0, 40), example(1, 40)], config, generator=generator(seed)) for seed in range(500)]
    assert 0.24 < sum(len(found) == 1 for found in draws) / 500 < 0.36
    alone = [found[0].features for found in draws if len(found) == 2]
    extended = [features for features in alone if len(features) > 40]
    assert 0.52 < len(extended) / len(alone) < 0.68
    assert max(map(len, extended)) > 40 + 1.7 * MARGIN[1]
    digital = [bool((features[0] < 0).all()) for features in extended]
    assert 0.35 < sum(digital) / len(digital) < 0.6, "the others begin with the utterance's own frames, or with speech"


def batches(corpus: Corpus, **options: Any) -> list[AsrBatch]:
    data = dataclasses.replace(corpus.config.data, num_time_masks=0, num_freq_masks=0, **options)
    config = dataclasses.replace(corpus.config, data=data)
    return list(AsrDataModule(config, corpus.recipe_dir, corpus.tokenizer).train_loader())


def test_training_batches_are_joined_and_validation_is_not(corpus: Corpus) -> None:
    plain, joined = batches(corpus), batches(corpus, join_probability=1.0)
    for before, after in zip(plain, joined, strict=True):
        names = [name for joined_ids in after.cut_ids for name in joined_ids.split("+")]
        assert names == before.cut_ids
        assert int(after.y_lens.sum()) == int(before.y_lens.sum())
        assert corpus.tokenizer.encode(after.texts) == [
            y[:length].tolist() for y, length in zip(after.y, after.y_lens)
        ], "tokens joined are those of the joined text"
    assert sum(len(b.cut_ids) for b in joined) < sum(len(b.cut_ids) for b in plain)
    config = dataclasses.replace(corpus.config, data=dataclasses.replace(corpus.config.data, join_probability=1.0))
    loader = AsrDataModule(config, corpus.recipe_dir, corpus.tokenizer).dev_loader()
    assert not any("+" in name for batch in loader for name in batch.cut_ids)


@pytest.mark.parametrize("name", ["join_probability", "silence_probability"])
def test_probabilities_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 1.5: give a number from 0 to 1"):
        DataConfig(**{name: 1.5})
