"""Optimisation, checkpoints, metrics and tracking; the model and the batches are arguments."""
