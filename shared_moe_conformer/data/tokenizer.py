"""SentencePiece units in icefall's layout: blank 0, start/end of sentence 1, unknown 2."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from shared_moe_conformer.atomic import atomic_folder, write_whole
from shared_moe_conformer.config import require
from shared_moe_conformer.text import is_spaceless, words_of

BLANK, SOS_EOS, UNK = "<blk>", "<sos/eos>", "<unk>"
NUM_SPECIAL = 3
"""Those three, which come first."""
MANY = 200_000
"""More than there are characters."""
RECENT = 8000
"""Texts whose tokens are remembered: those of cuts that have been checked and wait for their batch."""
MODEL_FILE, TOKENS_FILE = "bpe.model", "tokens.txt"
SIZES = {0: 64, 10_000: 128, 50_000: 256, 250_000: 500}
"""Byte-pair units by the fewest words that get them: asterisk's 2,000 words have 64, LibriSpeech's 100 hours 500."""
SMALLEST = (500, 256, 128, 64, 48, 32, 24, 16)
MOST_CHARACTERS = 300
"""With more, as in Korean, there is nothing to be won by joining them."""


class Tokenizer:
    """Texts to token ids and back."""

    blank_id = 0
    unk_id = 2

    def __init__(self, processor: sentencepiece.SentencePieceProcessor) -> None:
        self.processor = processor
        self.vocab_size: int = processor.get_piece_size()
        self.pieces: list[str] = [processor.id_to_piece(i) for i in range(self.vocab_size)]
        self.characters = frozenset(piece for piece in self.pieces if len(piece) == 1)
        require(
            self.pieces[:3] == [BLANK, SOS_EOS, UNK],
            f"a tokenizer that begins with {self.pieces[:3]}: units 0, 1, 2 must be {BLANK}, {SOS_EOS}, {UNK}",
        )

    @classmethod
    def load(cls, lang_dir: Path) -> Tokenizer:
        """The tokenizer of a lang folder.

        Raises:
          FileNotFoundError: no bpe.model or tokens.txt there.
          ValueError: either is damaged, or they do not belong together.
        """
        model, tokens = lang_dir / MODEL_FILE, lang_dir / TOKENS_FILE
        for path in (model, tokens):
            if not path.is_file():
                raise FileNotFoundError(f"no tokenizer in {path}: run ./prepare.sh first, or name another --lang-dir")
        tokenizer = cls.of_model(model)
        require(
            tokens.read_text(encoding="utf-8") == _tokens_text(tokenizer.pieces),
            f"{tokens} does not list the units of {model}: run ./prepare.sh again",
        )
        return tokenizer

    @classmethod
    def of_model(cls, path: Path) -> Tokenizer:
        """The tokenizer of a SentencePiece model's file.

        Raises:
          ValueError: the file is damaged.
        """
        try:
            return cls(sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes()))
        except RuntimeError as error:
            raise ValueError(f"{path} is no SentencePiece model: run ./prepare.sh again") from error

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text."""
        return [list(tokens_of(self.processor, text)) for text in texts]

    def decode(self, ids: list[int]) -> str:
        """The text of token ids."""
        return self.processor.decode(ids)

    def unknown_characters(self, text: str) -> list[str]:
        """The characters of a text that no unit holds, in alphabetical order."""
        return sorted(set(text) - self.characters - {" "})


@functools.lru_cache(maxsize=RECENT)
def tokens_of(processor: sentencepiece.SentencePieceProcessor, text: str) -> tuple[int, ...]:
    """Token ids of a text; for a list of texts, SentencePiece would start threads."""
    return tuple(processor.encode(text, out_type=int))


def train_tokenizer(texts: Iterable[str], lang_dir: Path, vocab_size: int | None, *, covered: str = "") -> Tokenizer:
    """Train units on texts and write bpe.model and tokens.txt into a lang folder.

    Source: Kudo and Richardson 2018, SentencePiece; the unit numbers are icefall's (local/train_bpe_model.py).

    Args:
      texts: to learn from.
      lang_dir: folder to make.
      vocab_size: byte-pair units; None: as many as there are characters, each of them one.
      covered: characters that get a unit even if the texts lack them.

    Raises:
      ValueError: no text, or a vocabulary that these texts cannot fill or is smaller than their characters.
    """
    model = _train_model(texts, vocab_size, covered)
    tokenizer = Tokenizer(sentencepiece.SentencePieceProcessor(model_proto=model))
    with atomic_folder(lang_dir, marker=MODEL_FILE, overwrite=True) as folder:
        (folder / MODEL_FILE).write_bytes(model)
        (folder / TOKENS_FILE).write_text(_tokens_text(tokenizer.pieces), encoding="utf-8")
    return tokenizer


