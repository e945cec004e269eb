from __future__ import annotations

from pathlib import Path

import numpy as np
import torch


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
