"""Tokenizer, feature extractor and processor as transformers wants them."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BatchFeature, PreTrainedTokenizer, ProcessorMixin, SequenceFeatureExtractor
from transformers.utils import to_py_obj

from shared_moe_conformer.config import FRAME_LENGTH, FeatureConfig, require
from shared_moe_conformer.data.features import compute_features
from shared_moe_conformer.data.tokenizer import BLANK, MODEL_FILE, UNK, Tokenizer
from shared_moe_conformer.hugging_face.models import SavesCode
from shared_moe_conformer.release.card import FEATURE_CLASSES, TOKENIZER_CLASSES
from shared_moe_conformer.speech.audio import require_floats
from shared_moe_conformer.speech.transcript import WORD_START, word_groups

Offset = dict[str, Any]
"""A unit (`char`) or a `word`, and its frames from `start_offset` to before `end_offset`."""


class SharedMoeConformerTokenizer(SavesCode, PreTrainedTokenizer):
    """The model's SentencePiece units; blank is the padding token.

    `decode` takes the label of each frame and collapses them, as the pipeline of speech recognition expects of CTC.
    """

    vocab_files_names = {"vocab_file": MODEL_FILE}
    model_input_names = ["input_ids", "attention_mask"]
    replace_word_delimiter_char = " "

    def __init__(self, vocab_file: str, pad_token: str = BLANK, unk_token: str = UNK, **others: Any) -> None:
        self.vocab_file = vocab_file
        self.units = Tokenizer.of_model(Path(vocab_file))
        others |= {"auto_map": TOKENIZER_CLASSES, "special_tokens_pattern": "none"}
        super().__init__(pad_token=pad_token, unk_token=unk_token, **others)

    @property
    def vocab_size(self) -> int:
        """Output units, blank included."""
        return self.units.vocab_size

    def get_vocab(self) -> dict[str, int]:
        """The id of each unit."""
        return {piece: index for index, piece in enumerate(self.units.pieces)}

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Copy the SentencePiece model into a folder; return where it is."""
        target = Path(save_directory) / "-".join([*([filename_prefix] if filename_prefix else []), MODEL_FILE])
        if target.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, target)
        return (str(target),)

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        *,
        group_tokens: bool = True,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
        **others: Any,
    ) -> Any:
        """Return the text of labels, blanks removed; with offsets a dictionary of `text` and the offsets asked for.

        Args:
          token_ids: label of each frame, or a batch of such lists.
          skip_special_tokens: has no effect: blank and padding are never shown.
          group_tokens: equal labels in a row are one unit; False for the ids of a text.
        """
        ids = _nested(token_ids)
        if ids and isinstance(ids[0], list):
            flags = {"output_char_offsets": output_char_offsets, "output_word_offsets": output_word_offsets}
            return [self.decode(row, group_tokens=group_tokens, **flags) for row in ids]
        runs = _runs(ids, group=group_tokens)
        text = self.units.decode([label for label, _, _ in runs]).strip()
        if not (output_char_offsets or output_word_offsets):
            return text
        offsets: list[Offset] = [
            {"char": self.units.pieces[label], "start_offset": start, "end_offset": end} for label, start, end in runs
        ]
        words = {"word_offsets": self._get_word_offsets(offsets)} if output_word_offsets else {}
        for offset in offsets:
            offset["char"] = offset["char"].replace(WORD_START, self.replace_word_delimiter_char)
        return {"text": text, "char_offsets": offsets, **words}

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False, **others: Any) -> Any:
        """Return what `decode` returns for each sequence."""
        return [self.decode(row, skip_special_tokens, **others) for row in _nested(sequences)]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Return the text of units."""
        return self.units.decode(self.convert_tokens_to_ids(tokens)).strip()

    def _get_word_offsets(self, offsets: list[Offset], word_delimiter_char: str = " ") -> list[Offset]:
        """The words of units, which the pipeline asks for by this name."""
        pieces = [offset["char"].replace(word_delimiter_char, WORD_START) for offset in offsets]
        return [
            {
                "word": "".join(pieces[i] for i in group).replace(WORD_START, ""),
                "start_offset": offsets[group[0]]["start_offset"],
                "end_offset": offsets[group[-1]]["end_offset"],
            }
            for group in word_groups(pieces)
            if group and any(pieces[i] != WORD_START for i in group)
        ]

    def _tokenize(self, text: str, **others: Any) -> list[str]:
        return [self.units.pieces[index] for index in self.units.encode([text])[0]]

    def _convert_token_to_id(self, token: str) -> int:
        return self.get_vocab().get(token, self.units.unk_id)

    def _convert_id_to_token(self, index: int) -> str:
        return self.units.pieces[index]


def _nested(token_ids: Any) -> Any:
    """Ids from an array, a tensor or a number, as lists of int."""
    ids = to_py_obj(token_ids)
    return [ids] if isinstance(ids, int) else ids


def _runs(labels: list[int], *, group: bool) -> list[tuple[int, int, int]]:
    """Each unit with its first frame and the one after its last; blanks and padding (-100) are left out.

    Args:
      group: equal labels in a row are one unit.
    """
    numbered = itertools.groupby(enumerate(labels), key=lambda item: item[1] if group else item)
    runs = [[*frames] for _, frames in numbered]
    found = [(frames[0][1], frames[0][0], frames[-1][0] + 1) for frames in runs]
    return [run for run in found if run[0] > Tokenizer.blank_id]


Recording = Any
"""One channel of samples, (num_samples,), as an array, a tensor or a list."""


class SharedMoeConformerFeatureExtractor(SavesCode, SequenceFeatureExtractor):
    """The package's log mel filter banks, which the model itself normalises."""

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self, feature_size: int = 80, sampling_rate: int = 16000, padding_value: float = 0.0, **others: Any
    ) -> None:
        others["auto_map"] = FEATURE_CLASSES
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **others)

    def __call__(
        self,
        raw_speech: Recording | Sequence[Recording],
        sampling_rate: int | None = None,
        *,
        padding: bool | str = True,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
        **others: Any,
    ) -> BatchFeature:
        """Return input_features (N, T, F) and attention_mask (N, T), 0 at padding.

        Args:
          raw_speech: one recording, (num_samples,) from -1 to 1, or several.
          sampling_rate: rate of the recordings in Hz, which are resampled to the model's; None: the model's.
          others: `max_length`, `truncation` and `pad_to_multiple_of` of `pad`, in frames.

        Raises:
          ValueError: more than one channel, or integers.
        """
        rate = self.sampling_rate if sampling_rate is None else sampling_rate
        features = [self._features(samples, rate) for samples in _recordings(raw_speech)]
        return self.pad(
            BatchFeature({"input_features": features}),
            padding=padding,
            return_tensors=return_tensors,
            return_attention_mask=return_attention_mask,
            **{name: others[name] for name in ("max_length", "truncation", "pad_to_multiple_of") if name in others},
        )

    def _features(self, samples: np.ndarray, sampling_rate: int) -> np.ndarray:
        """(T, F); T is 0 if there are too few samples for a frame."""
        require(samples.ndim == 1, f"samples have the shape {samples.shape}: give one channel, (num_samples,)")
        require_floats(samples)
        if len(samples) < FRAME_LENGTH * sampling_rate:
            return np.zeros((0, self.feature_size), dtype=np.float32)
        config = FeatureConfig(sampling_rate=self.sampling_rate, num_mel_bins=self.feature_size)
        return compute_features(samples.astype(np.float32), sampling_rate, config).numpy()


