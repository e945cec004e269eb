from __future__ import annotations

import functools
import gzip
import http.server
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lhotse.cut import Cut

from shared_moe_conformer.data import shar
from shared_moe_conformer.data.shar import Shards, find_shards, listed_shards, write_shard
from tests.data.conftest import Corpus


@pytest.fixture(scope="module")
def folder(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards of four cuts, with audio and features."""
    folder, cuts = tmp_path_factory.mktemp("shar"), corpus.cuts("train")
    for number in range(6):
        assert write_shard(cuts[4 * number :][:4], folder, number, {"recording": "flac", "features": "lilcom"})
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The shards, to be spoiled."""
    return Path(shutil.copytree(folder, tmp_path / "shar"))


def ids(cuts: Shards | list[Cut]) -> list[str]:
    return [cut.id for cut in cuts]


def test_every_pass_has_every_cut_once_in_another_order(folder: Path, corpus: Corpus) -> None:
    shards = find_shards(folder)
    assert ids(shards) == ids(list(shards.manifests())) == ids(corpus.cuts("train"))
    shards.seed = 3
    first, second = ids(shards), ids(shards)
    assert first != second and sorted(first) == sorted(second) == sorted(ids(corpus.cuts("train")))


def test_parts_have_shards_of_their_own(folder: Path) -> None:
    parts = [ids(find_shards(folder).part(index, 4)) for index in range(4)]
    assert list(map(len, parts)) == [8, 8, 4, 4]
    assert len({cut_id for part in parts for cut_id in part}) == 24
    many = [ids(find_shards(folder).part(index, 7, seed=1)) for index in range(7)]  # more than its six shards
    assert list(map(len, many)) == [4, 4, 4, 3, 3, 3, 3] and len({cut_id for part in many for cut_id in part}) == 24


def test_a_list_names_files_and_commands(folder: Path, tmp_path: Path) -> None:
    shards = find_shards(folder)
    files = {"cuts": shards.files["cuts"], "features": [f"pipe:cat {path}" for path in shards.files["features"]]}
    (tmp_path / "list.json").write_text(json.dumps(files))
    listed = list(listed_shards(tmp_path / "list.json"))
    assert ids(listed) == ids(find_shards(folder))
    assert listed[3].load_features().shape == (listed[3].num_frames, 80)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "list.json does not list shards: write"),
        ("{", "list.json is not JSON"),
        ('{"recording": ["a"]}', "list.json has no cuts.000000.jsonl.gz"),
        ('{"cuts": ["a"]}', "list.json has neither features.000000.tar nor recording.000000.tar"),
        ('{"cuts": ["a"], "target": ["b"]}', "list.json lists target: training reads cuts and features or recording"),
        ('{"cuts": ["a", "b"], "recording": ["c"]}', "not as many files of each field: 2 of cuts, 1 of recording"),
    ],
)
def test_other_lists_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        listed_shards(tmp_path / "list.json")


