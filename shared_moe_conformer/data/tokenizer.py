"""SentencePiece units in icefall's layout: blank 0, start/end of sentence 1, unknown 2."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from shared_moe_conformer.atomic import atomic_folder
from shared_moe_conformer.config import require

BLANK, SOS_EOS, UNK = "<blk>", "<sos/eos>", "<unk>"
NUM_SPECIAL = 3
"""Those three, which come first."""
MANY = 200_000
"""More than there are characters."""
MODEL_FILE, TOKENS_FILE = "bpe.model", "tokens.txt"


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
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=model.read_bytes())
        except RuntimeError as error:
            raise ValueError(f"{model} is no SentencePiece model: run ./prepare.sh again") from error
        tokenizer = cls(processor)
        require(
            tokens.read_text(encoding="utf-8") == tokens_text(tokenizer.pieces),
            f"{tokens} does not list the units of {model}: run ./prepare.sh again",
        )
        return tokenizer

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text."""
        return [self.processor.encode(text, out_type=int) for text in texts]  # for a list it would start threads

    def decode(self, ids: list[int]) -> str:
        """The text of token ids."""
        return self.processor.decode(ids)

    def unknown_characters(self, text: str) -> list[str]:
        """The characters of a text that no unit holds, in alphabetical order."""
        return sorted(set(text) - self.characters - {" "})


def train_tokenizer(texts: Iterable[str], lang_dir: Path, vocab_size: int | None, *, covered: str = "") -> Tokenizer:
    """Train units on texts and write bpe.model and tokens.txt into a lang folder.

    Source: Kudo and Richardson 2018, SentencePiece; the unit numbers are icefall's (local/train_bpe_model.py).

    Args:
      texts: to learn from.
      lang_dir: folder to be made.
      vocab_size: byte-pair units; None: as many as there are characters, each of them one.
      covered: characters that get a unit even if the texts lack them.

    Raises:
      ValueError: no text, or a vocabulary that these texts cannot fill or is smaller than their characters.
    """
    lines = [text for text in texts if text.strip()]
    require(len(lines) > 0, "no texts to train a tokenizer on: are the transcripts empty?")
    missing = "".join(sorted(set(covered) - set("".join(lines)) - {" "}))
    tokenizer = Tokenizer(sentencepiece.SentencePieceProcessor(model_proto=_train_model(lines, vocab_size, missing)))
    with atomic_folder(lang_dir, marker=MODEL_FILE, overwrite=True) as folder:
        (folder / MODEL_FILE).write_bytes(tokenizer.processor.serialized_model_proto())
        (folder / TOKENS_FILE).write_text(tokens_text(tokenizer.pieces), encoding="utf-8")
    return tokenizer


def _train_model(lines: list[str], vocab_size: int | None, missing: str) -> bytes:
    model = io.BytesIO()
    kind: dict[str, Any] = {"vocab_size": vocab_size, "model_type": "bpe"}
    if vocab_size is None:
        kind = {"vocab_size": MANY, "model_type": "char", "hard_vocab_limit": False}
        kind["add_dummy_prefix"] = any(" " in line for line in lines)  # no mark of a word's start without spaces
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            required_chars=missing,
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


def tokens_text(pieces: Sequence[str]) -> str:
    """What tokens.txt says of the units 0, 1, ..: a line for each."""
    return "".join(f"{piece} {index}\n" for index, piece in enumerate(pieces))
