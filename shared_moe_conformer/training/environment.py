"""With what is computed: versions, processor, threads."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from shared_moe_conformer.cpu import processor_name
from shared_moe_conformer.training.log import logger

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


def log_environment(device: torch.device, *, commit: str | None) -> None:
    """Have the log's file tell the environment, and the package's commit."""
    logger.debug("environment: %s", json.dumps({**environment(device), "commit": commit or "unknown"}))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
