from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from shared_moe_conformer import atomic
from shared_moe_conformer.atomic import atomic_file, atomic_folder, atomic_path

MARKER = "marker.json"


def make_folder(target: Path, content: str, *, overwrite: bool = False) -> None:
    with atomic_folder(target, marker=MARKER, overwrite=overwrite) as folder:
        (folder / MARKER).write_text(content)


def test_folder_appears_with_its_files_and_leaves_nothing_else(tmp_path: Path) -> None:
    make_folder(tmp_path / "parent" / "new", "a")
    assert (tmp_path / "parent" / "new" / MARKER).read_text() == "a"
    assert os.listdir(tmp_path / "parent") == ["new"]


def test_folder_is_readable_by_others_as_the_umask_says(tmp_path: Path) -> None:
    make_folder(tmp_path / "new", "a")
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "new", marker=MARKER) as folder:
        (folder / MARKER).write_text("half")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("can_exchange", [True, False])
def test_overwriting_replaces_the_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    make_folder(tmp_path / "f", "old")
    (tmp_path / "f" / "stale").touch()
    make_folder(tmp_path / "f", "new", overwrite=True)
    assert os.listdir(tmp_path) == ["f"]
    assert os.listdir(tmp_path / "f") == [MARKER]
    assert (tmp_path / "f" / MARKER).read_text() == "new"


def test_existing_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    make_folder(tmp_path / "f", "old")
    with pytest.raises(FileExistsError, match="--overwrite"), atomic_folder(tmp_path / "f", marker=MARKER):
        pytest.fail("the block ran")


def test_only_its_own_kind_of_folder_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds no marker.json"):
        make_folder(tmp_path / "home", "new", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_a_link_to_a_folder_of_this_kind_is_not_overwritten(tmp_path: Path) -> None:
    make_folder(tmp_path / "elsewhere", "precious")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match="is not overwritten"):
        make_folder(tmp_path / "link", "new", overwrite=True)
    assert [path.read_text() for path in (tmp_path / "elsewhere").iterdir()] == ["precious"]


def test_old_folder_survives_a_failure_in_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "f", "old")
    rename, calls = os.rename, []

    def failing_second(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError("disk full")
        rename(source, target)

    monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    monkeypatch.setattr(os, "rename", failing_second)
    with pytest.raises(OSError, match="disk full"):
        make_folder(tmp_path / "f", "new", overwrite=True)
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f" / MARKER).read_text() == "old"


def test_old_folder_survives_a_killed_process(tmp_path: Path) -> None:
    make_folder(tmp_path / "f", "old")
    script = """
        import os, signal, sys
        from pathlib import Path
        from shared_moe_conformer.atomic import atomic_folder
        with atomic_folder(Path(sys.argv[1]), marker="marker.json", overwrite=True) as folder:
            (folder / "marker.json").write_text("new")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "f")], env=_environment())
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "f" / MARKER).read_text() == "old"


def test_file_is_old_until_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["index.json"])
    with atomic_file(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert (path.read_text(), os.listdir(tmp_path)) == ("new", ["index.json"])


def test_an_error_without_a_file_names_the_folder_or_file(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="device: '.*/new'"), atomic_folder(tmp_path / "new", marker=MARKER):
        raise full
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="cuts.jsonl'"), atomic_file(tmp_path / "index.json"):
        (tmp_path / "cuts.jsonl").read_text()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(atomic.__file__).parent.parent)}


def test_an_error_never_names_a_hidden_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_file(tmp_path / "nowhere" / "file"):
        pass
    assert caught.value.filename == str(tmp_path / "nowhere" / "file")
    with pytest.raises(FileNotFoundError) as caught, atomic_folder(tmp_path / "new", marker=MARKER) as folder:
        (folder / "missing").read_text()
    assert caught.value.filename == str(tmp_path / "new")


def test_a_program_that_opens_its_file_itself_leaves_it_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "cuts.jsonl.gz"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent and temporary.name.endswith(".jsonl.gz")
        temporary.write_text("first")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [("cuts.jsonl.gz", "first")]
