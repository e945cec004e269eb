"""With what a training computes: versions, processor, threads."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "lhotse", "k2", "numpy", "kaldialign", "sentencepiece")
CPU_INFO = Path("/proc/cpuinfo")


def environment(device: torch.device) -> dict[str, str]:
    """Names and values for a log; what is not installed is left out."""
    found = {name: _version(name) for name in PACKAGES}
    return {
        "Python": platform.python_version(),
        **{name: version for name, version in found.items() if version},
        "system": platform.system(),
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    """Its name where Linux says it, otherwise its architecture."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name") and ":" in line]
    return names[0] if names else platform.machine()
