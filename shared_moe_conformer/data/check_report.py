"""A report about cut sets before anything is trained on them, in words and a picture."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lhotse import MonoCut

from shared_moe_conformer.atomic import atomic_file, write_whole
from shared_moe_conformer.config import subsampled_length
from shared_moe_conformer.data.checks import MAX_CHARACTERS_PER_SECOND, Problem, complaints, frames_needed
from shared_moe_conformer.data.marks import marks_in
from shared_moe_conformer.data.recordings import Level
from shared_moe_conformer.data.tokenizer import Tokenizer

MAX_LINES = 1000
"""Lines of each kind that a report has at most."""
MAX_SPOTS = 4000
"""Cuts in a picture at most."""
NUM_BINS = 24
"""Bins of a histogram."""


class CutFacts(NamedTuple):
    """The facts about one cut that a report needs."""

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
    marks: tuple[str, ...] = ()
    """Marks in its text that may be no words."""


class CheckReport(NamedTuple):
    """All that was found."""

    facts: list[CutFacts]
    problems: list[Problem]
    """Each makes a cut useless."""

    @property
    def notices(self) -> list[Problem]:
        """Flaws that are no reason to leave a cut out."""
        heard = [(fact.cut_id, text) for fact in self.facts if fact.level for text in complaints(fact.level)]
        marked = [(fact.cut_id, f"mark: {', '.join(fact.marks)}: is it said?") for fact in self.facts if fact.marks]
        return [Problem(cut_id, text.split(":")[0], text) for cut_id, text in heard + marked]

    @property
    def splits(self) -> dict[str, list[CutFacts]]:
        """The facts of each split."""
        splits: dict[str, list[CutFacts]] = {}
        for fact in self.facts:
            splits.setdefault(fact.split, []).append(fact)
        return splits


def facts_of(cut: MonoCut, split: str, tokenizer: Tokenizer | None = None, level: Level | None = None) -> CutFacts:
    """The facts about a cut, which may be faulty; its recording has the level, if that was read."""
    text = " ".join(s.text or "" for s in cut.supervisions)
    frames = subsampled_length(cut.num_frames) if cut.has_features else None
    needed = frames_needed(tokenizer.encode([text])[0]) if tokenizer is not None else None
    return CutFacts(cut.id, split, cut.duration, len(text), frames, needed, level, tuple(marks_in(text)))


def write_report(found: CheckReport, folder: Path) -> tuple[Path, Path]:
    """Write checks.txt and checks.png into a folder; their paths."""
    text, picture = folder / "checks.txt", folder / "checks.png"
    write_whole(text, report_text(found))
    with atomic_file(picture) as file:
        draw(found).savefig(file, format="png", dpi=110)
    return text, picture


def report_text(found: CheckReport) -> str:
    """The report in words: the splits' sizes, then every fault."""
    sizes = "".join(_split_line(split, facts) for split, facts in found.splits.items())
    notices = _listed("notices (nothing is left out for them)", found.notices)
    return "\n".join([sizes, _listed("problems", found.problems), notices])