def test_faults_are_named_in_one_line(copy: Path) -> None:
    tar, manifest = copy / "features.000002.tar", copy / "cuts.000002.jsonl.gz"
    whole, lines = tar.read_bytes(), gzip.decompress(manifest.read_bytes()).splitlines(keepends=True)

    def fault() -> str:
        with pytest.raises(ValueError) as error:
            list(find_shards(copy))
        assert "\n" not in str(error.value)
        return str(error.value)

    tar.write_bytes(whole[: len(whole) // 2])
    assert "cuts.000002.jsonl.gz" in fault() and "features.000002.tar" in fault()
    tar.write_bytes(b"")
    assert "features.000002.tar" in fault()
    tar.write_bytes(whole)
    manifest.write_bytes(gzip.compress(b"".join([lines[0], *lines])))
    assert "Mismatched IDs" in fault()
    manifest.write_bytes(gzip.compress(b"".join([*lines, lines[0]])))
    assert "features.000002.tar is cut off, 4 of the 5 in" in fault()
    tar.unlink()
    assert "6 of cuts, 5 of features" in fault()


def test_a_shard_is_written_once_and_not_over_another(folder: Path, corpus: Corpus, tmp_path: Path) -> None:
    cuts, flac = corpus.cuts("train")[:3], {"recording": "flac"}
    (tmp_path / ".000000").mkdir()
    (tmp_path / ".000000" / "left.by.a.killed.run").touch()
    assert [write_shard(cuts, tmp_path, 0, flac) for _ in range(2)] == [True, False]
    assert not any(cut.has_features for cut in find_shards(tmp_path)), "they are not in the shard"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cuts.000000.jsonl.gz", "recording.000000.tar"]
    with pytest.raises(ValueError, match="cuts.000000.jsonl.gz is of other cuts or fields"):
        write_shard(cuts[:2], tmp_path, 0, flac)
    with pytest.raises(ValueError, match="of other cuts or fields"):
        write_shard(cuts, tmp_path, 0, {"recording": "flac", "features": "lilcom"})


def test_a_cut_that_cannot_be_written_is_named(corpus: Corpus, tmp_path: Path) -> None:
    good, bad = corpus.cuts("train")[:2]
    with pytest.raises(ValueError, match=f"cut {bad.id} has no features to write"):
        write_shard([good, bad.drop_features()], tmp_path, 0, {"features": "lilcom"})
    bad.recording.sources[0].source = "elsewhere.wav"
    with pytest.raises(ValueError, match=f"cut {bad.id} cannot be written: .*elsewhere.wav"):
        write_shard([good, bad], tmp_path, 0, {"recording": "flac"})
    assert list(tmp_path.iterdir()) == []


def test_mixed_cuts_are_written_as_they_sound(corpus: Corpus, tmp_path: Path) -> None:
    first, second = (cut.drop_features() for cut in corpus.cuts("train")[:2])
    mixed = first.mix(second, snr=10).append(second)
    write_shard([mixed], tmp_path, 0, {"recording": "wav"})
    (read,) = find_shards(tmp_path)
    assert read.id == mixed.id and len(read.supervisions) == 3
    assert abs(read.load_audio() - mixed.load_audio()).max() < 2e-4


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; the first requests for recordings go wrong in the ways that are listed."""

    troubles: list[str] = []

    def do_GET(self) -> None:
        trouble = self.troubles.pop(0) if self.troubles and "recording" in self.path else ""
        if trouble == "refuses":
            self.send_error(503)
            return
        content = (Path(self.directory) / self.path.lstrip("/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if trouble else content)
        self.wfile.flush()
        if trouble == "stalls":
            time.sleep(1.5)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    handler = functools.partial(Server, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_web_server_that_breaks_off_or_stalls_is_asked_again(
    folder: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shar, "PAUSE", 0.01)
    monkeypatch.setattr(shar, "STALL", 0.4)
    names = {"cuts": "cuts.%06d.jsonl.gz", "recording": "recording.%06d.tar"}
    urls = {field: [f"{address}/{name % number}" for number in range(6)] for field, name in names.items()}
    (tmp_path / "list.json").write_text(json.dumps(urls))
    shards = listed_shards(tmp_path / "list.json")
    Server.troubles = ["breaks off", "", "stalls", "refuses", "breaks off"]
    assert ids(shards) == ids(find_shards(folder))
    assert not Server.troubles
    assert next(iter(shards)).load_audio().shape[0] == 1
    Server.troubles = ["refuses", "breaks off", "stalls", "breaks off"]
    with pytest.raises(ValueError, match=r"recording.000000.tar cannot be fetched: it broke off, \d+ of \d+ bytes"):
        ids(shards)


def test_a_command_that_breaks_off_is_run_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shar, "PAUSE", 0.01)
    shards, mark = find_shards(folder), tmp_path / "mark"
    first, *rest = shards.files["features"]
    script = tmp_path / "read.sh"
    script.write_text(f'if [ -e {mark} ]; then cat "$1"; else touch {mark}; head -c 9000 "$1"; fi')
    files = {"cuts": shards.files["cuts"], "features": [f"pipe:sh {script} {first}", *rest]}
    assert ids(Shards("commands", files)) == ids(shards)
    assert mark.exists()
