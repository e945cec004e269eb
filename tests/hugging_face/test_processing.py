from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared_moe_conformer.bundle import Bundle
from tests.conftest import TEXTS


@pytest.fixture
def tokenizer(tiny_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_folder, trust_remote_code=True)


@pytest.mark.parametrize("text", TEXTS)
def test_texts_become_the_packages_units_and_come_back(tokenizer: Any, tiny_bundle: Bundle, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids == tiny_bundle.tokenizer.encode([text])[0]
    assert tokenizer.decode(ids, group_tokens=False) == text
    assert tokenizer.convert_tokens_to_string(tokenizer.tokenize(text)) == text
    assert len(tokenizer) == tokenizer.vocab_size == 40


def test_labels_of_frames_collapse_and_keep_their_frames(tokenizer: Any) -> None:
    one, two = (tokenizer(word)["input_ids"] for word in ("ONE", "TWO"))
    labels = np.array([0, 0, *one, one[-1], 0, *two, 0, two[-1]])
    assert tokenizer.decode(labels) == "ONE TWO" + tokenizer.decode(two[-1:])
    assert (
        tokenizer.batch_decode([labels, [0]])
        == tokenizer.decode([labels.tolist(), [0]])
        == [tokenizer.decode(labels), ""]
    )
    found = tokenizer.decode(labels, output_char_offsets=True, output_word_offsets=True)
    first, *_, last = found["word_offsets"]
    assert first == {"word": "ONE", "start_offset": 2, "end_offset": 2 + len(one) + 1}
    assert (last["start_offset"], last["end_offset"]) == (2 + len(one) + 2, len(labels))
    assert tokenizer._get_word_offsets(found["char_offsets"]) == found["word_offsets"]
    assert "".join(offset["char"] for offset in found["char_offsets"]).strip() == found["text"]
    assert tokenizer.decode([*one, -100, -100]) == "ONE"


def test_the_pipelines_words_are_the_packages_in_scripts_without_spaces(tokenizer: Any) -> None:
    offsets = [
        {"char": char, "start_offset": i, "end_offset": i + 1} for i, char in enumerate([" ", "你", "好", " O", "K"])
    ]
    words = tokenizer._get_word_offsets(offsets)
    assert [(word["word"], word["start_offset"]) for word in words] == [("你", 1), ("好", 2), ("OK", 3)]


def test_features_are_the_packages_at_any_rate_and_padded(tiny_bundle: Bundle, tones: np.ndarray) -> None:
    from shared_moe_conformer.hugging_face import SharedMoeConformerFeatureExtractor

    extractor = SharedMoeConformerFeatureExtractor()
    batch = extractor([tones, tones[:8000]], return_tensors="pt")
    for x, mask, samples in zip(batch["input_features"], batch["attention_mask"], (tones, tones[:8000])):
        own = tiny_bundle.features(samples, 16000)
        assert torch.equal(x[: len(own)], own) and not x[len(own) :].any()
        assert mask.tolist() == [1] * len(own) + [0] * (len(x) - len(own))
    (slow,) = extractor(tones[::2], sampling_rate=8000, return_tensors="pt")["input_features"]
    assert torch.equal(slow, tiny_bundle.features(tones[::2], 8000))
    for one in (tones.tolist(), list(tones), torch.from_numpy(tones), tones.astype(np.float64)):
        assert torch.equal(extractor(one, return_tensors="pt")["input_features"], batch["input_features"][:1])


def test_too_little_audio_has_no_frames_and_two_channels_are_refused() -> None:
    from shared_moe_conformer.hugging_face import SharedMoeConformerFeatureExtractor

    extractor = SharedMoeConformerFeatureExtractor()
    assert extractor(np.zeros(10), return_tensors="pt")["input_features"].shape == (1, 0, 80)
    with pytest.raises(ValueError, match=r"samples have the shape \(2, 100\): give one channel"):
        extractor([np.zeros((2, 100))])
    with pytest.raises(ValueError, match="samples are int16: give floats"):
        extractor(np.zeros(1000, dtype=np.int16))


def test_audio_and_texts_become_what_the_models_loss_takes(tiny_folder: Path, tones: np.ndarray) -> None:
    from transformers import AutoModelForCTC, AutoProcessor

    processor = AutoProcessor.from_pretrained(tiny_folder, trust_remote_code=True)
    ids = processor.tokenizer(["ONE TWO", "ONE"])["input_ids"]
    batch = processor([tones, tones[:9000]], text=["ONE TWO", "ONE"], sampling_rate=16000, return_tensors="pt")
    assert batch["labels"].tolist() == [ids[0], ids[1] + [-100] * (len(ids[0]) - len(ids[1]))]
    model = AutoModelForCTC.from_pretrained(tiny_folder, trust_remote_code=True)
    assert model(**batch).loss > 0
    logits = model(**processor(tones, return_tensors="pt")).logits
    (text,) = processor.batch_decode(torch.argmax(logits, dim=-1))
    assert text == (tiny_folder / "test.txt").read_text().splitlines()[0].split(": ")[1]
    assert processor(text="ONE")["input_ids"] == ids[1]
