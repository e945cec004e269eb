"""Whatever a folder holds that calls itself a bundle, loading it ends well or with one line, and opens nothing else."""

from __future__ import annotations

import copy
import json
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.release.manifest import (
    CARD_FILE,
    CONFIG_FILE,
    FILES,
    MANIFEST_FILE,
    TEST_TEXT,
    TEST_WAV,
    WEIGHTS_FILE,
    ExampleRecording,
)
from shared_moe_conformer.release.zoo_index import SUMS_FILE, write_sums

Change = Callable[[bytes], bytes]
LIMIT = 1 << 24
SCALARS = st.none() | st.booleans() | st.integers() | st.sampled_from([0.5, -1.0, 1e308, float("nan")]) | st.text()
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3), max_leaves=5
)
NUMBERS = st.sampled_from([0, 1, 2, 3, 7, 64, 4096, 10**5, 10**9, 2**63, -1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Bundle, lang_dir: Path, tones: np.ndarray) -> Path:
    """A bundle, and around it nothing."""
    folder = tmp_path_factory.mktemp("hostile") / "tiny"
    tiny_bundle.save(folder, lang_dir=lang_dir, example=ExampleRecording(tones, 16000, "ONE TWO"))
    return folder


@st.composite
def byte_changes(draw: st.DrawFn) -> Change:
    """Cut, flip, insert or replace bytes anywhere."""
    where, new = draw(st.integers(0, 2**20)), draw(st.binary(max_size=12))
    kind = draw(st.sampled_from(["cut", "flip", "insert", "replace", "all"]))

    def change(content: bytes) -> bytes:
        at = where % len(content)
        flipped = bytes([content[at] ^ (1 << where % 8)])
        return {
            "cut": content[:at],
            "flip": content[:at] + flipped + content[at + 1 :],
            "insert": content[:at] + new + content[at:],
            "replace": content[:at] + new + content[at + len(new) :],
            "all": new,
        }[kind]

    return change


@st.composite
def json_changes(draw: st.DrawFn) -> Change:
    """Replace, remove or add a value anywhere in a JSON object."""
    choice, value = draw(st.integers(0, 2**20)), draw(VALUES | NUMBERS | st.lists(NUMBERS, max_size=3))
    kind, new_key = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"])), draw(st.text())

    def change(content: bytes) -> bytes:
        values = copy.deepcopy(json.loads(content))
        places = list(places_in(values))
        part, key = places[choice % len(places)]
        if kind == "remove":
            del part[key]
        else:
            part[key if kind == "replace" else new_key] = value
        return json.dumps(values).encode()

    return change


def places_in(values: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    for key, value in values.items():
        yield values, key
        if isinstance(value, dict):
            yield from places_in(value)


CHANGES = st.tuples(st.sampled_from([CONFIG_FILE, MANIFEST_FILE]), json_changes()) | st.tuples(
    st.sampled_from([*FILES, SUMS_FILE]), byte_changes()
)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, derandomize=True)
@given(target=CHANGES, honest=st.booleans())
def test_any_change_is_loaded_or_refused_in_one_line(folder: Path, target: tuple[str, Change], honest: bool) -> None:
    name, change = target
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    try:
        (folder / name).write_bytes(change(before[name]))
        if honest and name != SUMS_FILE:
            write_sums(folder)
        try:
            Bundle.load(folder, verify=honest)
        except (ValueError, FileNotFoundError) as error:
            assert 0 < len(str(error)) < 1000
        assert {path.name for path in folder.iterdir()} == before.keys()
    finally:
        for changed in {name, SUMS_FILE}:
            (folder / changed).write_bytes(before[changed])


def refuse(folder: Path, name: str, content: bytes, match: str) -> None:
    original = (folder / name).read_bytes()
    try:
        (folder / name).write_bytes(content)
        write_sums(folder)
        with pytest.raises(ValueError, match=match) as caught:
            Bundle.load(folder)
        assert "\n" not in str(caught.value)
    finally:
        (folder / name).write_bytes(original)
        write_sums(folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, MANIFEST_FILE])
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 10**6,
        b'{"a":' * 10**5,
        b"9" * 10**5,
        b'"\\ud800"',
        b"\xff",
        b"",
        b"[]",
        b'["data"]',
        b"NaN",
    ],
)
def test_json_that_is_none_or_too_deep(folder: Path, name: str, content: bytes) -> None:
    refuse(folder, name, content, name)


