"""Two processes that torchrun starts: by one agent, or by two agents on this machine, as if on two machines."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def torchrun(
    script: Path, *arguments: str | Path, num_nodes: int = 1, max_restarts: int = 0, fails: bool = False
) -> str:
    """Run a script in two processes to its end, and return their standard error.

    Args:
      script: run by each process; files with the output appear beside it.
      arguments: the script's.
      num_nodes: agents, 1 or 2.
      max_restarts: times that the agents may start again after a process has died.
      fails: whether the run must fail; otherwise it must succeed.
    """
    port = free_port()
    options = [f"--nnodes={num_nodes}", f"--nproc_per_node={2 // num_nodes}", f"--max_restarts={max_restarts}"]
    options += ["--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=test"]
    options += ["--redirects=1", "--tee=1"]  # torch 1.13's torchrun fails with its own defaults on Python 3.11
    command = [sys.executable, "-m", "torch.distributed.run", *options, *map(str, (script, *arguments))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    files = [script.with_suffix(f".{node}.txt") for node in range(num_nodes)]
    agents = [subprocess.Popen(command, env=environment, cwd=ROOT, stderr=file.open("w")) for file in files]
    try:
        statuses = [agent.wait(timeout=600) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    shown = "".join(file.read_text() for file in files)
    assert all((status != 0) == fails for status in statuses), shown
    return shown


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
