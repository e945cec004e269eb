"""Finite-state transducers: graphs as plain arrays, the engines that search them, and the lattices that they find."""