@pytest.mark.parametrize("name", [CONFIG_FILE, MANIFEST_FILE, "tokens.txt", "bpe.model"])
def test_files_that_are_too_long_are_not_read(folder: Path, name: str) -> None:
    refuse(folder, name, b" " * (LIMIT + 1), f"{name} has {LIMIT + 1} bytes")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_itself_weights_is_not_opened(folder: Path, tmp_path: Path, protocol: int) -> None:
    refuse(folder, WEIGHTS_FILE, pickle.dumps(Trap(tmp_path / "sprung"), protocol), "cannot be read as safetensors")
    assert not (tmp_path / "sprung").exists()


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "header",
    [
        b"{}",
        b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"PICKLE","shape":[1],"data_offsets":[0,4]}}',
        b'{"a\\nb":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    ],
)
def test_safetensors_headers_that_lie(folder: Path, header: bytes) -> None:
    padding = b" " * 2_000_000  # room for the config's tensors
    for content in (struct.pack("<Q", len(header)) + header + b"0000", struct.pack("<Q", 2**60) + header + padding):
        refuse(folder, WEIGHTS_FILE, content, f"{WEIGHTS_FILE}|not one of the weights beside it")


@pytest.mark.parametrize(
    "change",
    [
        {"group_sizes": [10**9]},
        {"group_sizes": [1] * 100_000},
        {"encoder_dim": 30_000},
        {"num_experts": 10**7},
        {"feed_forward_dim": 10**8},
        {"conv_kernel_size": 10**9 + 1},
        {"num_attention_heads": 0},
    ],
)
def test_configs_of_enormous_models_take_no_memory(folder: Path, change: dict[str, object]) -> None:
    values = json.loads((folder / CONFIG_FILE).read_bytes())
    values["model"]["encoder"] |= change
    tracemalloc.start()
    try:
        refuse(folder, CONFIG_FILE, json.dumps(values).encode(), CONFIG_FILE)
        assert tracemalloc.get_traced_memory()[1] < 2**25, "bytes"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("change", [{"top_k": True}, {"top_k": 1.0}, {"experts_in": None}, {"individual_norms": 1}])
def test_options_of_another_type_are_named(folder: Path, change: dict[str, object]) -> None:
    values = json.loads((folder / CONFIG_FILE).read_bytes())
    values["model"]["encoder"] |= change
    ((name, value),) = change.items()
    refuse(folder, CONFIG_FILE, json.dumps(values).encode(), f"config.json: {name} is {value!r}: ")


@pytest.mark.parametrize("change", [{"sampling_rate": 10**9}, {"feature_extractor": "os.system"}])
def test_features_that_cannot_be_are_refused_before_audio_comes(folder: Path, change: dict[str, object]) -> None:
    values = json.loads((folder / CONFIG_FILE).read_bytes())
    values["features"] |= change
    refuse(folder, CONFIG_FILE, json.dumps(values).encode(), f"{next(iter(change))} is ")


def test_integers_do_not_pass_for_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save

    weights = load_file(folder / WEIGHTS_FILE)
    name = "joiner.output.weight"
    content = save({**weights, name: weights[name].to(torch.int32)})
    refuse(folder, WEIGHTS_FILE, content, name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["dangling link", "link to a device", "link to a folder", "pipe", "folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(folder: Path, tmp_path: Path, name: str, kind: str) -> None:
    path, kept = folder / name, tmp_path / "kept"
    path.rename(kept)
    makers: dict[str, Callable[[], object]] = {
        "dangling link": lambda: path.symlink_to(tmp_path / "nowhere"),
        "link to a device": lambda: path.symlink_to("/dev/zero"),
        "link to a folder": lambda: path.symlink_to(tmp_path),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }
    makers[kind]()
    try:
        for verify in (True, False) if name not in (CARD_FILE, TEST_WAV, TEST_TEXT) else (True,):
            with pytest.raises((ValueError, FileNotFoundError), match=name) as caught:
                Bundle.load(folder, verify=verify)
            assert "\n" not in str(caught.value)
    finally:
        path.rmdir() if kind == "folder" else path.unlink()
        kept.rename(path)


@pytest.mark.parametrize("name", [CONFIG_FILE, MANIFEST_FILE])
def test_each_missing_key_is_named_unless_it_has_been_added_later(folder: Path, name: str) -> None:
    original = json.loads((folder / name).read_bytes())
    places = list(places_in(original))
    refused = 0
    for number in range(len(places)):
        values = copy.deepcopy(original)
        part, key = list(places_in(values))[number]
        del part[key]
        content = json.dumps(values).encode()
        before = (folder / name).read_bytes()
        try:
            (folder / name).write_bytes(content)
            Bundle.load(folder, verify=False)
        except ValueError as error:
            assert key in str(error) and "\n" not in str(error)
            refused += 1
        finally:
            (folder / name).write_bytes(before)
    assert refused > 6
