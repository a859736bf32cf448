"""Fetches what vendors publish about evidence, so that it can be kept and judged offline later."""
