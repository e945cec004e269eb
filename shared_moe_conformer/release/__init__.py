"""The files of a released model, and their transfer: weights, manifest, card, sums, index."""
