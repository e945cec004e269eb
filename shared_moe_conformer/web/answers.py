"""What the page is told, as JSON: words, their times and the experts of each frame; facts about the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import ENCODER_FRAME_SHIFT, require
from shared_moe_conformer.routing import SegmentExperts, expert_layers, transcribe_with_experts
from shared_moe_conformer.speech.audio import require_short

MAX_SECONDS = 600.0
"""Seconds of a recording that a page shows at most; `transcribe` has no such limit."""


def recognise(bundle: Bundle, path: Path, *, name: str) -> dict[str, Any]:
    """The transcript of a recording, and its experts.

    Args:
      bundle: the model.
      path: the recording.
      name: what its owner calls it.

    Raises:
      ValueError: no audio, or too long; said with the owner's name of it.
    """
    require(path.stat().st_size > 0, f"{name} is empty")
    try:
        seconds = require_short(path, seconds=MAX_SECONDS)
        transcript, segments = transcribe_with_experts(bundle, path)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), name)) from error
    values = transcript._asdict()
    values["words"] = [word._asdict() for word in transcript.words]
    return {"name": name, "seconds": round(seconds, 3), **values, "experts": experts_table(bundle, segments)}


def experts_table(bundle: Bundle, segments: Sequence[SegmentExperts]) -> dict[str, Any] | None:
    """The experts of each frame; None where the model has none.

    Returns:
      frame_shift, in seconds; num_experts; layers; and each segment's start in seconds and expert_ids, (L, T', K).
    """
    encoder = bundle.config.model.encoder
    if encoder.experts_in == "none":
        return None
    return {
        "frame_shift": ENCODER_FRAME_SHIFT,
        "num_experts": encoder.num_experts,
        "layers": [layer._asdict() for layer in expert_layers(encoder)],
        "segments": [{"start": round(s.start, 3), "expert_ids": s.expert_ids.tolist()} for s in segments],
    }


def describe_model(bundle: Bundle) -> dict[str, Any]:
    """The facts about the model that the page shows."""
    names = ("name", "corpus", "language", "licence", "unique_parameters", "active_parameters", "decoding_method")
    return {**{name: getattr(bundle.manifest, name) for name in names}, "max_seconds": MAX_SECONDS}
