"""A tiny corpus of noise: enough for everything that does not need to understand speech."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from shared_moe_conformer.config import Config, DataConfig, FeatureConfig, ModelConfig
from shared_moe_conformer.data.feature_files import store_features
from shared_moe_conformer.data.manifests import read_cuts
from shared_moe_conformer.data.tokenizer import Tokenizer, train_tokenizer

WORDS = ["ALPHA", "BRAVO", "CHARLIE", "DELTA", "ECHO", "FOXTROT", "GOLF", "HOTEL", "INDIA", "JULIET"]


class Corpus(NamedTuple):
    """A recipe's folder with prepared splits train (24 cuts), dev (4) and test (4), at 8 kHz."""

    recipe_dir: Path
    config: Config
    tokenizer: Tokenizer

    def cuts(self, split: str) -> list[MonoCut]:
        return list(read_cuts(self.recipe_dir / "data/fbank", split, recipe_dir=self.recipe_dir))


def noise_cut(folder: Path, cut_id: str, text: str, *, duration: float, sampling_rate: int = 8000) -> MonoCut:
    """A cut of noise in a wav file of its own."""
    rng = np.random.default_rng(abs(hash(duration)))
    samples = 0.1 * rng.standard_normal(int(duration * sampling_rate))
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / f"{cut_id}.wav", samples, sampling_rate, subtype="PCM_16")
    recording = Recording.from_file(folder / f"{cut_id}.wav", recording_id=cut_id)
    supervision = SupervisionSegment(cut_id, cut_id, start=0.0, duration=recording.duration, text=text)
    return MonoCut(cut_id, 0.0, recording.duration, 0, recording=recording, supervisions=[supervision])


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    recipe_dir = tmp_path_factory.mktemp("recipe")
    texts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(recipe_dir)
        for split, count in (("train", 24), ("dev", 4), ("test", 4)):
            cuts = []
            for i in range(count):
                text = f"{WORDS[i % 10]} {WORDS[(i * 3 + len(split)) % 10]}"
                cuts.append(noise_cut(Path("audio"), f"{split}-{i}", text, duration=0.6 + 0.1 * i))
                texts.append(text)
            store_features(CutSet.from_cuts(cuts), split, directory=Path("data/fbank"), config=FeatureConfig())
    tokenizer = train_tokenizer(texts, recipe_dir / "data/lang", 40)
    config = Config(
        model=ModelConfig(vocab_size=40),
        data=DataConfig(lang_dir="data/lang", max_duration=8.0, num_buckets=3, num_workers=0),
    )
    return Corpus(recipe_dir, config, tokenizer)
