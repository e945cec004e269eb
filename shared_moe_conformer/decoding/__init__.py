"""Searches that turn encoder frames into tokens, and the scoring of what they found."""
