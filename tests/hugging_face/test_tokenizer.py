from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
