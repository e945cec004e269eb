"""Optimisation, checkpoints, metrics and tracking; gets the model and the batches as arguments."""