def _split_line(split: str, facts: Sequence[CutFacts]) -> str:
    durations = [fact.duration for fact in facts]
    rate = sum(fact.num_characters for fact in facts) / max(sum(durations), 1e-9)
    median = statistics.median(durations)
    return (
        f"{split}: {len(facts)} cuts, {sum(durations) / 3600:.2f} hours, {min(durations):.2f} to {max(durations):.2f}"
        f" s (median {median:.2f} s), {rate:.1f} characters a second\n"
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


def draw(found: CheckReport) -> Any:
    """The picture: a matplotlib figure with a panel for each thing that is known."""
    from matplotlib.figure import Figure  # half a second, and no display is needed without pyplot

    has_levels = any(fact.level for fact in found.facts)
    panels = [_durations, _rates, _lengths, *([_peaks, _shares] if has_levels else []), _kinds]
    figure = Figure(figsize=(14, 8), layout="constrained")
    for panel, axes in zip(panels, figure.subplots(2, len(panels) // 2).flatten()):
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        panel(axes, found)
    return figure


def _durations(axes: Any, found: CheckReport) -> None:
    _histogram(axes, found, lambda fact: fact.duration)
    axes.set(title="Durations", xlabel="seconds")


def _rates(axes: Any, found: CheckReport) -> None:
    most = 1.5 * MAX_CHARACTERS_PER_SECOND
    _histogram(axes, found, lambda fact: min(fact.num_characters / max(fact.duration, 1e-9), most))
    axes.axvline(MAX_CHARACTERS_PER_SECOND, color="firebrick", linestyle=":")
    axes.set(title="Speech rates (dotted: the most that can be said)", xlabel="characters a second")


def _lengths(axes: Any, found: CheckReport) -> None:
    """Encoder frames against what the tokens need; before there is a tokenizer, characters against seconds."""
    bad = {problem.cut_id for problem in found.problems}
    pairs: list[tuple[str, float, float]] = [
        (fact.cut_id, fact.frames_needed, fact.frames)
        for fact in found.facts
        if fact.frames is not None and fact.frames_needed is not None
    ]
    if pairs:
        axes.set(title="Lengths (below the line: too many tokens)", xlabel="frames that the tokens need")
        axes.set(ylabel="frames after subsampling")
        most = max(needed for _, needed, _ in pairs)
        axes.plot([0, most], [0, most], color="firebrick", linestyle=":")
    else:
        pairs = [(fact.cut_id, fact.num_characters, fact.duration) for fact in found.facts]
        axes.set(title="Durations against texts", xlabel="characters", ylabel="seconds")
    good = [(x, y) for cut_id, x, y in pairs[:: len(pairs) // MAX_SPOTS + 1] if cut_id not in bad]
    faulty = [(x, y) for cut_id, x, y in pairs if cut_id in bad][:MAX_SPOTS]
    if good:
        axes.scatter(*zip(*good), s=8, color="tab:blue", label="good", marker="o", alpha=0.5)
    if faulty:
        axes.scatter(*zip(*faulty), s=30, color="firebrick", label="faulty", marker="x")
    axes.legend()


def _peaks(axes: Any, found: CheckReport) -> None:
    _histogram(axes, found, lambda fact: fact.level and fact.level.peak)
    axes.set(title="Peaks of the recordings", xlabel="largest sample (1: full scale)")


def _shares(axes: Any, found: CheckReport) -> None:
    for split, facts in found.splits.items():
        levels = [fact.level for fact in facts if fact.level]
        shown = levels[:: len(levels) // MAX_SPOTS + 1]
        silent, clipped = [100 * level.silent_share for level in shown], [100 * level.clipped_share for level in shown]
        axes.scatter(silent, clipped, s=10, alpha=0.5, label=split)
    axes.set(title="Silence and clipping", xlabel="silent frames in percent", ylabel="samples at full scale in percent")
    axes.set_xlim(-2, 102)
    axes.set_ylim(bottom=-0.01, top=max(0.5, axes.get_ylim()[1]))
    axes.legend()


def _kinds(axes: Any, found: CheckReport) -> None:
    axes.set(title=f"{len(found.problems)} problems, {len(found.notices)} notices", xlabel="cuts")
    bars = [
        (f"{kind}{mark}", count, colour)
        for its, mark, colour in ((found.problems, "", "firebrick"), (found.notices, " (notice)", "goldenrod"))
        for kind, count in Counter(problem.kind for problem in its).most_common()
    ]
    if not bars:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "nothing to complain about", ha="center", transform=axes.transAxes, color="gray")
        return
    names, counts, colours = zip(*bars)
    axes.bar_label(axes.barh(names, counts, color=colours), padding=3)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(counts))
    axes.xaxis.get_major_locator().set_params(integer=True)


def _histogram(axes: Any, found: CheckReport, value: Callable[[CutFacts], float | None]) -> None:
    """Outlines of the splits over each other, in percent of each; a value that is not known is left out."""
    known = {split: [v for v in map(value, facts) if v is not None] for split, facts in found.splits.items()}
    values = {split: part for split, part in known.items() if part}
    weights = [[100 / len(part)] * len(part) for part in values.values()]
    axes.hist(list(values.values()), NUM_BINS, weights=weights, histtype="step", linewidth=1.8, label=list(values))
    axes.set_ylabel("percent of the split's cuts")
    axes.legend()
