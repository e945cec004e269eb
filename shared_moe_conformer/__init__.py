"""Conformer speech recognition whose grouped layers share weights and regain capacity with sparsely-gated experts."""

__version__ = "0.1.0"
