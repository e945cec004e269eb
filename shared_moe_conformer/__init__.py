"""Conformer speech recognition whose grouped layers share weights and regain capacity with sparsely-gated experts."""

from shared_moe_conformer.mkl import use_avx2_on_amd

__version__ = "0.1.0"

use_avx2_on_amd()
