"""With what a training computes: versions, processor, threads."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from shared_moe_conformer.cpu import processor_name

PACKAGES = ("torch", "lhotse", "k2", "numpy", "kaldialign", "sentencepiece")


def environment(device: torch.device) -> dict[str, str]:
    """Names and values for a log; what is not installed is left out."""
    found = {name: _version(name) for name in PACKAGES}
    return {
        "Python": platform.python_version(),
        **{name: version for name, version in found.items() if version},
        "system": platform.system(),
        "processor": processor_name(),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
