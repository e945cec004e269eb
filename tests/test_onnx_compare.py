from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from torch.nn.utils.rnn import pad_sequence

for package in ("onnx", "onnxruntime", "sherpa_onnx"):
    pytest.importorskip(package)

from shared_moe_conformer.bundle import Bundle, ExampleRecording  # noqa: E402
from shared_moe_conformer.loss.ctc import ctc_loss  # noqa: E402
from shared_moe_conformer.model.asr_model import AsrModel  # noqa: E402
from shared_moe_conformer.onnx_compare import Row, Utterance, compare_precisions, main, table, write_test_set  # noqa: E402
from shared_moe_conformer.onnx_export import export_onnx  # noqa: E402
from shared_moe_conformer.speech.audio import write_wav  # noqa: E402

Save = Callable[..., Path]
STEPS = 200
"""Updates after which the tiny model has learned the tones."""


@pytest.fixture
def recipe(tmp_path: Path, tones: np.ndarray) -> Path:
    """A prepared recipe of three test cuts at 8 kHz."""
    folder = tmp_path / "recipe"
    (folder / "data" / "fbank").mkdir(parents=True)
    cuts = [make_cut(folder, f"cut{i}", part) for i, part in enumerate((tones, tones[::-1], tones[8000:]))]
    CutSet.from_cuts(cuts).to_file(folder / "data" / "fbank" / "cuts_test.jsonl.gz")
    return folder


def make_cut(folder: Path, name: str, samples: np.ndarray) -> MonoCut:
    write_wav(folder / f"{name}.wav", samples[::2], sampling_rate=8000)
    cut = Recording.from_file(folder / f"{name}.wav", recording_id=name).to_cut()
    cut.recording.sources[0].source = f"{name}.wav"
    cut.supervisions = [SupervisionSegment(name, name, start=0, duration=cut.duration, text="ONE TWO")]
    return cut


@pytest.mark.slow
def test_float32_is_the_model_and_the_others_are_near_it(
    saved: Save, recipe: Path, tmp_path: Path, tiny_bundle: Bundle
) -> None:
    export_onnx(saved(), tmp_path / "onnx")
    (tmp_path / "wavs").mkdir()
    utterances = write_test_set(recipe, "test", tmp_path / "wavs", bundle=tiny_bundle)
    assert [(u.name, u.text) for u in utterances] == [(f"cut{i}", "ONE TWO") for i in range(3)]
    rows = compare_precisions(tiny_bundle, tmp_path / "onnx", utterances, rounds=2)
    assert [(row.kind, row.precision) for row in rows] == [
        (kind, precision) for kind in ("transducer", "ctc") for precision in ("float32", "float16", "int8")
    ]
    for full, half, byte in (rows[:3], rows[3:]):
        assert (full.equal, full.difference) == (1.0, 0.0)
        assert half.megabytes < full.megabytes  # of so tiny a model int8 saves less than it writes
        assert half.difference > 0 and byte.difference > 0
        assert full.word_error_rate > 0 and full.seconds > 0


WORDS = ["ONE", "TWO", "THREE", "FOUR", "YOUR", "CALLING"]


def spoken(words: list[str], rng: np.random.Generator) -> np.ndarray:
    """Each word as a pair of tones of its own, 0.3 s long, with a pause behind; at 16 kHz."""
    time = np.arange(4800) / 16000
    parts = [np.zeros(1600)]
    for word in words:
        pitch = 300 + 500 * WORDS.index(word) + rng.normal() * 10
        parts += [np.sin(2 * np.pi * pitch * time) * rng.uniform(0.1, 0.3), np.zeros(2400)]
    samples = np.concatenate(parts)
    return (samples + 0.003 * rng.normal(size=len(samples))).astype(np.float32)


def trained_on_tones(bundle: Bundle, rng: np.random.Generator) -> Bundle:
    """A model that has learned to read `spoken` words with its CTC head."""
    torch.manual_seed(0)
    model = AsrModel(bundle.config.model).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    texts = [rng.choice(WORDS, size=rng.integers(1, 5)).tolist() for _ in range(48)]
    x = [bundle.features(spoken(words, rng), 16000) for words in texts]
    y = [torch.tensor(ids) for ids in bundle.tokenizer.encode([" ".join(words) for words in texts])]
    for step in range(STEPS):
        chosen = [(step * 12 + i) % len(x) for i in range(12)]
        x_lens = torch.tensor([len(x[i]) for i in chosen])
        encoder_out, lens, _ = model.encode(pad_sequence([x[i] for i in chosen], batch_first=True), x_lens)
        y_lens = torch.tensor([len(y[i]) for i in chosen])
        targets = pad_sequence([y[i] for i in chosen], batch_first=True)
        loss = ctc_loss(model.ctc_log_probs(encoder_out), lens, targets, y_lens) / lens.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return dataclasses.replace(bundle, model=model.eval())


@pytest.mark.slow
def test_a_model_that_knows_its_words_says_them_in_int8_too(
    tiny_bundle: Bundle, lang_dir: Path, tones: np.ndarray, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    bundle = trained_on_tones(tiny_bundle, rng)
    bundle.save(tmp_path / "tiny", lang_dir=lang_dir, example=ExampleRecording(tones, 16000, ""))
    export_onnx(tmp_path / "tiny", tmp_path / "onnx")
    utterances = []
    for number in range(60):
        words = rng.choice(WORDS, size=rng.integers(1, 5)).tolist()
        write_wav(tmp_path / f"{number}.wav", spoken(words, rng), sampling_rate=16000)
        utterances.append(Utterance(str(number), tmp_path / f"{number}.wav", " ".join(words)))
    rows = compare_precisions(bundle, tmp_path / "onnx", utterances, rounds=1)
    rates = {row.precision: row.word_error_rate for row in rows if row.kind == "ctc"}
    assert rates["float32"] < 15
    assert abs(rates["float16"] - rates["float32"]) <= 0.5
    assert abs(rates["int8"] - rates["float32"]) <= 0.5


def test_times_are_told_as_ratios() -> None:
    rows = [Row("ctc", "float32", 4.0, 10.0, 1.0, 2.0, 0.0), Row("ctc", "int8", 1.0, 10.5, 0.5, 1.5, 0.25)]
    assert table(rows).splitlines()[2:] == [
        "| ctc | float32 | 4.00 | 10.00 | 100 % | 0 | 1.00 |",
        "| ctc | int8 | 1.00 | 10.50 | 50 % | 0.25 | 0.75 |",
    ]


def test_files_that_were_not_exported_are_missed(saved: Save, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved()
    with pytest.raises(SystemExit):
        main(["--model", str(folder), "--recipe-dir", str(recipe)])
    err = capsys.readouterr().err
    assert f"no encoder.onnx in {folder}-onnx: run" in err
    assert err.count("\n") == 1
