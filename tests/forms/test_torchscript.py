from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.forms.torchscript import write_torchscript
from shared_moe_conformer.release.checksums import verify_sums

Save = Callable[..., Path]

RUN_GRAPHS = """
import sys, torch
folder, inputs, outputs = sys.argv[1:]
x, x_lens = torch.load(inputs)
with torch.no_grad():
    found = {name: torch.jit.load(f"{folder}/{name}.pt")(x, x_lens) for name in ("encoder", "ctc")}
    context = torch.tensor([[-1, 0], [3, 4]])
    found["decoder"] = torch.jit.load(f"{folder}/decoder.pt")(context)
    found["joiner"] = torch.jit.load(f"{folder}/joiner.pt")(found["encoder"][0][:, 0], found["decoder"])
assert "shared_moe_conformer" not in sys.modules
torch.save(found, outputs)
"""


def test_torchscript_needs_torch_alone_and_gives_the_models_numbers(
    saved: Save, tiny_bundle: Bundle, tones: np.ndarray, tmp_path: Path
) -> None:
    write_torchscript(saved(), tmp_path / "graphs")
    verify_sums(tmp_path / "graphs", required=["encoder.pt", "decoder.pt", "joiner.pt", "ctc.pt", "tokens.txt"])
    features = [tiny_bundle.features(part, 16000) for part in (tones, tones[:16000])]
    x = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    x_lens = torch.tensor([len(part) for part in features])
    torch.save((x, x_lens), tmp_path / "inputs")
    command = [sys.executable, "-c", RUN_GRAPHS, tmp_path / "graphs", tmp_path / "inputs", tmp_path / "outputs"]
    result = subprocess.run([str(part) for part in command], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = torch.load(tmp_path / "outputs")
    model = tiny_bundle.model
    with torch.no_grad():
        encoder_out, lens, _ = model.encode(x, x_lens)
        frames = model.joiner.encoder_projection(encoder_out)
        context = model.joiner.decoder_projection(model.decoder.step(torch.tensor([[-1, 0], [3, 4]])))
        logits = model.joiner(frames[:, 0], context)
        log_probs = model.ctc_log_probs(encoder_out)
    assert found["encoder"][1].tolist() == found["ctc"][1].tolist() == lens.tolist()
    for i, length in enumerate(lens.tolist()):
        torch.testing.assert_close(found["encoder"][0][i, :length], frames[i, :length], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found["ctc"][0][i, :length], log_probs[i, :length], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["joiner"], logits, atol=1e-4, rtol=1e-4)
