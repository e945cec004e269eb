from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from shared_moe_conformer.release import transfer
from shared_moe_conformer.release.manifest import FILES, MANIFEST_FILE, WEIGHTS_FILE
from shared_moe_conformer.release.transfer import pull, push, remove, resolve
from shared_moe_conformer.release.zoo_index import INDEX_FILE, SUMS_FILE, file_sha256, find, read_index
from tests.release.conftest import contents, make_model
from tests.zoo_server import serve


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("kind", ["folder", "file", "http", "http without ranges"])
def test_a_pulled_model_is_the_other_zoos(zoo: Path, here: Path, kind: str) -> None:
    with serve(zoo, resumes=kind == "http") as server:
        source = {"folder": str(zoo), "file": zoo.as_uri()}.get(kind, server.url)
        folder = pull("base", source=source, zoo_dir=here)
    assert contents(folder) == contents(zoo / "base")
    assert read_index(here) == [find("base", zoo_dir=zoo)]
    assert visible(here) == {"base", INDEX_FILE}
    assert not list(here.glob("*.partial"))


def test_what_is_here_needs_no_network(zoo: Path, here: Path) -> None:
    with serve(zoo) as server:
        url = server.url
        assert resolve(f"{url}/base", zoo_dir=here) == here / "base"
    assert resolve(f"{url}/base", zoo_dir=here) == resolve("base", zoo_dir=here) == here / "base"
    with pytest.raises(ValueError, match="cannot be read"):
        resolve(f"{url}/full", zoo_dir=here)


def test_damage_here_is_repaired_and_only_updating_takes_a_new_version(zoo: Path, here: Path) -> None:
    pull("base", source=str(zoo), zoo_dir=here)
    old = contents(here / "base")
    (here / "base" / WEIGHTS_FILE).write_bytes(b"")
    assert contents(pull("base", source=str(zoo), zoo_dir=here)) == old
    shutil.rmtree(zoo / "base")
    make_model(zoo, "base", seed=99)
    assert contents(pull("base", source=str(zoo), zoo_dir=here)) == old
    (here / "base" / WEIGHTS_FILE).write_bytes(b"")
    with pytest.raises(FileExistsError, match=r"is not the version that .* has: --update takes that one instead"):
        pull("base", source=str(zoo), zoo_dir=here)
    (here / "base" / WEIGHTS_FILE).write_bytes(old[WEIGHTS_FILE])
    assert contents(pull("base", source=str(zoo), zoo_dir=here, update=True)) == contents(zoo / "base") != old
    assert visible(here) == {"base", INDEX_FILE}
    assert find("base", zoo_dir=here) == find("base", zoo_dir=zoo)


def test_a_broken_connection_is_taken_up_where_it_broke(zoo: Path, here: Path) -> None:
    breaks = [3_000, 6_000, 9_000, 12_000, 15_000, 18_000]  # more than would be tried in vain

    def sent(total: int) -> bool:
        if breaks and total >= breaks[0]:
            breaks.pop(0)
            return False
        return True

    with serve(zoo, sent=sent) as server:
        pull("base", source=server.url, zoo_dir=here)
        weights = [asked for path, asked in server.requests if path.endswith(WEIGHTS_FILE)]
    assert not breaks
    assert len(weights) == 7
    assert weights[0] is None
    assert all(weights[1:])
    assert contents(here / "base") == contents(zoo / "base")


