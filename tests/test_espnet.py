from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = Path(sys.prefix) / "espnet"
"""Outside of other tests' view: what ESPnet imports changes what Lhotse does."""


@pytest.mark.slow
@pytest.mark.skipif(not PACKAGES.is_dir(), reason="ESPnet cannot be imported here: run requirements/espnet.sh")
def test_inside_espnet() -> None:
    suite = Path(__file__).with_name("espnet_suite.py")
    path = os.pathsep.join([str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", str(suite)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
