"""Finite-state work: graphs as portable arrays, and the engines that search them."""
