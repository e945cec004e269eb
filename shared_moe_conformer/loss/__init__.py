"""Losses: transducer (simple and pruned, by k2 or by torch alone) and CTC."""
