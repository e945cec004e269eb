"""What is wrong with prepared cuts: each problem one line that names its cut."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import soundfile
from lhotse import MonoCut, Recording

from shared_moe_conformer.config import subsampled_length
from shared_moe_conformer.data.levels import Level, measure_level
from shared_moe_conformer.data.problem import Problem
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.text import first_line

MIN_DURATION, MAX_DURATION = 0.3, 30.0
"""Seconds; icefall's usual 1 to 20 would drop a third of a corpus of short prompts."""
OVERLAP_KINDS = ("text", "recording")
"""What two splits may not share."""
MAX_CHARACTERS_PER_SECOND = 30.0
"""More than anybody says: the recording is cut off, or the text is another's."""


class Fault(NamedTuple):
    """What is wrong with a recording, of which several cuts may be parts."""

    kind: str
    """As a `Problem`'s."""
    message: str


class Examined(NamedTuple):
    """What was found in a recording."""

    faults: list[Fault]
    level: Level | None
    """None where there is none."""


def frames_needed(tokens: list[int]) -> int:
    """The fewest encoder frames in which CTC can emit the tokens: one each, and a blank between equal neighbours.

    Source: Graves et al. 2006, Connectionist Temporal Classification, section 3.1.
    """
    return len(tokens) + sum(map(operator.eq, tokens, tokens[1:]))


def check_cut(
    cut: MonoCut,
    tokenizer: Tokenizer | None = None,
    *,
    min_duration: float = MIN_DURATION,
    max_duration: float = MAX_DURATION,
) -> list[Problem]:
    """Problems that the manifest alone shows; without a tokenizer, those of a cut that has no features yet."""
    problems = _check_duration(cut, min_duration, max_duration)
    if len(cut.supervisions) != 1:
        return [
            *problems,
            Problem(cut.id, "supervisions", f"{len(cut.supervisions)} supervisions where one is expected"),
        ]
    text = cut.supervisions[0].text or ""
    if not text.strip():
        return [*problems, Problem(cut.id, "empty text", "empty transcript")]
    if len(text) > MAX_CHARACTERS_PER_SECOND * cut.duration:
        message = f"{len(text)} characters cannot be said in {cut.duration:.2f} s"
        problems.append(Problem(cut.id, "too much text", message))
    if tokenizer is not None:
        problems += _check_units(cut, text, tokenizer)
    return problems


def check_features(cut: MonoCut) -> list[Problem]:
    """Problems of the stored features themselves."""
    if not cut.has_features:
        return [Problem(cut.id, "no features", "no features")]
    try:
        features = cut.load_features()
    except Exception as error:  # storage backends have their own
        message = f"features in {cut.features.storage_path} cannot be read ({first_line(error)})"
        return [Problem(cut.id, "unreadable", message)]
    if features is None or len(features) == 0:
        return [Problem(cut.id, "no features", "features of no frames")]
    return [] if np.isfinite(features).all() else [Problem(cut.id, "not finite", "features hold NaN or infinity")]


def examine_recording(recording: Recording) -> Examined:
    """The faults and the level of a recording, which is read from its beginning to its end."""
    source = recording.sources[0]
    try:
        samples = source.load_audio()
    except Exception as error:  # audio backends have their own
        return Examined([Fault("unreadable", f"{source.source} cannot be read ({first_line(error)})")], None)
    if not np.isfinite(samples).all():
        return Examined([Fault("not finite", "recording holds NaN or infinity")], None)
    faults = []
    if not recording.transforms:  # with them, rate and length are those after them
        faults += _check_rate(recording)
        if samples.shape[-1] != recording.num_samples:  # Lhotse itself mends up to 0.5 s in silence
            message = f"{source.source} has {samples.shape[-1]} samples, not {recording.num_samples}"
            faults.append(Fault("length", message))
    if not np.any(samples):
        faults.append(Fault("silence", "recording is digital silence"))
    return Examined(faults, measure_level(samples, recording.sampling_rate))


def check_duplicates(cuts: Iterable[MonoCut]) -> list[Problem]:
    """Ids that occur more than once, in all splits together."""
    counts = Counter(cut.id for cut in cuts)
    return [Problem(cut_id, "same id", f"{count} cuts have this id") for cut_id, count in counts.items() if count > 1]


def check_overlap(splits: Mapping[str, Iterable[MonoCut]], *, kinds: Sequence[str] = OVERLAP_KINDS) -> list[Problem]:
    """Cuts whose text, or whose recording, is in an earlier split too: such a test would flatter the model.

    Args:
      splits: cuts by the name of their split.
      kinds: what is compared; official splits of a corpus may share texts.
    """
    first_seen: dict[tuple[str, str], tuple[str, str]] = {}
    problems = []
    for split, cuts in splits.items():
        for cut in cuts:
            for kind, value in _fingerprints(cut, kinds):
                other_split, other_id = first_seen.setdefault((kind, value), (split, cut.id))
                if other_split != split:
                    message = f"same {kind} as {other_id} ({other_split})"
                    problems.append(Problem(cut.id, f"same {kind}", message, split=split))
    return problems


def _check_duration(cut: MonoCut, min_duration: float, max_duration: float) -> list[Problem]:
    problems = []
    if not min_duration <= cut.duration <= max_duration:
        message = f"{cut.duration:.2f} s long, not {min_duration:g} to {max_duration:g}"
        problems.append(Problem(cut.id, "duration", message))
    if any(s.start < -0.01 or s.end > cut.duration + 0.01 for s in cut.supervisions):
        problems.append(Problem(cut.id, "supervisions", "supervision reaches beyond the cut"))
    return problems


def _check_rate(recording: Recording) -> list[Fault]:
    """The rate in the file's head must be the manifest's: otherwise all sounds slower or faster than it was."""
    source = recording.sources[0]
    rate = soundfile.info(str(source.source)).samplerate if source.type == "file" else recording.sampling_rate
    if rate == recording.sampling_rate:
        return []
    message = f"{source.source} is at {rate} Hz, its manifest says {recording.sampling_rate} Hz"
    return [Fault("sampling rate", message)]


def _check_units(cut: MonoCut, text: str, tokenizer: Tokenizer) -> list[Problem]:
    problems = []
    unknown = tokenizer.unknown_characters(text)
    if unknown:
        message = f"the tokenizer does not know {' '.join(map(repr, unknown))}"
        problems.append(Problem(cut.id, "unknown characters", message))
    if not cut.has_features:
        return [*problems, Problem(cut.id, "no features", "no features")]
    needed, frames = frames_needed(tokenizer.encode([text])[0]), subsampled_length(cut.num_frames)
    if frames < needed:
        message = f"{frames} frames after subsampling, its tokens need {needed}"
        problems.append(Problem(cut.id, "too many tokens", message))
    return problems


def _fingerprints(cut: MonoCut, kinds: Sequence[str]) -> set[tuple[str, str]]:
    texts = {("text", s.text) for s in cut.supervisions if s.text}
    recordings = {("recording", str(source.source)) for source in cut.recording.sources}
    return {fingerprint for fingerprint in texts | recordings if fingerprint[0] in kinds}
