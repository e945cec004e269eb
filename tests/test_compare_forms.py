from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from torch.nn.utils.rnn import pad_sequence

for package in ("onnx", "onnxruntime", "sherpa_onnx"):
    pytest.importorskip(package)


from shared_moe_conformer.bundle import Bundle  # noqa: E402
from shared_moe_conformer.compare_forms import (  # noqa: E402  # noqa: E402
    Comparison,
    Row,
    Utterance,
    compare,
    main,
    precision_table,
    round_trip_table,
    write_test_set,
)
from shared_moe_conformer.config import save_config  # noqa: E402
from shared_moe_conformer.forms.onnx_folder import write_onnx  # noqa: E402
from shared_moe_conformer.forms.torchscript import write_torchscript  # noqa: E402
from shared_moe_conformer.loss.per_frame import ctc_loss  # noqa: E402
from shared_moe_conformer.model.asr_model import AsrModel  # noqa: E402
from shared_moe_conformer.release.manifest import ExampleRecording  # noqa: E402
from shared_moe_conformer.speech.audio import write_wav  # noqa: E402
from shared_moe_conformer.training.folder import epoch_path, save_checkpoint  # noqa: E402

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


def compare_all(bundle: Bundle, folder: Path, utterances: list[Utterance], tmp_path: Path) -> Comparison:
    write_onnx(folder, tmp_path / "onnx")
    write_torchscript(folder, tmp_path / "torchscript")
    folders = {"onnx_dir": tmp_path / "onnx", "torchscript_dir": tmp_path / "torchscript"}
    return compare(bundle, utterances, **folders)


@pytest.mark.slow
def test_float32_is_the_model_and_the_others_are_near_it(
    saved: Save, recipe: Path, tmp_path: Path, tiny_bundle: Bundle
) -> None:
    (tmp_path / "wavs").mkdir()
    utterances = write_test_set(recipe, "test", tmp_path / "wavs", bundle=tiny_bundle)
    assert [(u.name, u.text) for u in utterances] == [(f"cut{i}", "ONE TWO") for i in range(3)]
    trips, precisions = compare_all(tiny_bundle, saved(), utterances, tmp_path)
    kinds = ("transducer", "ctc")
    assert [(row.kind, row.form) for row in trips] == [
        (kind, form) for kind in kinds for form in ("TorchScript", "onnxruntime", "sherpa-onnx")
    ]
    assert {row.same for row in trips} == {3}
    assert all(math.isnan(row.difference) if row.form == "sherpa-onnx" else row.difference < 1e-3 for row in trips)
    assert [(row.kind, row.form) for row in precisions] == [
        (kind, precision) for kind in kinds for precision in ("float32", "float16", "int8")
    ]
    for full, half, byte in (precisions[:3], precisions[3:]):
        assert full.same == 3
        assert half.megabytes < full.megabytes  # of so tiny a model int8 saves less than it writes
        assert half.difference > full.difference < byte.difference
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
    utterances = []
    for number in range(60):
        words = rng.choice(WORDS, size=rng.integers(1, 5)).tolist()
        write_wav(tmp_path / f"{number}.wav", spoken(words, rng), sampling_rate=16000)
        utterances.append(Utterance(str(number), tmp_path / f"{number}.wav", " ".join(words)))
    trips, precisions = compare_all(bundle, tmp_path / "tiny", utterances, tmp_path)
    assert {row.same for row in trips} == {60}
    rates = {row.form: row.word_error_rate for row in precisions if row.kind == "ctc"}
    assert rates["float32"] < 15
    for precision in ("float16", "int8"):
        assert abs(rates[precision] - rates["float32"]) <= 1.5, "two of about 145 words"


def test_tables_tell_what_was_the_same_and_times_as_ratios() -> None:
    trips = [Row("ctc", "onnxruntime", 10.0, 9, 0.000012), Row("ctc", "sherpa-onnx", 10.5, 8)]
    assert round_trip_table(trips, recordings=9).splitlines()[2:] == [
        "| ctc | onnxruntime | 9 of 9 | 1.2e-05 |",
        "| ctc | sherpa-onnx | 8 of 9 | not told |",
    ]
    rows = [Row("ctc", "float32", 10.0, 9, 1e-5, 4.0, 2.0), Row("ctc", "int8", 10.5, 5, 0.25, 1.0, 1.5)]
    assert precision_table(rows, recordings=9).splitlines()[2:] == [
        "| ctc | float32 | 4.00 | 10.00 | 9 of 9 | 1e-05 | 1.00 |",
        "| ctc | int8 | 1.00 | 10.50 | 5 of 9 | 0.25 | 0.75 |",
    ]


def test_a_missing_package_is_named_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sherpa_onnx" else find(name))
    with pytest.raises(SystemExit):
        main(["--model", str(tmp_path), "--recipe-dir", str(tmp_path)])
    assert "the package sherpa_onnx is not installed: pip install sherpa-onnx" in capsys.readouterr().err


@pytest.mark.slow
def test_one_command_compares_an_experiment_with_all_that_became_of_it(
    saved: Save, recipe: Path, tmp_path: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    exp_dir = tmp_path / "exp"
    exp_dir.mkdir()
    save_config(tiny_bundle.config, exp_dir / "config.json")
    save_checkpoint(epoch_path(exp_dir, 1), {"model": tiny_bundle.model.state_dict()})
    wavs = [str(path) for path in sorted(recipe.glob("*.wav"))]
    texts = [transcript.text for transcript in tiny_bundle.transcribe_many(wavs)]
    texts[1] = "SOMETHING ELSE"
    (exp_dir / "greedy_search").mkdir()
    name = "recogs-test-epoch-1-avg-1-greedy_search-max-sym-per-frame-1"
    (exp_dir / "greedy_search" / f"{name}.txt").write_text(
        "".join(f"cut{i}:\tref=['ONE']\ncut{i}:\thyp={text.split()}\n\n" for i, text in enumerate(texts))
    )
    of_chunks = exp_dir / "greedy_search" / f"{name}-chunk-size-16-left-context-frames-64.txt"
    of_chunks.write_text("".join(f"cut{i}:\tref=['ONE']\ncut{i}:\thyp=[]\n\n" for i in range(3)))
    arguments = ["--model", str(saved()), "--recipe-dir", str(recipe), "--rounds", "1"]
    main([*arguments, "--exp-dir", str(exp_dir), "--epoch", "1"])
    shown = capsys.readouterr().out
    assert shown.startswith("tiny, test, 3 recordings, compared with the experiment's epoch-1-avg-1 in torch\n")
    assert "| transducer | bundle | 3 of 3 | 0 |\n" in shown
    assert "| transducer | decode.py | 2 of 3 | not told |\n" in shown
    assert "| ctc | decode.py |" not in shown
    assert "| ctc | sherpa-onnx | 3 of 3 | not told |\n" in shown
    wrong = {"rounds is 0": ["--rounds", "0"], "config.json": ["--exp-dir", str(recipe)], "--exp-dir": ["--avg", "2"]}
    for message, extra in wrong.items():
        with pytest.raises(SystemExit):
            main([*arguments, *extra])
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
