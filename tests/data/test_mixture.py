from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

import pytest
from lhotse import CutSet
from lhotse.utils import fastcopy

from shared_moe_conformer.config import FeatureConfig
from shared_moe_conformer.data.cut_sources import UtteranceCheck, open_sources
from shared_moe_conformer.data.mixture import Mixture, survey
from tests.data.conftest import Corpus

SPLITS = ("data/fbank/cuts_train.jsonl.gz", "data/fbank/cuts_dev.jsonl.gz")


def mixture(corpus: Corpus, *weights: float, endless: bool) -> Mixture:
    check = UtteranceCheck(corpus.tokenizer, FeatureConfig())
    return Mixture(open_sources(SPLITS, corpus.recipe_dir), weights, check, endless)


@pytest.mark.parametrize("share", [0.2, 0.75])
def test_weights_are_shares_of_an_endless_mixture(corpus: Corpus, share: float) -> None:
    drawn = itertools.islice(mixture(corpus, share, 1 - share, endless=True).part(0, 1, seed=1), 1500)
    counts = Counter(cut.id.split("-")[0] for cut in drawn)
    assert counts["train"] / 1500 == pytest.approx(share, abs=0.04)


def test_parts_of_a_mixture_with_an_end_have_every_cut_once(corpus: Corpus) -> None:
    parts = [list(mixture(corpus, 24, 4, endless=False).part(index, 3, seed=1)) for index in range(3)]
    ids = [cut.id for part in parts for cut in part]
    assert len(ids) == len(set(ids)) == 28 and all(parts)


def test_a_survey_counts_and_leaves_out(corpus: Corpus, tmp_path: Path) -> None:
    cuts = corpus.cuts("train")
    bad = fastcopy(cuts[5], supervisions=[fastcopy(cuts[5].supervisions[0], text="")])
    check = UtteranceCheck(corpus.tokenizer, FeatureConfig())
    CutSet.from_cuts([*cuts[:5], bad, *cuts[6:]]).to_file(tmp_path / "a.jsonl.gz")
    found = survey(open_sources(("a.jsonl.gz",), tmp_path), check, limit=None)
    assert len(found) == 23 and found.left_out == ["train-5: empty transcript"]
    assert found.seconds == pytest.approx(sum(cut.duration for cut in cuts) - bad.duration)
    assert len(survey(open_sources(("a.jsonl.gz",), tmp_path), check, limit=3)) == 3
    bins = found.duration_bins(4)
    assert bins == sorted(bins) and 2 <= len(bins) <= 3
    assert found.duration_bins(1) == [math.inf]
    assert found.num_batches(1, 1000.0, num_parts=4) == 2, "half a batch for each part's rest"
    assert found.num_batches(1, 3.0, num_parts=1) == pytest.approx(found.seconds / 3, rel=0.5)
    CutSet.from_cuts([*cuts[:4], bad]).to_file(tmp_path / "b.jsonl.gz")
    with pytest.raises(ValueError, match=r"1 problems in b.jsonl.gz: train-5: empty transcript"):
        survey(open_sources(("b.jsonl.gz",), tmp_path), check, limit=None)
