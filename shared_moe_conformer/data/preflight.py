"""What cut sets are like before anything is trained on them: a report in words and a picture."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lhotse import MonoCut

from shared_moe_conformer.atomic import atomic_file
from shared_moe_conformer.config import subsampled_length
from shared_moe_conformer.data.checks import MAX_CHARACTERS_PER_SECOND, frames_needed
from shared_moe_conformer.data.levels import Level, complaints
from shared_moe_conformer.data.problem import Problem
from shared_moe_conformer.data.tokenizer import Tokenizer

MAX_LINES = 1000
"""Lines of each kind that a report has at most."""
MAX_SPOTS = 4000
"""Cuts in a picture at most."""
NUM_BINS = 24
"""Of a histogram."""


class CutFacts(NamedTuple):
    """What a report says of one cut."""

    cut_id: str
    split: str
    duration: float
    """Seconds."""
    num_characters: int
    frames: int | None = None
    """Encoder frames; None without features."""
    frames_needed: int | None = None
    """The fewest that its tokens need; None without a tokenizer."""
    level: Level | None = None
    """None where the audio was not read."""


class Preflight(NamedTuple):
    """All that was found."""

    facts: list[CutFacts]
    problems: list[Problem]
    """Each makes a cut useless."""

    @property
    def notices(self) -> list[Problem]:
        """What is not good and yet no reason to leave a cut out."""
        return [
            Problem(fact.cut_id, text.split(":")[0], text)
            for fact in self.facts
            if fact.level is not None
            for text in complaints(fact.level)
        ]


def facts_of(cut: MonoCut, split: str, tokenizer: Tokenizer | None = None, level: Level | None = None) -> CutFacts:
    """What the report says of a cut.

    Args:
      cut: it may be faulty.
      split: that it is in.
      tokenizer: None before there is one.
      level: of its recording, if it was read.
    """
    text = " ".join(s.text or "" for s in cut.supervisions)
    frames = subsampled_length(cut.num_frames) if cut.has_features else None
    needed = frames_needed(tokenizer.encode([text])[0]) if tokenizer is not None else None
    return CutFacts(cut.id, split, cut.duration, len(text), frames, needed, level)


def report_text(found: Preflight) -> str:
    """The report in words: the splits' sizes, then every fault."""
    parts = ["".join(_split_line(split, facts) for split, facts in _by_split(found.facts).items())]
    parts.append(_listed("problems", found.problems))
    parts.append(_listed("notices (nothing is left out for them)", found.notices))
    return "\n".join(parts)


def write_report(found: Preflight, folder: Path) -> tuple[Path, Path]:
    """Write checks.txt and checks.png into a folder; their paths."""
    text, picture = folder / "checks.txt", folder / "checks.png"
    with atomic_file(text) as file:
        file.write(report_text(found).encode())
    with atomic_file(picture) as file:
        draw(found).savefig(file, format="png", dpi=110)
    return text, picture


