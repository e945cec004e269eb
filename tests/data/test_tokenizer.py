from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.data.tokenizer import (
    Tokenizer,
    choose_vocab_size,
    refuse_other_units,
    save_units,
    saved_units,
    train_tokenizer,
)

TEXTS = ["PLEASE ENTER YOUR NUMBER", "I'M SORRY", "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG", "VEXING ZEBRAS"]


@pytest.fixture(scope="module")
def lang_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lang") / "lang_bpe_50"
    train_tokenizer(TEXTS, folder, 50)
    return folder


def test_the_layout_is_icefalls(lang_dir: Path) -> None:
    tokenizer = Tokenizer.load(lang_dir)
    lines = (lang_dir / "tokens.txt").read_text().splitlines()
    assert [line.split() for line in lines[:3]] == [["<blk>", "0"], ["<sos/eos>", "1"], ["<unk>", "2"]]
    assert [int(line.split()[1]) for line in lines] == list(range(tokenizer.vocab_size)) == list(range(50))
    assert [line.split()[0] for line in lines] == tokenizer.pieces
    assert (tokenizer.blank_id, tokenizer.unk_id) == (0, 2)


WORD = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ'", min_size=1, max_size=8)


@settings(deadline=None, max_examples=50)
@given(words=st.lists(WORD, min_size=1, max_size=6))
def test_texts_survive_encoding(lang_dir: Path, words: list[str]) -> None:
    text, tokenizer = " ".join(words), Tokenizer.load(lang_dir)
    (ids,) = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text
    assert min(ids) > 2, "speech never needs blank, start/end or unknown"
    assert "".join(tokenizer.pieces[i] for i in ids).replace("\u2581", " ").strip() == text


def test_characters_outside_the_training_texts_are_unknown(lang_dir: Path) -> None:
    tokenizer = Tokenizer.load(lang_dir)
    assert tokenizer.unknown_characters("PLEASE 4 ME É") == ["4", "É"]
    assert tokenizer.unknown_characters("DOG ZEBRA") == []
    for character in "4É":
        assert tokenizer.unk_id in tokenizer.encode([character])[0]


def test_the_same_texts_make_the_same_files(lang_dir: Path, tmp_path: Path) -> None:
    train_tokenizer(TEXTS, tmp_path / "again", 50)
    for name in ("bpe.model", "tokens.txt"):
        assert (tmp_path / "again" / name).read_bytes() == (lang_dir / name).read_bytes()


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [([], 50, "no texts"), (["", " "], 50, "no texts"), (TEXTS, 5000, "5000 units"), (TEXTS, 10, "10 units")],
)
def test_an_impossible_vocabulary_is_refused_and_leaves_nothing(
    texts: list[str], vocab_size: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        train_tokenizer(texts, tmp_path / "lang", vocab_size)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_another_vocabulary_replaces_the_files(tmp_path: Path) -> None:
    train_tokenizer(TEXTS, tmp_path / "lang", 50)
    train_tokenizer(TEXTS, tmp_path / "lang", 45)
    assert Tokenizer.load(tmp_path / "lang").vocab_size == 45


def test_damaged_folders_are_refused(lang_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="prepare.sh"):
        Tokenizer.load(tmp_path)
    shutil.copytree(lang_dir, tmp_path / "lang")
    tokens = tmp_path / "lang" / "tokens.txt"
    tokens.write_text(tokens.read_text().replace("<unk> 2", "<unk> 3"))
    with pytest.raises(ValueError, match=r"tokens\.txt"):
        Tokenizer.load(tmp_path / "lang")
    (tmp_path / "lang" / "bpe.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"bpe\.model"):
        Tokenizer.load(tmp_path / "lang")


CHINESE = ["甚至出现交易几乎停滞的情况", "一二线城市虽然也处于调整中", "但因为聚集了过多公共资源"]


def test_characters_can_be_the_units(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(CHINESE, tmp_path / "lang_char", None)
    characters = sorted(set("".join(CHINESE)))
    assert sorted(tokenizer.pieces[3:]) == characters
    assert [len(ids) for ids in tokenizer.encode(CHINESE)] == [len(text) for text in CHINESE], "no mark of a word"
    assert [tokenizer.decode(ids) for ids in tokenizer.encode(CHINESE)] == CHINESE
    assert tokenizer.pieces == Tokenizer.load(tmp_path / "lang_char").pieces


def test_characters_as_units_keep_spaces(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, tmp_path / "lang_char", None)
    assert {len(piece) for piece in tokenizer.pieces[3:]} == {1}
    assert [tokenizer.decode(ids) for ids in tokenizer.encode(TEXTS)] == TEXTS


@pytest.mark.parametrize("vocab_size", [50, None])
def test_covered_characters_get_units_and_change_nothing_else(tmp_path: Path, vocab_size: int | None) -> None:
    plain = train_tokenizer(TEXTS, tmp_path / "plain", vocab_size)
    same = train_tokenizer(TEXTS, tmp_path / "same", vocab_size, covered="ZEBRA DOG")
    assert same.pieces == plain.pieces
    more = train_tokenizer(TEXTS, tmp_path / "more", vocab_size and vocab_size + 2, covered="ÉZEBRAÑ")
    assert set(more.pieces) - set(plain.pieces) == {"É", "Ñ"}
    assert not more.unknown_characters("ZÉBRÁ".replace("Á", "Ñ"))


WORDS = [first + second + third for first in "BDGKLMNPRSTV" for second in "AEIOU" for third in "LMNRST"]


def texts(num_words: int) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=10)) for _ in range(num_words // 10)]


def test_more_words_get_more_units() -> None:
    assert choose_vocab_size(texts(2000)) == 64
    assert choose_vocab_size(texts(12_000)) == 128


def test_few_words_get_what_they_can_fill() -> None:
    assert choose_vocab_size(["YES NO", "NO YES YES"]) == 16
    assert choose_vocab_size(["A"]) is None, "one character needs no joining"


def test_chinese_and_scripts_of_many_characters_are_written_in_characters() -> None:
    assert choose_vocab_size(["甚至出现交易几乎停滞的情况", "OK 一二线城市"]) is None
    assert choose_vocab_size(["".join(chr(0xAC00 + i) for i in range(400))]) is None


def test_every_character_has_room() -> None:
    size = choose_vocab_size(texts(2000), covered="".join(chr(0x400 + i) for i in range(80)))
    assert size == 256, "half as many again as there are characters, and no more"


PIECES = ["<blk>", "\u2581A", "\u2028", "B"]


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    assert saved_units(tmp_path) is None
    save_units(tmp_path, PIECES)
    assert saved_units(tmp_path) == PIECES and [path.name for path in tmp_path.iterdir()] == ["tokens.txt"]


def test_other_units_are_refused_and_the_first_named(tmp_path: Path) -> None:
    refuse_other_units(tmp_path, PIECES)
    save_units(tmp_path, PIECES)
    refuse_other_units(tmp_path, PIECES)
    with pytest.raises(
        ValueError, match="other units .*: unit 3 was 'B' and is 'C'; prepare .* or train again in another --exp-dir"
    ):
        refuse_other_units(tmp_path, [*PIECES[:3], "C"])
    with pytest.raises(ValueError, match="unit 4 was None and is 'C'"):
        refuse_other_units(tmp_path, [*PIECES, "C"])
