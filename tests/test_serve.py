from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from shared_moe_conformer.serve import allowed_hosts, listen, main

Save = Callable[..., Path]
ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("fastapi") is None, reason="fastapi is not installed")
def test_one_command_serves_the_page_until_it_is_interrupted(saved: Save) -> None:
    folder = saved(decoding_options={"greedy_search": {"blank_penalty": 0.5}})
    command = [sys.executable, "-m", "shared_moe_conformer.serve", "--model", str(folder), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as served:
        assert served.stdout and served.stderr
        url, *rest = served.stdout.readline().split()
        assert url.startswith("http://127.0.0.1:")
        assert " ".join(rest) == "serves tiny; Ctrl-C ends it"
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert b"<!doctype html>" in answer.read()
        served.send_signal(signal.SIGINT)
        assert served.wait(30) in (0, 130, -signal.SIGINT)
        said = served.stderr.read()
        assert "with the model's tuned values: greedy_search blank-penalty 0.5\n" in said and "Traceback" not in said


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(ValueError, match="give another --port") as caught:
        listen("127.0.0.1", taken.getsockname()[1])
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="cannot listen at"):
        listen("127.0.0.1", 99999)
    with pytest.raises(ValueError, match="cannot listen at"):
        listen("no such host", 0)


def test_only_this_machine_is_listened_to_by_default() -> None:
    assert allowed_hosts("127.0.0.1") == ["127.0.0.1", "localhost", "[::1]", "127.0.0.1"]
    assert "192.168.0.7" in allowed_hosts("192.168.0.7") and "*" not in allowed_hosts("192.168.0.7")
    assert "studio.local" in allowed_hosts("Studio.local"), "browsers write host names in lower case"
    assert allowed_hosts("0.0.0.0") == allowed_hosts("::") == ["*"]


def test_missing_packages_and_models_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    with pytest.raises(SystemExit):
        main(["--model", str(tmp_path)])
    assert "the package uvicorn is not installed: pip install" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("fastapi") is None, reason="fastapi is not installed")
def test_what_the_server_cannot_do_is_said_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        main(["--model", str(tmp_path), "--max-streams", "0"])
    assert capsys.readouterr().err == "error: max_streams is 0: give a positive number\n"
    with pytest.raises(SystemExit):
        main(["--model", str(tmp_path), "--max-waiting", "-1"])
    assert capsys.readouterr().err == "error: max_waiting is -1: give 0 or more uploads\n"
    find, missing = importlib.util.find_spec, ("websockets", "wsproto", "python_multipart")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find(name))
    with pytest.raises(SystemExit):
        main(["--model", str(tmp_path)])
    live, forms, error = capsys.readouterr().err.splitlines()
    assert live == "without live recognition, which needs the package wsproto: pip install wsproto"
    assert forms == "without forms (curl -F), which need the package python-multipart: pip install python-multipart"
    assert error.startswith("error: no released model in")
