"""Feature extractor and tokenizer as one object."""

from __future__ import annotations

from typing import Any

from transformers import BatchFeature, ProcessorMixin

from shared_moe_conformer.hugging_face.saving import SavesCode

IGNORED = -100
"""Label of padding."""


class SharedMoeConformerProcessor(SavesCode, ProcessorMixin):
    """Audio to features, texts to labels, and frames' labels back to texts."""

    def __init__(self, feature_extractor: Any, tokenizer: Any) -> None:
        super().__init__(feature_extractor, tokenizer)

    def __call__(self, audio: Any = None, text: Any = None, **options: Any) -> BatchFeature:
        """Return the features of audio, and the ids of texts as `labels` (as `input_ids` where there is no audio).

        Labels are filled up with -100, as the model's loss expects.

        Args:
          audio: what the feature extractor takes.
          text: one text or several.
          options: the feature extractor's, or the tokenizer's where there is no audio.
        """
        if audio is None:
            return self.tokenizer(text, **options)
        batch = self.feature_extractor(audio, **options)
        if text is not None:
            padded = self.tokenizer([text] if isinstance(text, str) else text, padding=True, return_tensors="pt")
            labels = padded["input_ids"].masked_fill(padded["attention_mask"] == 0, IGNORED)
            batch["labels"] = labels if options.get("return_tensors") == "pt" else labels.tolist()
        return batch