def _recordings(raw_speech: Any) -> list[np.ndarray]:
    """One recording or several as arrays."""
    several = len(raw_speech) > 0 and np.ndim(raw_speech[0]) > 0
    return [np.asarray(samples) for samples in (raw_speech if several else [raw_speech])]


IGNORED = -100
"""Label of padding."""


class SharedMoeConformerProcessor(SavesCode, ProcessorMixin):
    """Audio to features, texts to labels, and frames' labels back to texts."""

    def __init__(self, feature_extractor: Any, tokenizer: Any) -> None:
        super().__init__(feature_extractor, tokenizer)

    def __call__(self, audio: Any = None, text: Any = None, **options: Any) -> BatchFeature:
        """Return the features of audio, and the ids of texts as `labels` (as `input_ids` without audio).

        Labels are padded with -100, as the model's loss expects.

        Args:
          audio: what the feature extractor takes.
          text: one text or several.
          options: the feature extractor's, or without audio the tokenizer's.
        """
        if audio is None:
            return self.tokenizer(text, **options)
        batch = self.feature_extractor(audio, **options)
        if text is not None:
            padded = self.tokenizer([text] if isinstance(text, str) else text, padding=True, return_tensors="pt")
            labels = padded["input_ids"].masked_fill(padded["attention_mask"] == 0, IGNORED)
            batch["labels"] = labels if options.get("return_tensors") == "pt" else labels.tolist()
        return batch
