from __future__ import annotations

from pathlib import Path

import pytest

from shared_moe_conformer.lattice.decoding_graph import Lexicon

from .test_decoding_graph import readings

TOKENS = ["<blk>", "<sos/eos>", "<unk>", "_A", "_B", "C"]
LEXICON = Lexicon(TOKENS, {"A": [3], "AC": [3, 5], "ALSO": [3], "B": [4], "BC": [4, 5]})
A, AC, ALSO, B, BC, BACKOFF = range(1, 7)


@pytest.fixture
def lang_dir(tmp_path: Path) -> Path:
    (tmp_path / "tokens.txt").write_text("".join(f"{token} {index}\n" for index, token in enumerate(TOKENS)))
    LEXICON.save(tmp_path)
    return tmp_path


def test_disambiguated_spellings_have_one_reading() -> None:
    transducer = LEXICON.transducer()
    zero, one, two = 6, 7, 8
    assert readings(transducer, (3,)) == set(), "the beginning of another spelling ends with a symbol"
    assert readings(transducer, (3, one)) == {(A,)} and readings(transducer, (3, two)) == {(ALSO,)}
    assert readings(transducer, (3, 5)) == {(AC,)} and readings(transducer, (4, 5)) == {(BC,)}
    assert readings(transducer, (3, 5, 4, one)) == {(AC, B)} and readings(transducer, (5,)) == set()
    assert readings(transducer, (zero, 4, one)) == {(BACKOFF, B)}


def test_files(lang_dir: Path) -> None:
    assert (lang_dir / "words.txt").read_text().split() == (
        ["<eps>", "0", "A", "1", "AC", "2", "ALSO", "3", "B", "4", "BC", "5", "#0", "6", "<s>", "7", "</s>", "8"]
    )
    assert (lang_dir / "lexicon.txt").read_text().splitlines()[1] == "AC _A C"
    assert Lexicon.load(lang_dir) == LEXICON


def test_files_that_do_not_belong_together_are_refused(lang_dir: Path) -> None:
    words = (lang_dir / "words.txt").read_text()
    (lang_dir / "words.txt").write_text(words.replace("ALSO", "ELSE"))
    with pytest.raises(ValueError, match="does not list the words"):
        Lexicon.load(lang_dir)
    (lang_dir / "tokens.txt").write_text("<blk> 0\n_A 1\n")
    with pytest.raises(ValueError, match="no unit of"):
        Lexicon.load(lang_dir)
    (lang_dir / "lexicon.txt").unlink()
    with pytest.raises(FileNotFoundError, match="lexicon.txt: run ./prepare.sh"):
        Lexicon.load(lang_dir)


@pytest.mark.parametrize("spellings", [{}, {"A": []}, {"A": [0]}, {"A": [6]}, {"#0": [3]}, {"A B": [3]}])
def test_what_cannot_be_a_lexicon_is_refused(spellings: dict[str, list[int]]) -> None:
    with pytest.raises(ValueError):
        Lexicon(TOKENS, spellings)
