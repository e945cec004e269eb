"""Neural language models in sherpa-onnx, with the released model of the clone and its real speech."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from shared_moe_conformer.bundle import Bundle  # noqa: E402
from shared_moe_conformer.config import LmModelConfig  # noqa: E402
from shared_moe_conformer.data.features import compute_features  # noqa: E402, F401
from shared_moe_conformer.decoding.beam import ModifiedBeamSearch  # noqa: E402
from shared_moe_conformer.decoding.hypothesis import search_utterances  # noqa: E402
from shared_moe_conformer.decoding.neural_lm import NeuralScorer, load_neural_lm, save_neural_lm  # noqa: E402
from shared_moe_conformer.decoding.options import DecodingConfig  # noqa: E402
from shared_moe_conformer.forms.onnx_folder import write_graphs  # noqa: E402
from shared_moe_conformer.forms.onnx_graphs import write_chunk_graphs  # noqa: E402
from shared_moe_conformer.forms.onnx_language_model import StepGraph, write_language_models  # noqa: E402
from shared_moe_conformer.forms.onnx_streaming import StreamingForm, tail_seconds, whole_chunks  # noqa: E402
from shared_moe_conformer.forms.runtimes import load_graph  # noqa: E402
from shared_moe_conformer.model.language_model import LanguageModel  # noqa: E402
from shared_moe_conformer.speech.audio import read_audio, write_wav  # noqa: E402

from .conftest import RunSherpa  # noqa: E402

ZOO = Path(__file__).parents[2] / "zoo/an4-base"
