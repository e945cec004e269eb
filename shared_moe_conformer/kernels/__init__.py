"""Faster ways to compute what plain torch computes too; each is chosen inside its module and tested against torch."""
