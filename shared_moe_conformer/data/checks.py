"""Problems of utterances and prepared cuts, each in a line that names its cut."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from lhotse import MonoCut
from lhotse.cut import Cut, MixedCut
from lhotse.utils import compute_num_frames

from shared_moe_conformer.config import FRAME_SHIFT, FeatureConfig, require, subsampled_length
from shared_moe_conformer.data.recordings import SILENCE_DB, Level
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.data.utterances import Utterance
from shared_moe_conformer.text import counted, first_line, shown

MIN_DURATION, MAX_DURATION = 0.3, 30.0
"""Seconds; icefall's usual 1 to 20 would drop a third of a corpus of short prompts."""
OVERLAP_KINDS = ("text", "recording")
"""Kinds of things that two splits may not share."""
MAX_CHARACTERS_PER_SECOND = 30.0
"""More than anybody says: the recording is cut off, or the text is another's."""
SLOWEST, FASTEST = 0.9, 1.1
"""Speeds of the copies that training makes."""
MAX_CLIPPED_SHARE = 1e-3
MAX_SHOWN = 3
"""Problems that one message names."""
MAX_LEFT_OUT_SHARE = 0.1
"""Largest share of training cuts or texts that may be left out; where more are faulty, something is wrong with all."""
MAX_SILENT_SHARE = 0.8


class Problem(str):
    """A line that says what is wrong with a cut, and begins with the cut's name."""

    cut_id: str
    kind: str
    """The fault in a word or two; problems are counted by it."""

    def __new__(cls, cut_id: str, kind: str, message: str, *, split: str = "") -> Problem:
        """`cut-7: empty transcript`, or with a split `cut-7 (test): ...`."""
        problem = super().__new__(cls, f"{cut_id}{f' ({split})' if split else ''}: {message}")
        problem.cut_id, problem.kind = cut_id, kind
        return problem


def reason_to_drop(utterance: Utterance, *, min_duration: float, max_duration: float) -> str | None:
    """Why an utterance cannot be trained on or scored; None where it can."""
    if not min_duration <= utterance.duration <= max_duration:
        return f"{utterance.duration:.2f} s long, not {min_duration:g} to {max_duration:g}"
    if len(utterance.text) * FASTEST > MAX_CHARACTERS_PER_SECOND * utterance.duration:
        return f"{len(utterance.text)} characters cannot be said in {utterance.duration:.2f} s"
    return None


def complaints(level: Level) -> list[str]:
    """Flaws of a recording that can be trained on all the same, in words."""
    found = []
    if level.clipped_share > MAX_CLIPPED_SHARE:
        found.append(f"clipped: {level.clipped_share:.1%} of the samples are at full scale")
    if level.silent_share > MAX_SILENT_SHARE:
        found.append(f"mostly silence: {level.silent_share:.0%} of it is below {SILENCE_DB:.0f} dB")
    return found


def frames_needed(tokens: list[int]) -> int:
    """The fewest encoder frames in which CTC can emit the tokens: one each, and a blank between equal neighbours.

    Source: Graves et al. 2006, Connectionist Temporal Classification, section 3.1.
    """
    return len(tokens) + sum(map(operator.eq, tokens, tokens[1:]))


def check_cut(
    cut: Cut,
    tokenizer: Tokenizer | None = None,
    *,
    min_duration: float = MIN_DURATION,
    max_duration: float = MAX_DURATION,
) -> list[Problem]:
    """Problems that the manifest alone shows; without a tokenizer, those of a cut that has no features yet."""
    problems = []
    if not min_duration <= cut.duration <= max_duration:
        message = f"{cut.duration:.2f} s long, not {min_duration:g} to {max_duration:g}"
        problems.append(Problem(cut.id, "duration", message))
    if any(s.start < -0.01 or s.end > cut.duration + 0.01 for s in cut.supervisions):
        problems.append(Problem(cut.id, "supervisions", "supervision reaches beyond the cut"))
    if len(cut.supervisions) != 1:
        message = f"{len(cut.supervisions)} supervisions where one is expected"
        return [*problems, Problem(cut.id, "supervisions", message)]
    text = cut.supervisions[0].text or ""
    if not text.strip():
        return [*problems, Problem(cut.id, "empty text", "empty transcript")]
    if len(text) > MAX_CHARACTERS_PER_SECOND * cut.duration:
        message = f"{len(text)} characters cannot be said in {cut.duration:.2f} s"
        problems.append(Problem(cut.id, "too much text", message))
    if tokenizer is None:
        return problems
    problems += check_units(cut, tokenizer, num_frames=cut.num_frames if cut.has_features else None)
    return problems if cut.has_features else [*problems, Problem(cut.id, "no features", "no features")]


