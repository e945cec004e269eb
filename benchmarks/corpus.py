"""A made-up corpus in a temporary folder: cuts of noise with words, and configs for it."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from shared_moe_conformer.config import Config, DataConfig, ModelConfig
from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.tokenizer import Tokenizer, train_tokenizer

WORDS = ["ALPHA", "BRAVO", "CHARLIE", "DELTA", "ECHO", "FOXTROT", "GOLF", "HOTEL", "INDIA", "JULIET"]
VOCAB_SIZE = 40
FEATURES, LANG = Path("data/fbank"), Path("data/lang")


@contextmanager
def temporary_corpus(num_recordings: int, *, seconds: float) -> Iterator[CutSet]:
    """Cuts of noise at 16 kHz in a working folder of their own, each all of its recording, and a tokenizer."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # manifests have relative paths
        try:
            rng = np.random.default_rng(0)
            cuts = CutSet.from_cuts(make_cut(f"cut-{i}", rng, seconds=seconds) for i in range(num_recordings))
            train_tokenizer([cut.supervisions[0].text for cut in cuts], LANG, VOCAB_SIZE)
            yield cuts
        finally:
            os.chdir(before)


def make_cut(cut_id: str, rng: np.random.Generator, *, seconds: float) -> MonoCut:
    """A cut, with two words a second, and its file."""
    path = Path("audio") / f"{cut_id}.wav"
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, 0.1 * rng.standard_normal(int(seconds * 16000)), 16000, subtype="PCM_16")
    recording = Recording.from_file(path, recording_id=cut_id)
    return part_of(recording, cut_id, rng, start=0.0, duration=recording.duration)


def part_of(recording: Recording, cut_id: str, rng: np.random.Generator, *, start: float, duration: float) -> MonoCut:
    """A cut of a recording, with two words a second."""
    text = " ".join(rng.choice(WORDS, max(int(2 * duration), 1)))
    supervision = SupervisionSegment(cut_id, recording.id, start=0.0, duration=duration, text=text)
    return MonoCut(cut_id, start, duration, 0, recording=recording, supervisions=[supervision])


def make_config(model: ModelConfig | None = None, *, max_duration: float = 80.0) -> Config:
    """A config of the folder."""
    data = DataConfig(lang_dir=str(LANG), manifest_dir=str(FEATURES), max_duration=max_duration, num_workers=0)
    return Config(model=model or ModelConfig(vocab_size=VOCAB_SIZE), data=data)


def data_module(config: Config) -> AsrDataModule:
    """The folder's."""
    return AsrDataModule(config, Path("."), Tokenizer.load(LANG))


def cpu_seconds() -> float:
    """CPU seconds of this process and of those that it has started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
