"""Trusted root, assurance policy and `Verifier`: the only maker of verified results; pure."""