def check_units(cut: Cut, tokenizer: Tokenizer, *, num_frames: int | None) -> list[Problem]:
    """Problems of a text as tokens, for a number of feature frames; None: there may be any number."""
    problems, text = [], cut.supervisions[0].text
    unknown = tokenizer.unknown_characters(text)
    if unknown:
        message = f"the tokenizer does not know {', '.join(map(shown, unknown))}"
        problems.append(Problem(cut.id, "unknown characters", message))
    if num_frames is None:
        return problems
    needed, frames = frames_needed(tokenizer.encode([text])[0]), subsampled_length(num_frames)
    if frames < needed:
        message = f"{frames} frames after subsampling, its tokens need {needed}"
        problems.append(Problem(cut.id, "too many tokens", message))
    return problems


def unfit(cut: Cut, config: FeatureConfig) -> str:
    """The reason for which a config cannot use a cut's features, stored or to be computed; empty: it can."""
    if not cut.has_features:
        if not cut.has_recording:
            return "neither features nor a recording"
        channels = cut.num_channels
        return "" if channels == 1 else f"{channels} channels: make cuts of one channel (CutSet.to_mono)"
    if cut.num_features != config.num_mel_bins:
        return f"{cut.num_features} mel bins, the config says {config.num_mel_bins}"
    if abs(cut.frame_shift - FRAME_SHIFT) > 1e-6:
        return f"a frame every {cut.frame_shift:g} s, not every {FRAME_SHIFT:g} s"
    parts = [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]
    rates = {part.features.sampling_rate for part in parts if isinstance(part, MonoCut)} - {config.sampling_rate}
    if rates:
        return (
            f"computed at {min(rates)} Hz, the config says {config.sampling_rate}: prepare them again with "
            f"--sampling-rate {config.sampling_rate}, or train with --sampling-rate {min(rates)}"
        )
    return ""


def check_utterance(cut: Cut, tokenizer: Tokenizer, config: FeatureConfig) -> list[Problem]:
    """Problems that keep a cut out of training and scoring, from its manifest alone."""
    if problems := check_cut(cut, min_duration=0.0, max_duration=float("inf")):
        return problems
    if reason := unfit(cut, config):
        return [Problem(cut.id, "features", reason)]
    frames = cut.num_frames if cut.has_features else compute_num_frames(cut.duration, FRAME_SHIFT, cut.sampling_rate)
    return check_units(cut, tokenizer, num_frames=frames)


def refuse(problems: Sequence[Problem], where: Path | str) -> None:
    """Raise `ValueError` with the first problems, if there are any."""
    first = "; ".join(problems[:MAX_SHOWN])
    require(not problems, f"{counted(len(problems), 'problem')} in {where}: {first}; see local/validate_cuts.py")


def refuse_many(problems: Sequence[Problem], num_good: int, where: Path | str) -> None:
    """Raise `ValueError` if more than a tenth of the training cuts have problems."""
    num_faulty = len({problem.cut_id for problem in problems})
    if num_faulty > MAX_LEFT_OUT_SHARE * (num_good + num_faulty):
        refuse(problems, where)


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
            values = {("text", s.text) for s in cut.supervisions if s.text}
            sources = cut.recording.sources if cut.has_recording else ()
            values |= {("recording", str(source.source)) for source in sources}
            for kind, value in values:
                other_split, other_id = first_seen.setdefault((kind, value), (split, cut.id))
                if other_split != split and kind in kinds:
                    message = f"same {kind} as {other_id} ({other_split})"
                    problems.append(Problem(cut.id, f"same {kind}", message, split=split))
    return problems
