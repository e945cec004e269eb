from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from shared_moe_conformer.decoding.scoring import (
    Decoded,
    Scores,
    character_error_rate,
    read_transcripts,
    summary_text,
    transcripts_text,
    word_error_rate,
    write_files,
)

# One substitution (C by X), one deletion (D), one insertion (E), one utterance without a hypothesis (two deletions).
RESULTS = [
    Decoded("cut-2", "A B C D", "A B X"),
    Decoded("cut-1", "A B", "A E B"),
    Decoded("cut-3", "LONG WORDS", ""),
]


def scores(method: str = "greedy_search", results: list[Decoded] = RESULTS) -> Scores:
    return Scores("test", method, f"{method}-beam-4", word_error_rate(results), character_error_rate(results), 0.125)


def test_word_errors_of_a_hand_aligned_case() -> None:
    rate = word_error_rate(RESULTS)
    assert (rate.insertions, rate.deletions, rate.substitutions, rate.ref_len) == (1, 3, 1, 8)
    assert rate.percent == pytest.approx(100 * 5 / 8)
    assert 0 <= rate.low < rate.percent < rate.high


def test_character_errors_ignore_spaces() -> None:
    rate = character_error_rate([Decoded("cut", "AB CD", "A BCX")])
    assert (rate.insertions, rate.deletions, rate.substitutions, rate.ref_len) == (0, 0, 1, 4)


def test_interval_narrows_with_more_utterances() -> None:
    few = word_error_rate(RESULTS)
    many = word_error_rate(RESULTS * 20)
    assert many.percent == pytest.approx(few.percent)
    assert many.high - many.low < (few.high - few.low) / 2


def test_no_interval_has_less_than_no_errors() -> None:
    rate = word_error_rate([Decoded("a", "A B C", "A B X"), *(Decoded(f"{n}", "A B", "A B") for n in range(9))])
    assert rate.low == 0 < rate.percent < rate.high


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(ValueError, match="no transcript"):
        word_error_rate([Decoded("cut", "", "A")])


def test_files_in_the_form_of_icefall(tmp_path: Path) -> None:
    recogs, errs, summary = write_files(RESULTS, scores(), tmp_path / "greedy_search", suffix="epoch-3-avg-2-beam-4")
    assert [path.name for path in (recogs, errs, summary)] == [
        f"{kind}-test-epoch-3-avg-2-beam-4.txt" for kind in ("recogs", "errs", "wer-summary")
    ]
    assert recogs.read_text().splitlines()[:2] == ["cut-1:\tref=['A', 'B']", "cut-1:\thyp=['A', 'E', 'B']"]
    text = errs.read_text()
    assert text.splitlines()[:2] == [
        "%WER = 62.50",
        "Errors: 1 insertions, 3 deletions, 1 substitutions, over 8 reference words (4 correct)",
    ]
    assert "cut-2:\tA B (C->*) (D->X)" in text or "cut-2:\tA B (C->X) (D->*)" in text
    assert "cut-1:\tA (*->E) B" in text
    assert "cut-3:\t(LONG->*) (WORDS->*)" in text
    assert section(text, "INSERTIONS: count hyp") == ["1   E"]
    assert section(text, "DELETIONS: count ref")[0].startswith("1   ")
    words = section(text, "PER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp")
    assert {"A   2 0 2 2", "E   0 1 0 1", "LONG   0 1 1 0"} < set(words)
    header, row = (line.split("\t") for line in summary.read_text().splitlines())
    assert (header[:2], row[:2]) == (["settings", "WER"], ["greedy_search-beam-4", "62.50"])
    assert dict(zip(header, row))["RTF"] == "0.1250"


def test_the_lists_of_errors_add_up_to_the_counts(tmp_path: Path) -> None:
    results = [*RESULTS, Decoded("cut-4", "A B C", "X B X"), Decoded("cut-5", "A", "* A")]
    rate = word_error_rate(results)
    _, errs, _ = write_files(results, scores(results=results), tmp_path, suffix="x")
    text = errs.read_text()
    for title, count in (
        ("SUBSTITUTIONS: count ref -> hyp", rate.substitutions),
        ("DELETIONS: count ref", rate.deletions),
        ("INSERTIONS: count hyp", rate.insertions),
    ):
        assert sum(int(line.split()[0]) for line in section(text, title)) == count
    correct = sum(int(line.split()[-4]) for line in section(text, "PER-WORD STATS: word  corr tot_errs"))
    assert correct == sum(map(int, re.findall(r"\((\d+) correct\)", text)))


def test_recogs_hold_every_word(tmp_path: Path) -> None:
    results = [Decoded("cut", "L'ÉTÉ d'or", "«\"quoted\" 'words'»")]
    recogs, *_ = write_files(results, scores(results=results), tmp_path, suffix="x")
    ref, hyp = (ast.literal_eval(line.split("=", 1)[1]) for line in recogs.read_text(encoding="utf-8").splitlines()[:2])
    assert (" ".join(ref), " ".join(hyp)) == results[0][1:]


def test_names_are_never_longer_than_files_may_have(tmp_path: Path) -> None:
    """As of searches with many hotwords; those that differ in their last letters alone stay apart."""
    names: set[str] = set()
    for settings in ("Ä" * 200 + "A", "Ä" * 200 + "B"):
        oracle = scores()._replace(is_oracle=True, settings=settings)
        paths = write_files(RESULTS, oracle, tmp_path, suffix=f"epoch-3-avg-2-{settings}")
        assert all(path.name.startswith("oracle-") and "-test-epoch-3-avg-2-ÄÄ" in path.name for path in paths)
        assert paths[2].read_text(encoding="utf-8").splitlines()[1].startswith(settings)
        names |= {path.name for path in paths}
    assert len(names) == 6


def test_summaries_have_a_line_for_each_method() -> None:
    assert len(summary_text([scores(), scores()]).splitlines()) == 3


def test_nobody_takes_an_oracle_for_a_result(tmp_path: Path) -> None:
    paths = write_files(RESULTS, scores()._replace(is_oracle=True), tmp_path, suffix="x")
    assert [path.name for path in paths] == [f"oracle-{kind}-test-x.txt" for kind in ("recogs", "errs", "wer-summary")]


def section(text: str, title: str) -> list[str]:
    """The lines under a title, up to the next empty line."""
    after = text[text.index(title) :].splitlines()[1:]
    return after[: after.index("")] if "" in after else after


def test_mandarins_word_error_rate_is_its_character_error_rate() -> None:
    results = [Decoded("a", "甚至出现", "甚至 出观"), Decoded("b", "用GPT", "用GPT")]
    assert word_error_rate(results)[:4] == (0, 0, 1, 6)
    assert character_error_rate([results[0]])[:4] == word_error_rate([results[0]])[:4] == (0, 0, 1, 4)


def test_transcripts_are_read_as_decoding_writes_them(tmp_path: Path) -> None:
    decoded = [Decoded("b:\t1", "it's so", "it is so"), Decoded("a", "ž", "")]
    path = tmp_path / "recogs.txt"
    path.write_text(transcripts_text(decoded), encoding="utf-8")
    assert read_transcripts(path) == sorted(decoded)
    path.write_text("a: ref\n")
    with pytest.raises(ValueError, match="is not a transcript"):
        read_transcripts(path)