def _train_model(texts: Iterable[str], vocab_size: int | None, covered: str) -> bytes:
    lines = [text for text in texts if text.strip()]
    require(len(lines) > 0, "no texts to train a tokenizer on: are the transcripts empty?")
    model = io.BytesIO()
    kind: dict[str, Any] = {"vocab_size": vocab_size, "model_type": "bpe"}
    if vocab_size is None:
        kind = {"vocab_size": MANY, "model_type": "char", "hard_vocab_limit": False}
        kind["add_dummy_prefix"] = any(" " in line for line in lines)  # no mark of a word's start without spaces
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            required_chars="".join(sorted(set(covered) - set("".join(lines)) - {" "})),
            **kind,
            character_coverage=1.0,
            normalization_rule_name="identity",
            user_defined_symbols=[BLANK, SOS_EOS],
            unk_id=2,
            bos_id=-1,
            eos_id=-1,
            input_sentence_size=0,
            max_sentence_length=100_000,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ValueError(
            f"no tokenizer of {vocab_size or 'character'} units from {len(lines)} texts: {reason}"
        ) from error
    return model.getvalue()


def _tokens_text(pieces: Sequence[str]) -> str:
    """The text of tokens.txt: a line for each of the units 0, 1, .."""
    return "".join(f"{piece} {index}\n" for index, piece in enumerate(pieces))


def choose_vocab_size(texts: Sequence[str], *, covered: str = "") -> int | None:
    """Byte-pair units for training texts and further characters that need units (`covered`).

    None: each character is a unit, for example where words have no spaces between them.
    """
    characters = {character for text in texts for character in text if not character.isspace()} | set(covered) - {" "}
    if mostly_spaceless(texts) or len(characters) > MOST_CHARACTERS:
        return None
    num_words = sum(len(words_of(text)) for text in texts)
    wanted = max(size for words, size in SIZES.items() if num_words >= words)
    wanted = next(size for size in sorted({*SIZES.values(), 1000}) if size >= max(wanted, 1.5 * len(characters)))
    return next((size for size in (wanted, *SMALLEST) if size <= wanted and _can_train(texts, size, covered)), None)


def mostly_spaceless(texts: Iterable[str]) -> bool:
    """Whether most characters of texts belong to scripts without spaces between words."""
    letters = [is_spaceless(character) for text in texts for character in text if not character.isspace()]
    return sum(letters) > len(letters) / 2


def _can_train(texts: Sequence[str], vocab_size: int, covered: str) -> bool:
    try:
        _train_model(texts, vocab_size, covered)
    except ValueError:
        return False
    return True


def save_units(exp_dir: Path, pieces: Sequence[str]) -> None:
    """Write the pieces of the units 0, 1, .. into an experiment's folder, in a file like the lang folder's."""
    write_whole(exp_dir / TOKENS_FILE, _tokens_text(pieces))


def saved_units(exp_dir: Path) -> list[str] | None:
    """The pieces that `save_units` wrote; None if nobody has."""
    path = exp_dir / TOKENS_FILE
    if not path.is_file():
        return None
    return [line.rsplit(" ", 1)[0] for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def refuse_other_units(exp_dir: Path, pieces: Sequence[str]) -> None:
    """Raise `ValueError` unless these are the pieces with which the experiment in a folder, if any, was trained.

    The lang folder may have been made again since, with the same number of units.
    """
    pairs = itertools.zip_longest(saved_units(exp_dir) or pieces, pieces)
    for number, (then, now) in enumerate(pairs):
        require(
            then == now,
            f"{exp_dir} was trained with other units than those of the lang folder now: unit {number} was {then!r} and "
            f"is {now!r}; prepare the texts as they were then, or train again in another --exp-dir",
        )
