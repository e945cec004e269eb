from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared_moe_conformer.release.manifest import Manifest, read_manifest, write_manifest
from shared_moe_conformer.release.transfer import resolve
from shared_moe_conformer.release.zoo_index import (
    INDEX_FILE,
    SUMS_FILE,
    add,
    file_sha256,
    find,
    read_index,
    write_sums,
)
from shared_moe_conformer.zoo import main, table, verify

Save = Callable[..., Path]
Output = pytest.CaptureFixture[str]


def fake_bundle(zoo_dir: Path, name: str) -> Path:
    """A folder that looks like a bundle from outside."""
    folder = zoo_dir / name
    folder.mkdir(parents=True)
    facts = {"corpus": "telephone", "language": "en", "licence": "MIT", "decoding_method": "greedy_search"}
    counts = {"unique_parameters": 1_500_000, "unrolled_parameters": 4_000_000, "active_parameters": 2_000_000}
    rates = {"test": {"greedy_search": 20.0, "modified_beam_search": 19.5}}
    write_manifest(Manifest(name=name, **facts, **counts, error_rates=rates), folder)  # type: ignore[arg-type]
    (folder / "weights").write_bytes(b"0" * 1000)
    write_sums(folder)
    return folder


def test_an_empty_zoo_has_no_models(tmp_path: Path) -> None:
    assert read_index(tmp_path) == []
    assert read_index(tmp_path / "nowhere") == []


def test_an_added_model_is_found_with_its_facts(tmp_path: Path) -> None:
    folder = fake_bundle(tmp_path, "base")
    added = add(folder)
    assert [added] == read_index(tmp_path)
    assert find("base", zoo_dir=tmp_path) == added
    assert resolve("base", zoo_dir=tmp_path) == folder
    assert added.size == sum(len(path.read_bytes()) for path in folder.iterdir())
    assert added.sha256 == file_sha256(folder / SUMS_FILE)
    assert added.error_rates["test"]["modified_beam_search"] == 19.5


def test_models_are_listed_by_name_and_adding_again_replaces(tmp_path: Path) -> None:
    folders = [fake_bundle(tmp_path, name) for name in ("full", "base")]
    for folder in (*folders, *folders):
        add(folder)
    assert [entry.name for entry in read_index(tmp_path)] == ["base", "full"]
    header, base, full = table(read_index(tmp_path)).splitlines()
    assert " ".join(base.split()) == "base telephone en MIT 1.50M 4.00M 2.00M 0.0 MB 20.00 % (test, greedy_search)"
    assert header.index("WER (test set, search)") == base.index("20.00")


def test_the_index_is_plain_json(tmp_path: Path) -> None:
    add(fake_bundle(tmp_path, "base"))
    (entry,) = json.loads((tmp_path / INDEX_FILE).read_text())
    assert entry["name"] == entry["path"] == "base"
    assert entry["unique_parameters"] == 1_500_000
    assert "decoding_method" not in entry, "earlier versions do not know it"


def test_the_index_says_which_search_a_model_uses_where_it_is_not_the_default(tmp_path: Path) -> None:
    folder = fake_bundle(tmp_path, "base")
    write_manifest(dataclasses.replace(read_manifest(folder), decoding_method="modified_beam_search"), folder)
    add(folder)
    (entry,) = read_index(tmp_path)
    assert entry.word_error_rate == (19.5, "test")


def test_many_processes_may_add_at_once(tmp_path: Path) -> None:
    folders = [fake_bundle(tmp_path, f"m{i}") for i in range(12)]
    with multiprocessing.get_context("fork").Pool(6) as pool:
        pool.map(add, folders, chunksize=1)
    assert {entry.name for entry in read_index(tmp_path)} == {folder.name for folder in folders}


