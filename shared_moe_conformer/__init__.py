"""Conformer speech recognition whose grouped layers share weights and regain capacity with sparsely-gated experts.

The names of `__all__` load their modules, torch among them, when they are first used.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared_moe_conformer.bundle import Bundle
    from shared_moe_conformer.config import Config, EncoderConfig, ModelConfig
    from shared_moe_conformer.decoding.options import DecodingConfig
    from shared_moe_conformer.model.asr_model import AsrModel
    from shared_moe_conformer.model.encoder import Encoder
    from shared_moe_conformer.speech.transcript import Transcript

__version__ = "0.1.0"

if "torch" not in sys.modules:
    # Its threads read this once, when they are loaded. Those that spin while they wait took 11 times as long on a busy
    # machine (benchmarks/README.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__all__ = ["AsrModel", "Bundle", "Config", "DecodingConfig", "Encoder", "EncoderConfig", "ModelConfig", "Transcript"]

_MODULES = {
    "AsrModel": "model.asr_model",
    "Bundle": "bundle",
    "Config": "config",
    "DecodingConfig": "decoding.options",
    "Encoder": "model.encoder",
    "EncoderConfig": "config",
    "ModelConfig": "config",
    "Transcript": "speech.transcript",
}


def __getattr__(name: str) -> Any:
    """Load the module of a public name.

    Source: PEP 562.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
