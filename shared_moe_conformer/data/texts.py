"""Texts for language models: where they come from, and their batches."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from shared_moe_conformer.config import require
from shared_moe_conformer.data.batch import AsrBatch
from shared_moe_conformer.data.checks import MAX_LEFT_OUT_SHARE
from shared_moe_conformer.data.loaders import ResumableLoader
from shared_moe_conformer.data.manifests import iterate_cut_file
from shared_moe_conformer.data.marks import listed, marks_in
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.data.utterances import lines_of
from shared_moe_conformer.text import words_of

logger = logging.getLogger("shared_moe_conformer")


def split_texts(path: Path) -> list[str]:
    """The transcripts of a file of cuts that hold words.

    Raises:
      FileNotFoundError: the split has not been prepared.
      ValueError: no transcript has a word.
    """
    cuts = iterate_cut_file(path, recipe_dir=Path())
    texts = [supervision.text or "" for cut in cuts for supervision in cut.supervisions]
    return _with_words(texts, path)


def file_texts(path: Path) -> list[str]:
    """The lines of a file that hold words.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is no text in UTF-8, or has no words.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no texts in {path}: give a file with one sentence a line")
    lines = [(origin, line, marks_in(line)) for origin, line in lines_of(path)]
    if marked := [origin for origin, _, marks in lines if marks]:
        said = listed(mark for _, _, marks in lines for mark in marks)
        logger.warning("%s has marks that may be no words: %s; first in %s: take them out", path, said, marked[0])
    return _with_words([line for _, line, _ in lines], path)


def _with_words(texts: Sequence[str], path: Path) -> list[str]:
    texts = [" ".join(text.split()) for text in texts if words_of(text)]
    require(bool(texts), f"{path} holds no words: give texts to train on and to measure perplexity on")
    return texts


def known_sentences(texts: Sequence[str], tokenizer: Tokenizer, *, name: str) -> list[list[int]]:
    """The tokens of each text; texts with unknown characters, of which a model would learn <unk>, are left out.

    Args:
      name: what the texts are called in messages.

    Raises:
      ValueError: these are more than a tenth of all.
    """
    sentences = tokenizer.encode(list(texts))
    unknown = [text for text, tokens in zip(texts, sentences) if tokenizer.unk_id in tokens]
    message = f"{len(unknown):,} of {len(texts):,} lines of {name} have characters that no unit holds"
    require(
        len(unknown) <= MAX_LEFT_OUT_SHARE * len(texts),
        f"{message}, first {''.join(unknown[:1])[:60]!r}: write them as the transcripts are, in the same case",
    )
    if unknown:
        logger.warning("%s, first %r: they are left out", message, unknown[0][:60])
    return [tokens for tokens in sentences if tokenizer.unk_id not in tokens]


class TextLoader(ResumableLoader):
    """Batches of texts, each an `AsrBatch` without frames; an epoch's batches follow from its number and the seed."""

    needs = "its texts, tokenizer, --seed and --max-tokens"

    def __init__(
        self, sentences: Sequence[Sequence[int]], *, name: str, max_tokens: int, seed: int | None = None
    ) -> None:
        """Plan the first epoch.

        Args:
          sentences: tokens of each text.
          name: what the texts are called where one is named.
          max_tokens: of a batch, padding and ends of sentences included.
          seed: of the order; None: the longest texts come first, in every epoch.
        """
        self._sentences = [torch.tensor(tokens, dtype=torch.int64) for tokens in sentences]
        self._name, self._max_tokens, self._seed = name, max_tokens, seed
        self._digest = hashlib.sha256(repr([list(tokens) for tokens in sentences]).encode())
        self.set_epoch(1)

    @property
    def num_tokens(self) -> int:
        """Tokens of all texts, each one's end included."""
        return sum(len(tokens) + 1 for tokens in self._sentences)

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        generator = torch.Generator().manual_seed(0 if self._seed is None else self._seed * 1_000_003 + epoch)
        shuffled = torch.randperm(len(self._sentences), generator=generator).tolist()
        by_length = sorted(shuffled, key=lambda i: len(self._sentences[i]), reverse=True)
        batches = list(self._full_batches(by_length))
        order = range(len(batches)) if self._seed is None else torch.randperm(len(batches), generator=generator)
        self._batches = [batches[i] for i in order]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[AsrBatch]:
        """The batches that are left of the epoch; without a seed all of them, always."""
        for chosen in self._batches[0 if self._seed is None else self.num_taken :]:
            self.num_taken += 1
            tokens = [self._sentences[i] for i in chosen]
            lens = torch.tensor([len(sentence) for sentence in tokens])
            y = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
            names = [f"{self._name} {i + 1}" for i in chosen]
            yield AsrBatch(torch.zeros(len(y), 0, 1), torch.zeros_like(lens), y, lens, names, [])

    def _full_batches(self, longest_first: Sequence[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        for i in longest_first:
            width = len(self._sentences[(batch or [i])[0]]) + 1
            if batch and (len(batch) + 1) * width > self._max_tokens:
                yield batch
                batch = []
            batch.append(i)
        yield batch

    def fingerprint(self) -> str:
        digest = self._digest.copy()
        digest.update(repr(self._batches).encode())
        return digest.hexdigest()
