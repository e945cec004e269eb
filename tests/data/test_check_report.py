from __future__ import annotations

from pathlib import Path

import pytest
from lhotse.utils import fastcopy

from shared_moe_conformer.data.check_report import CheckReport, CutFacts, draw, facts_of, report_text, write_report
from shared_moe_conformer.data.checks import Problem
from shared_moe_conformer.data.recordings import Level
from tests.data.conftest import Corpus

LOUD, GOOD = Level(1.0, 0.05, 0.0), Level(0.5, 0.0, 0.1)
FACTS = [
    CutFacts("a", "train", 2.0, 30, 49, 12, LOUD),
    CutFacts("b", "train", 4.0, 50, 99, 20, GOOD),
    CutFacts("c", "dev", 6.0, 0),
]
FOUND = CheckReport(FACTS, [Problem("c", "empty text", "empty transcript"), Problem("a", "duration", "2.00 s long")])


def test_the_facts_of_a_cut_are_those_that_the_checks_look_at(corpus: Corpus) -> None:
    cut = corpus.cuts("train")[4]
    facts = facts_of(cut, "train", corpus.tokenizer, GOOD)
    text = cut.supervisions[0].text
    assert facts[:4] == (cut.id, "train", cut.duration, len(text)) and facts.level == GOOD
    assert facts.frames == ((cut.num_frames - 1) // 2 - 1) // 2
    assert facts.frames_needed is not None and facts.frames_needed >= len(corpus.tokenizer.encode([text])[0])
    bare = facts_of(fastcopy(cut, features=None, supervisions=[]), "train")
    assert (bare.num_characters, bare.frames, bare.frames_needed, bare.level) == (0, None, None, None)


def test_the_report_names_every_problem_and_counts_the_kinds() -> None:
    text = report_text(FOUND)
    assert "train: 2 cuts, 0.00 hours, 2.00 to 4.00 s (median 3.00 s), 13.3 characters a second" in text
    assert "2 problems: 1 empty text, 1 duration" in text
    assert "  c: empty transcript\n  a: 2.00 s long\n" in text
    assert "1 notices" in text and "  a: clipped: 5.0% of the samples are at full scale" in text
    assert "no problems" in report_text(CheckReport(FACTS[1:2], []))
    marked = FACTS[1]._replace(marks=("(laughs)",))
    assert "1 notices (nothing is left out for them): 1 mark\n  b: mark: (laughs): is it said?" in report_text(
        CheckReport([marked], [])
    )


@pytest.mark.parametrize(
    ("found", "num_panels"), [(FOUND, 6), (CheckReport(FACTS[2:], []), 4), (CheckReport([FACTS[0]] * 9000, []), 6)]
)
def test_the_picture_has_a_panel_for_all_that_is_known(found: CheckReport, num_panels: int) -> None:
    titles = [axes.get_title() for axes in draw(found).axes]
    assert len(titles) == num_panels and ("Silence and clipping" in titles) == (num_panels == 6)
    assert titles[0] == "Durations" and titles[-1].startswith(f"{len(found.problems)} problems")


def test_both_are_written(tmp_path: Path) -> None:
    text, picture = write_report(FOUND, tmp_path)
    assert text.read_text() == report_text(FOUND)
    assert picture.read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 2
