from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.convert import main, write_espnet, write_icefall, write_torchscript
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.release.checksums import verify_sums

Save = Callable[..., Path]
Output = pytest.CaptureFixture[str]

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


def test_icefalls_layout_holds_the_model_and_its_units(saved: Save, tiny_bundle: Bundle, tmp_path: Path) -> None:
    write_icefall(saved(), tmp_path / "icefall")
    state = torch.load(tmp_path / "icefall" / "exp" / "pretrained.pt", map_location="cpu")["model"]
    expected = tiny_bundle.model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert Tokenizer.load(tmp_path / "icefall" / "data" / "lang_bpe_40").pieces == tiny_bundle.tokenizer.pieces
    with pytest.raises(FileExistsError):
        write_icefall(tmp_path / "zoo" / "tiny", tmp_path / "icefall")
    write_icefall(tmp_path / "zoo" / "tiny", tmp_path / "icefall", overwrite=True)


def test_espnets_archive_names_files_that_it_holds_and_a_bundle_comes_out(saved: Save, tmp_path: Path) -> None:
    folder = saved()
    write_espnet(folder, tmp_path / "a.zip")
    write_espnet(folder, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        meta = yaml.safe_load(archive.read("meta.yaml"))
        assert {*meta["files"].values(), *meta["yaml_files"].values()} <= set(archive.namelist())
        config = yaml.safe_load(archive.read("config.yaml"))
        archive.extractall(tmp_path / "out")
    assert config["token_list"] == "tokens.txt"  # made absolute by espnet_model_zoo when it unpacks
    assert config["model"] == json.loads((folder / "config.json").read_text())["model"]
    loaded = Bundle.load(tmp_path / "out", verify=False)
    assert loaded.transcribe(folder / "test.wav") == Bundle.load(folder).transcribe(folder / "test.wav")
    with pytest.raises(FileExistsError):
        write_espnet(folder, tmp_path / "a.zip")


def test_espnets_own_reader_unpacks_the_archive(saved: Save, tmp_path: Path) -> None:
    downloader = pytest.importorskip(
        "espnet_model_zoo.downloader", reason="needs espnet_model_zoo", exc_type=ImportError
    )
    folder, archive = saved(), tmp_path / "tiny-espnet.zip"
    write_espnet(folder, archive)
    reader = downloader.ModelDownloader(tmp_path / "cache")
    with pytest.warns(UserWarning, match="Expanding a local model"):
        files = reader.unpack_local_file(archive)
    assert files == reader.download_and_unpack(str(archive))
    assert files.keys() == {"asr_model_file", "bpemodel", "token_list", "asr_train_config"}
    assert all(Path(path).is_file() and Path(path).is_absolute() for path in files.values())
    assert Path(files["asr_model_file"]).read_bytes() == (folder / "model.safetensors").read_bytes()
    config = yaml.safe_load(Path(files["asr_train_config"]).read_text())
    assert (config["token_list"], config["bpemodel"]) == (files["token_list"], files["bpemodel"])
    unpacked = Bundle.load(Path(files["asr_model_file"]).parent, verify=False)
    assert unpacked.transcribe(folder / "test.wav") == Bundle.load(folder).transcribe(folder / "test.wav")


@pytest.mark.parametrize("form", ["torchscript", "icefall", "espnet"])
def test_forms_are_written_beside_the_model(saved: Save, capsys: Output, form: str) -> None:
    folder = saved()
    main(["--model", str(folder), "--to", form])
    target = folder.with_name("tiny-espnet.zip" if form == "espnet" else f"tiny-{form}")
    assert target.exists()
    assert capsys.readouterr().out == f"{target}: {form} form of tiny\n"
    with pytest.raises(SystemExit):
        main(["--model", str(folder), "--to", form])
    err = capsys.readouterr().err
    assert f"{target} exists" in err
    assert err.count("\n") == 1
    main(["--model", str(folder), "--to", form, "--overwrite"])