def draw(found: Preflight) -> Any:
    """The picture: a matplotlib figure with a panel for each thing that is known."""
    from matplotlib.figure import Figure  # half a second, and no display is needed without pyplot

    splits = _by_split(found.facts)
    levels = {s: part for s, facts in splits.items() if (part := [f.level for f in facts if f.level is not None])}
    panels = [
        lambda axes: _durations(axes, splits),
        lambda axes: _rates(axes, splits),
        lambda axes: _lengths(axes, found.facts, {problem.cut_id for problem in found.problems}),
        *([lambda axes: _peaks(axes, levels), lambda axes: _shares(axes, levels)] if levels else []),
        lambda axes: _kinds(axes, found),
    ]
    figure = Figure(figsize=(14, 8), layout="constrained")
    for panel, axes in zip(panels, figure.subplots(2, len(panels) // 2).flatten()):
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        panel(axes)
    return figure


def _by_split(facts: Sequence[CutFacts]) -> dict[str, list[CutFacts]]:
    splits: dict[str, list[CutFacts]] = {}
    for fact in facts:
        splits.setdefault(fact.split, []).append(fact)
    return splits


def _split_line(split: str, facts: Sequence[CutFacts]) -> str:
    durations = [fact.duration for fact in facts]
    rate = sum(fact.num_characters for fact in facts) / max(sum(durations), 1e-9)
    shortest, median, longest = min(durations), statistics.median(durations), max(durations)
    return (
        f"{split}: {len(facts)} cuts, {sum(durations) / 3600:.2f} hours, {shortest:.2f} to {longest:.2f} s "
        f"(median {median:.2f} s), {rate:.1f} characters a second\n"
    )


def _listed(title: str, problems: Sequence[Problem]) -> str:
    """How many of each kind, and each by its cut."""
    if not problems:
        return f"no {title}\n"
    kinds = Counter(problem.kind for problem in problems)
    lines = [f"{len(problems)} {title}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())]
    lines += [f"  {problem}" for problem in problems[:MAX_LINES]]
    lines += [f"  ... and {len(problems) - MAX_LINES} more"] if len(problems) > MAX_LINES else []
    return "\n".join(lines) + "\n"


def _durations(axes: Any, splits: Mapping[str, list[CutFacts]]) -> None:
    _histogram(axes, {split: [fact.duration for fact in facts] for split, facts in splits.items()})
    axes.set(title="Durations", xlabel="seconds")


def _rates(axes: Any, splits: Mapping[str, list[CutFacts]]) -> None:
    rates = {s: [f.num_characters / max(f.duration, 1e-9) for f in facts] for s, facts in splits.items()}
    clipped = {
        split: [min(rate, 1.5 * MAX_CHARACTERS_PER_SECOND) for rate in values] for split, values in rates.items()
    }
    _histogram(axes, clipped)
    axes.axvline(MAX_CHARACTERS_PER_SECOND, color="firebrick", linestyle=":")
    axes.set(title="Speech rates (dotted: the most that can be said)", xlabel="characters a second")


def _lengths(axes: Any, facts: Sequence[CutFacts], bad: set[str]) -> None:
    """Encoder frames against what the tokens need; before there is a tokenizer, characters against seconds."""
    known = [fact for fact in facts if fact.frames is not None and fact.frames_needed is not None]
    pairs: list[tuple[str, float, float]] = [(f.cut_id, f.frames_needed or 0, f.frames or 0) for f in known]
    if known:
        axes.set(title="Lengths (below the line: too many tokens)", ylabel="frames after subsampling")
        axes.set(xlabel="frames that the tokens need")
    else:
        pairs = [(fact.cut_id, fact.num_characters, fact.duration) for fact in facts]
        axes.set(title="Durations against texts", xlabel="characters", ylabel="seconds")
    spots = pairs[:: len(pairs) // MAX_SPOTS + 1]
    for colour, wanted, name in (("tab:blue", False, "good"), ("firebrick", True, "faulty")):
        shown = [(x, y) for cut_id, x, y in (pairs if wanted else spots) if (cut_id in bad) == wanted]
        if shown:
            axes.scatter(*zip(*shown[:MAX_SPOTS]), s=8 if not wanted else 30, color=colour, label=name,
                         marker="x" if wanted else "o", alpha=0.5 if not wanted else 1.0)  # fmt: skip
    if known:
        most = max(fact.frames_needed or 0 for fact in known)
        axes.plot([0, most], [0, most], color="firebrick", linestyle=":")
    axes.legend()


def _peaks(axes: Any, levels: Mapping[str, list[Level]]) -> None:
    _histogram(axes, {split: [level.peak for level in part] for split, part in levels.items()})
    axes.set(title="Peaks of the recordings", xlabel="largest sample (1: full scale)")


def _shares(axes: Any, levels: Mapping[str, list[Level]]) -> None:
    for split, part in levels.items():
        shown = part[:: len(part) // MAX_SPOTS + 1]
        silent, clipped = (
            [100 * getattr(level, name) for level in shown] for name in ("silent_share", "clipped_share")
        )
        axes.scatter(silent, clipped, s=10, alpha=0.5, label=split)
    axes.set(title="Silence and clipping", xlabel="silent frames in percent", ylabel="samples at full scale in percent")
    axes.set_xlim(-2, 102)
    axes.set_ylim(bottom=-0.01, top=max(0.5, axes.get_ylim()[1]))
    axes.legend()


def _kinds(axes: Any, found: Preflight) -> None:
    problems = Counter(problem.kind for problem in found.problems).most_common()
    notices = Counter(problem.kind for problem in found.notices).most_common()
    axes.set(title=f"{len(found.problems)} problems, {len(found.notices)} notices", xlabel="cuts")
    if not problems + notices:
        _absent(axes, "nothing to complain about")
        return
    names = [*(kind for kind, _ in problems), *(f"{kind} (notice)" for kind, _ in notices)]
    counts = [count for _, count in problems + notices]
    colours = ["firebrick"] * len(problems) + ["goldenrod"] * len(notices)
    axes.barh(names, counts, color=colours)
    for row, count in enumerate(counts):
        axes.text(count, row, f" {count}", va="center")
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(counts))
    axes.xaxis.get_major_locator().set_params(integer=True)


def _histogram(axes: Any, values: Mapping[str, Sequence[float]]) -> None:
    """Outlines of the splits over each other, in percent of each."""
    everything = [value for part in values.values() for value in part]
    low, high = min(everything), max(everything)
    edges = [low + (high - low + 1e-6) * n / NUM_BINS for n in range(NUM_BINS + 1)]
    for split, part in values.items():
        weights = [100 / len(part)] * len(part)
        axes.hist(part, bins=edges, weights=weights, histtype="step", linewidth=1.8, label=split)
    axes.set_ylabel("percent of the split's cuts")
    axes.legend()


def _absent(axes: Any, why: str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes, color="gray")
