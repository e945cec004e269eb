"""A remedy for a slow matrix library: torch 1.13 carries MKL 2020.0, which leaves AMD processors without AVX2."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "MKL_DEBUG_CPU_TYPE"


def use_avx2_on_amd(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Tell MKL that an AMD processor has AVX2; matrix products become 2.3 times as fast. A user's own setting stays.

    It must be called before torch's first matrix product. From its release 2020.1 on MKL ignores the variable.

    The variable is not documented. Measured on an AMD EPYC, one thread, (1500, 128) by (128, 512) in float32: 38 GFLOP/s
    without it, 90 with it.
    """
    description = cpuinfo.read_text() if cpuinfo.is_file() else ""
    if "AuthenticAMD" in description and " avx2" in description:
        os.environ.setdefault(VARIABLE, "5")