def test_a_busy_server_is_asked_again_and_not_for_ever(zoo: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with serve(zoo, busy=3) as server:
        pull("base", source=server.url, zoo_dir=here)
    assert pauses == [2, 4]
    shutil.rmtree(here)
    with serve(zoo, busy=3, hangs_up=True) as server:
        pull("base", source=server.url, zoo_dir=here)
    with (
        serve(zoo, busy=4) as server,
        pytest.raises(ValueError, match=r"too many 503 error responses.*received so far is kept"),
    ):
        pull("full", source=server.url, zoo_dir=here)


def test_a_zoo_that_one_may_only_read_will_do(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(transfer, "locked", refuse)
    assert pull("base", source="http://127.0.0.1:9", zoo_dir=zoo) == zoo / "base"


def test_what_interrupted_downloads_left_goes_with_the_next_one_and_no_other_models(zoo: Path, here: Path) -> None:
    leftover, others = here / f".base.{'0' * 16}.partial", here / f".base.nl.{'0' * 16}.partial"
    for folder in (leftover, others):
        folder.mkdir(parents=True)
    pull("base", source=str(zoo), zoo_dir=here)
    assert not leftover.exists() and others.exists()
    remove("base", zoo_dir=here)
    assert others.exists()


def pull_in_child(source: str, here: Path) -> None:
    pull("base", source=source, zoo_dir=here)


def test_only_what_is_missing_must_fit_on_the_disk(zoo: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = find("base", zoo_dir=zoo)
    partial = here / f".base.{entry.sha256[: transfer.VERSION_LETTERS]}.partial"
    partial.mkdir(parents=True)
    shutil.copyfile(zoo / "base" / WEIGHTS_FILE, partial / WEIGHTS_FILE)
    free = entry.size - (partial / WEIGHTS_FILE).stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(ValueError, match="full needs 0 MB, 0 MB are free here"):
        pull("full", source=str(zoo), zoo_dir=here)
    pull("base", source=str(zoo), zoo_dir=here)
    assert contents(here / "base") == contents(zoo / "base")


def test_a_killed_download_leaves_nothing_to_be_used_and_goes_on_later(zoo: Path, here: Path) -> None:
    rng = random.Random(0)
    for _ in range(20):
        shutil.rmtree(here, ignore_errors=True)
        pull_and_be_killed(zoo, here, kill_at=rng.randrange(300, find("base", zoo_dir=zoo).size))
        assert not here.exists() or visible(here) == set()
        pull("base", source=str(zoo), zoo_dir=here)
        assert contents(here / "base") == contents(zoo / "base")
        assert visible(here) == {"base", INDEX_FILE}


def pull_and_be_killed(zoo: Path, here: Path, *, kill_at: int) -> None:
    def sent(total: int) -> bool:
        if total >= kill_at and child.is_alive():
            os.kill(child.pid, signal.SIGKILL)  # type: ignore[arg-type]
            child.join()
        return True

    with serve(zoo, sent=sent) as server:
        child = multiprocessing.get_context("fork").Process(target=pull_in_child, args=(server.url, here))
        child.start()
        child.join()
    assert child.exitcode == -signal.SIGKILL


def test_processes_that_pull_at_once_share_one_download(zoo: Path, here: Path) -> None:
    with serve(zoo) as server:
        processes = [
            multiprocessing.get_context("fork").Process(target=pull_in_child, args=(server.url, here)) for _ in range(4)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 4
        assert sum(path.endswith(WEIGHTS_FILE) for path, _ in server.requests) == 1
    assert contents(here / "base") == contents(zoo / "base")


def rewrite_index(zoo: Path, **changes: object) -> None:
    index = json.loads((zoo / INDEX_FILE).read_text())
    (zoo / INDEX_FILE).write_text(json.dumps([{**index[0], **changes}]))


def rewrite_sums(zoo: Path, line: str) -> None:
    """Have the zoo's SHA256SUMS list something else, and the index agree."""
    sums = zoo / "base" / SUMS_FILE
    sums.write_text(sums.read_text() + line + "\n")
    rewrite_index(zoo, sha256=file_sha256(sums), size=1_000_000)


ZEROS = "0" * 64


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", ".hidden", "..", "-rf", "a\\b", "~", "a b", "a\0b", "é"]
)
def test_file_names_that_lead_elsewhere_are_refused(zoo: Path, here: Path, name: str) -> None:
    rewrite_sums(zoo, f"{ZEROS}  {name}")
    assert_refused(zoo, here, "not a SHA-256 and a plain file name")


def test_sums_of_something_else_are_refused(zoo: Path, here: Path) -> None:
    rewrite_sums(zoo, f"{ZEROS}  {SUMS_FILE}")
    assert_refused(zoo, here, "is not a model's: look at SHA256SUMS")
    (zoo / "base" / SUMS_FILE).write_text("")
    rewrite_sums(zoo, f"{ZEROS}  {WEIGHTS_FILE}")
    assert_refused(zoo, here, "is not a model's: look at README.md")


@pytest.mark.parametrize("file", [*FILES, SUMS_FILE])
@pytest.mark.parametrize("damage", ["flipped", "cut", "longer", "missing"])
def test_damaged_files_are_refused_and_not_kept(zoo: Path, here: Path, file: str, damage: str) -> None:
    path = zoo / "base" / file
    content = path.read_bytes()
    path.write_bytes({"flipped": bytes([content[0] ^ 1]) + content[1:], "cut": content[:-1]}.get(damage, content * 90))
    if damage == "missing":
        path.unlink()
    assert_refused(zoo, here, f"{file} is (not the file|longer|not there)")
    assert not list(here.glob(f".base.*.partial/{file}"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "../base"}, "cannot be a model's name"),
        ({"path": "full"}, "SHA256SUMS is not the file that was released"),
        ({"sha256": "zz/../.."}, "not a SHA-256"),
        ({"size": 10**18}, "are free here"),
        ({"size": 100}, "longer than its zoo's index says"),
    ],
)
def test_a_lying_index_is_refused(zoo: Path, here: Path, changes: dict[str, object], message: str) -> None:
    rewrite_index(zoo, **changes)
    assert_refused(zoo, here, message)


def test_an_index_with_a_name_twice_is_refused(zoo: Path, here: Path) -> None:
    entries = json.loads((zoo / INDEX_FILE).read_text())
    (zoo / INDEX_FILE).write_text(json.dumps([*entries, entries[0]]))
    assert_refused(zoo, here, "lists a name twice")


def test_a_model_of_another_name_is_refused(zoo: Path, here: Path) -> None:
    index = json.loads((zoo / INDEX_FILE).read_text())
    (zoo / INDEX_FILE).write_text(json.dumps([{**index[1], "name": "base"}]))
    assert_refused(zoo, here, "calls base a model that calls itself full")
    assert not list(here.glob(".base.*.partial"))


def test_a_file_without_end_is_refused(zoo: Path, here: Path) -> None:
    with serve(zoo, endless=True) as server, pytest.raises(ValueError, match="longer than its zoo's index says"):
        (zoo / INDEX_FILE).write_bytes((zoo / INDEX_FILE).read_bytes() * 3)
        pull("base", source=server.url, zoo_dir=here)
    assert not (here / "base").exists()


def assert_refused(zoo: Path, here: Path, message: str) -> None:
    """Nothing usable comes into the zoo, and nothing at all around it."""
    before = sorted(zoo.parent.glob("*"))
    with serve(zoo) as server, pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        pull("base", source=server.url, zoo_dir=here)
    assert "\n" not in str(caught.value)
    assert set(zoo.parent.glob("*")) - set(before) <= {here}
    assert visible(here) == set()


@pytest.mark.parametrize("source", ["ftp://x/zoo", "javascript://x", "http://127.0.0.1:9", "nowhere", "hf://x"])
def test_a_zoo_that_is_none_is_refused_in_one_line(here: Path, source: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        pull("base", source=source, zoo_dir=here)
    assert source in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("as_url", [False, True])
def test_a_pushed_model_is_in_the_other_zoo(zoo: Path, here: Path, as_url: bool) -> None:
    for name in ("base", "full"):
        assert push(name, zoo_dir=zoo, target=here.as_uri() if as_url else str(here)) == str(here / name)
        assert contents(here / name) == contents(zoo / name)
    assert read_index(here) == read_index(zoo)
    with pytest.raises(ValueError, match="can be read only"):
        push("base", zoo_dir=zoo, target="https://example.org/zoo")


def test_a_damaged_model_is_not_pushed(zoo: Path, here: Path) -> None:
    (zoo / "base" / WEIGHTS_FILE).write_bytes(b"")
    with pytest.raises(ValueError, match=WEIGHTS_FILE):
        push("base", zoo_dir=zoo, target=str(here))
    assert not here.exists()


def test_a_removed_model_is_gone_and_the_others_stay(zoo: Path) -> None:
    remove("base", zoo_dir=zoo)
    assert visible(zoo) == {"full", INDEX_FILE}
    assert [entry.name for entry in read_index(zoo)] == ["full"]
    with pytest.raises(FileNotFoundError, match="has no model base"):
        remove("base", zoo_dir=zoo)


def test_only_models_are_removed(zoo: Path, tmp_path: Path) -> None:
    (zoo / "base" / MANIFEST_FILE).unlink()
    with pytest.raises(ValueError, match="is not a model's folder: remove it yourself"):
        remove("base", zoo_dir=zoo)
    (zoo / "full").rename(tmp_path / "elsewhere")
    (zoo / "full").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is not a model's folder: remove it yourself"):
        remove("full", zoo_dir=zoo)
    assert (tmp_path / "elsewhere" / MANIFEST_FILE).is_file()
