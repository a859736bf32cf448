"""Recorded attestations of other people's services: reading them, and appraising the whole."""
