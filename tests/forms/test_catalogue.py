from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.data.tokenizer import Tokenizer
from shared_moe_conformer.forms.catalogue import write_espnet, write_icefall

Save = Callable[..., Path]


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
