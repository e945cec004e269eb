"""A `python3` that starts in a moment: each call is a fork of one process that has imported torch and lhotse already.

Whole chains of a recipe's programs are tested with it; each import would take more than a second of every program.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

IMPORTED = (
    "torch",
    "sentencepiece",
    "lhotse.recipes",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "shared_moe_conformer.train",
    "shared_moe_conformer.decode",
    "shared_moe_conformer.export",
    "shared_moe_conformer.bundle",
    "shared_moe_conformer.lattice.decoding_graph",
)
SET_BY_TUNE_CPU = ("MKL_DEBUG_CPU_TYPE", "ATEN_CPU_CAPABILITY")
CLIENT = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()], [0, 1, 2])
server.shutdown(socket.SHUT_WR)
sys.exit(int(server.makefile().read() or 1))
"""


def user_environment() -> dict[str, str]:
    """The environment as a user has it: without what `tune_cpu` has put into it, if a test has called that.

    The variables have torch 1.13 compute filter banks by another FFT, which differs by 3e-4 in silence.
    """
    return {name: value for name, value in os.environ.items() if name not in SET_BY_TUNE_CPU}


@contextlib.contextmanager
def warm_python(folder: Path) -> Iterator[Path]:
    """A folder for the PATH, which holds that python3."""
    address = str(folder / "server")
    (folder / "bin").mkdir()
    for name in ("python3", "python"):
        client = folder / "bin" / name
        client.write_text(CLIENT.format(python=sys.executable, address=address))
        client.chmod(0o755)
    root = Path(__file__).resolve().parent.parent
    environment = {**user_environment(), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, __file__, address], env=environment, stdout=subprocess.PIPE, start_new_session=True
    ) as server:
        try:
            assert server.stdout and server.stdout.readline() == b"ready\n"
            yield folder / "bin"
        finally:
            os.killpg(server.pid, signal.SIGKILL)


def serve(address: str) -> None:
    """Fork once for each client."""
    import importlib

    for module in IMPORTED:
        importlib.import_module(module)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            answer(connection)
        connection.close()


def answer(connection: socket.socket) -> None:
    """Be the client's program, and tell it the exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while more := connection.recv(1 << 20):
        request += more
    arguments, working_folder, environment = json.loads(request)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.chdir(working_folder)
    os.environ.clear()
    os.environ.update(environment)
    status = run(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    connection.sendall(str(status).encode())
    os._exit(0)


def run(arguments: list[str]) -> int:
    """What `python3 <arguments>` does; its exit status."""
    kind, *rest = arguments
    try:
        if kind == "-c":
            sys.argv = arguments
            exec(rest[0], {"__name__": "__main__"})
        elif kind == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(kind).resolve().parent))
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
