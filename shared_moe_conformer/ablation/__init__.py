"""Ablations: a table of variants of one config, trained and decoded alike, and what came out."""