@pytest.mark.parametrize("name", ["../base", "/etc", ".", "..", ""])
def test_names_cannot_leave_the_zoo(tmp_path: Path, name: str) -> None:
    add(fake_bundle(tmp_path / "zoo", "base"))
    with pytest.raises(ValueError, match="cannot be a model's name"):
        find(name, zoo_dir=tmp_path / "zoo")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "../../home"}, "cannot be a model's name"),
        ({"size": "12"}, "size is '12'"),
        ({"size": -1}, "size is -1: it must not be negative"),
        ({"sha256": "0" * 63}, "not a SHA-256"),
        ({"extra": 1}, "no option extra"),
    ],
)
def test_a_hostile_index_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    add(fake_bundle(tmp_path, "base"))
    path = tmp_path / INDEX_FILE
    path.write_text(json.dumps([{**json.loads(path.read_text())[0], **change}]))
    with pytest.raises(ValueError, match=message) as caught:
        read_index(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", ["", "{}", "[1]", "null", "[" * 100_000])
def test_a_damaged_index_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / INDEX_FILE).write_text(content)
    with pytest.raises(ValueError, match=INDEX_FILE):
        read_index(tmp_path)


def test_a_failure_leaves_the_old_index(tmp_path: Path) -> None:
    add(fake_bundle(tmp_path, "base"))
    before = (tmp_path / INDEX_FILE).read_text()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no released model in"):
        add(tmp_path / "empty")
    assert (tmp_path / INDEX_FILE).read_text() == before


def test_verifying_transcribes_the_test_wav(saved: Save, capsys: Output) -> None:
    folder = saved()
    add(folder)
    text = verify("tiny", zoo_dir=folder.parent)
    assert text
    main(["verify", "--zoo-dir", str(folder.parent)])
    assert capsys.readouterr().out == f"tiny: every file is as released; test.wav: {text}\n"


def test_verifying_finds_a_changed_byte_even_where_the_sums_were_changed_too(saved: Save) -> None:
    folder = saved()
    add(folder)
    (folder / "README.md").write_text("buy something")
    with pytest.raises(ValueError, match="README.md is not the file"):
        verify("tiny", zoo_dir=folder.parent)
    write_sums(folder)
    with pytest.raises(ValueError, match="SHA256SUMS is not the one in the zoo's index"):
        verify("tiny", zoo_dir=folder.parent)


def test_verifying_finds_a_model_that_says_something_else(saved: Save) -> None:
    folder = saved()
    text = (folder / "test.txt").read_text()
    (folder / "test.txt").write_text(text.replace("transcript):", "transcript): NEVER"))
    write_sums(folder)
    add(folder)
    with pytest.raises(ValueError, match="not as released, 'NEVER"):
        verify("tiny", zoo_dir=folder.parent)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["verify", "nobody"], "has no model nobody; it has: base"), (["verify", "../x"], "cannot be a model's name")],
)
def test_a_wrong_call_is_one_line(tmp_path: Path, capsys: Output, arguments: list[str], message: str) -> None:
    add(fake_bundle(tmp_path, "base"))
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--zoo-dir", str(tmp_path)])
    err = capsys.readouterr().err
    assert exit_.value.code == 1
    assert message in err
    assert err.count("\n") == 1


def test_a_models_rate_is_that_of_its_own_search_and_not_of_the_best_on_the_test_set(tmp_path: Path) -> None:
    greedy = "greedy_search-max-sym-per-frame-1"
    rates = {"a": {"1best-graph-H": 7.0, "ctc_greedy_search": 6.0}, "b": {greedy: 8.5}, "c": {greedy: 5.0}}
    entry = dataclasses.replace(add(fake_bundle(tmp_path, "base")), error_rates=rates)
    assert entry.word_error_rate == (8.5, "b")
    assert dataclasses.replace(entry, decoding_method="ctc_greedy_search").shown_rate == "6.00 % (a, ctc_greedy_search)"
    assert dataclasses.replace(entry, decoding_method="modified_beam_search").shown_rate == ""
    assert dataclasses.replace(entry, error_rates={"a": {greedy: math.inf, "odd": 1.0}}).word_error_rate is None


def test_a_model_is_shown_pulled_pushed_and_removed_by_command(saved: Save, tmp_path: Path, capsys: Output) -> None:
    folder = saved()
    add(folder)
    other, source = tmp_path / "other", str(folder.parent)
    main(["list", "--from", source])
    assert "tiny  telephone" in capsys.readouterr().out
    main(["show", "tiny", "--from", source])
    shown = capsys.readouterr().out
    assert "\n  WER on test\n     98.70 %  greedy_search\n     97.60 %  modified_beam_search\n" in shown
    assert f"  address                {source}/tiny\n" in shown
    main(["pull", "tiny", "--from", folder.parent.as_uri(), "--zoo-dir", str(other)])
    assert capsys.readouterr().out == f"{other / 'tiny'}: every file is as released\n"
    assert verify("tiny", zoo_dir=other) == verify("tiny", zoo_dir=folder.parent)
    main(["push", "tiny", "--to", str(tmp_path / "third"), "--zoo-dir", str(other)])
    main(["remove", "tiny", "--zoo-dir", str(other)])
    assert not (other / "tiny").exists()
    assert [entry.name for entry in read_index(tmp_path / "third")] == ["tiny"]


def test_listing_needs_no_torch(tmp_path: Path) -> None:
    add(fake_bundle(tmp_path, "base"))
    code = (
        "import sys; from shared_moe_conformer.zoo import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, "list", "--zoo-dir", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "base  telephone" in result.stdout
