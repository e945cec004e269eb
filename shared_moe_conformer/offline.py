"""Recognition of whole recordings: they are cut at silences, searched in batches, and put together again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from shared_moe_conformer.config import FRAMES_PER_SECOND
from shared_moe_conformer.decoding.hypothesis import Hypothesis
from shared_moe_conformer.decoding.methods import decode_batch
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.resources import Resources
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.speech.audio import seconds_of
from shared_moe_conformer.speech.recognition import End, Recording, Samples, Segment, batches, pools, read_segments
from shared_moe_conformer.speech.transcript import EMPTY, Transcript

MAX_DURATION = 120.0
"""Seconds of audio that are recognised together."""


@dataclass(frozen=True, eq=False)
class OfflineRecognizer:
    """A model that recognises recordings of any length."""

    model: AsrModel
    """The model, in evaluation mode."""
    decoding: DecodingConfig
    resources: Resources
    """Graphs and whatever else the search uses."""
    features: Callable[[np.ndarray, int], Tensor]
    """Function from samples (num_samples,) and their rate in Hz to features (T, F)."""
    to_transcript: Callable[[Sequence[tuple[float, Hypothesis]]], Transcript]
    """Function from the starts (in seconds) and hypotheses of segments to their transcript."""
    longest: float
    """The longest segment, in seconds, of a recording that is cut."""

    def transcribe(
        self,
        recordings: Iterable[Recording],
        *,
        max_duration: float = MAX_DURATION,
        progress: bool = False,
        on_error: Callable[[int, Exception], None] | None = None,
        on_experts: Callable[[Segment, Tensor], None] | None = None,
    ) -> Iterator[Transcript]:
        """The transcript of each recording, in their order; the arguments are those of `Bundle.transcribe_many`."""
        found: dict[int, list[tuple[float, Hypothesis]]] = {}
        shown = progress and sys.stderr.isatty()
        total = _seconds(recordings) if shown else None  # this looks into every file
        with tqdm(total=total, unit="s", unit_scale=True, disable=not shown) as bar:
            for pool in pools(read_segments(recordings, self.features, longest=self.longest)):
                segments = [part for part in pool if isinstance(part, Segment)]
                for batch in batches(segments, max_duration=max_duration):
                    for segment, hyp in zip(batch, self._search(batch, on_experts)):
                        found.setdefault(segment.recording, []).append((segment.start, hyp))
                    bar.update(sum(len(segment.features) for segment in batch) / FRAMES_PER_SECOND)
                for end in (part for part in pool if isinstance(part, End)):
                    yield self._finish(end, found.pop(end.recording, []), on_error)

    @torch.inference_mode()
    def _search(
        self, batch: Sequence[Segment], on_experts: Callable[[Segment, Tensor], None] | None
    ) -> list[Hypothesis]:
        device = self.model.joiner.output.weight.device
        x_lens = torch.tensor([len(segment.features) for segment in batch], device=device)
        x = pad_sequence([segment.features for segment in batch], batch_first=True)
        encoder_output = self.model.encode(x.to(device), x_lens, self.decoding.chunking)
        if on_experts is not None and encoder_output.routing is not None:
            expert_ids = encoder_output.routing.expert_ids.cpu()
            for segment, ids in zip(batch, expert_ids.split(encoder_output.encoder_out_lens.tolist(), dim=1)):
                on_experts(segment, ids)
        return decode_batch(self.model, encoder_output, self.decoding, resources=self.resources)

    def _finish(
        self, end: End, found: list[tuple[float, Hypothesis]], on_error: Callable[[int, Exception], None] | None
    ) -> Transcript:
        """The transcript of a recording, given its segments' starts and hypotheses in any order."""
        if end.error is None:
            return self.to_transcript(sorted(found, key=lambda segment: segment[0]))
        if on_error is None:
            raise end.error
        on_error(end.recording, end.error)
        return EMPTY


def _seconds(recordings: Iterable[Recording]) -> float | None:
    """Audio of the recordings; None where they are not known before they are read."""
    if not isinstance(recordings, Sequence):
        return None
    return sum(len(r[0]) / r[1] if isinstance(r, Samples) else seconds_of(Path(r)) for r in recordings)
