"""Ten minutes of held-out speech as one recording: is its text that of the utterances it is made of?

    python -m benchmarks.long_text egs/asterisk/ASR zoo/asterisk-en

The recipe's test and dev utterances are joined, with half a second of silence between two of them, in one random order
after the other until there are ten minutes; five such recordings. Four ways to recognise one: each utterance alone;
each utterance alone after so much silence, which recordings often begin with and utterances of corpora do not;
the recording as `transcribe` does it, cut at silences into segments of about the length of the training's utterances;
the recording whole, as one utterance.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lhotse import MonoCut

from benchmarks.tables import Table, markdown
from benchmarks.timing import peak_resident_memory, resident_memory
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.data.manifests import read_cuts
from shared_moe_conformer.decoding.methods import decode_batch
from shared_moe_conformer.decoding.scoring import num_errors
from shared_moe_conformer.device import tune_cpu
from shared_moe_conformer.speech.recognition import Samples

SPLITS = "test", "dev"
PAUSE = 0.5
"""Seconds."""
NUM_RECORDINGS = 5


class Utterance(NamedTuple):
    """One of those joined."""

    samples: np.ndarray
    sampling_rate: int
    text: str


class Way(NamedTuple):
    """Errors, memory and time of one way to recognise a recording."""

    name: str
    wer: float
    """In percent, as all error rates here."""
    more: float
    """Its WER less that of the first way."""
    others: float
    """Words that differ from the first way's, in percent of these."""
    peak: float
    """MiB of memory more than before."""
    seconds: float
    """Seconds of CPU time."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path, help="its data must be prepared")
    parser.add_argument("bundle", type=Path, help="a model of the recipe")
    parser.add_argument("--minutes", type=float, default=10.0)
    args = parser.parse_args()
    tune_cpu(1)
    bundle = Bundle.load(args.bundle)
    cuts = [c for split in SPLITS for c in read_cuts(args.recipe / "data/manifests", split, recipe_dir=args.recipe)]
    found = [measured(bundle, joined(cuts, seconds=60 * args.minutes, seed=seed)) for seed in range(NUM_RECORDINGS)]
    print(markdown(summary(found, args.minutes)))


def measured(bundle: Bundle, utterances: Sequence[Utterance]) -> list[Way]:
    """The ways to recognise the recording that these utterances make."""
    sampling_rate = utterances[0].sampling_rate
    pause = np.zeros(int(PAUSE * sampling_rate), dtype=np.float32)
    recording = np.concatenate([part for utterance in utterances for part in (utterance.samples, pause)])
    apart = [Samples(utterance.samples, sampling_rate) for utterance in utterances]
    late = [Samples(np.concatenate([pause, samples]), sampling_rate) for samples, _ in apart]
    ways: dict[str, Callable[[], list[str]]] = {
        "each utterance by itself": lambda: [found.text for found in bundle.transcribe_many(apart)],
        "each utterance by itself, after silence": lambda: [found.text for found in bundle.transcribe_many(late)],
        "the recording, cut at silences": lambda: [bundle.transcribe(recording, sampling_rate=sampling_rate).text],
        "the recording, as one utterance": lambda: [whole(bundle, recording, sampling_rate)],
    }
    return compared(ways, " ".join(utterance.text for utterance in utterances).split())


def joined(cuts: Sequence[MonoCut], *, seconds: float, seed: int) -> list[Utterance]:
    """As many utterances as there are in so much of a recording."""
    found: list[Utterance] = []
    length = 0.0
    for cut in in_random_orders(cuts, seed=seed):
        if length > seconds:
            break
        found.append(Utterance(cut.load_audio()[0], cut.sampling_rate, cut.supervisions[0].text))
        length += cut.duration + PAUSE
    return found


def in_random_orders(cuts: Sequence[MonoCut], *, seed: int) -> Iterator[MonoCut]:
    """All of them, and all of them again, without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield from (cuts[i] for i in rng.permutation(len(cuts)))


@torch.inference_mode()
def whole(bundle: Bundle, recording: np.ndarray, sampling_rate: int) -> str:
    """The text of a recording that is not cut."""
    features = bundle.features(recording, sampling_rate)
    encoder_output = bundle.model.encode(features.unsqueeze(0), torch.tensor([len(features)]))
    (hyp,) = decode_batch(bundle.model, encoder_output, bundle.default_search)
    return bundle.tokenizer.decode(hyp.tokens)


def compared(ways: dict[str, Callable[[], list[str]]], reference: list[str]) -> list[Way]:
    """Word errors, words that differ from the first way's, memory and time of each way."""
    found: list[Way] = []
    first: list[str] = []
    for name, recognise in ways.items():
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before, begin = resident_memory(), time.process_time()
        words = " ".join(recognise()).split()
        seconds, peak = time.process_time() - begin, peak_resident_memory() - before
        first = first or words
        wer, others = (100 * num_errors(x, words) / len(x) for x in (reference, first))
        found.append(Way(name, wer, wer - (found[0].wer if found else wer), others, peak, seconds))
    return found


def summary(recordings: Sequence[list[Way]], minutes: float) -> Table:
    """Means over the recordings; of the WER's increase the range, too; the most memory of any."""
    rows = []
    for ways in zip(*recordings):
        mean = Way(ways[0].name, *map(statistics.fmean, zip(*(way[1:] for way in ways))))
        more = [way.more for way in ways]
        increase = f"{mean.more:.1f} [{min(more):.1f}, {max(more):.1f}]"
        rows.append([mean.name, mean.wer, increase, mean.others, max(way.peak for way in ways), mean.seconds])
    columns = ["", "WER %", "more than the first's", "words that differ from the first's, %", "peak MiB", "s, CPU"]
    return Table(f"{len(recordings)} recordings of {minutes:g} minutes", columns, rows)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
