"""Trusted root, assurance policy and : the only maker of verified results; pure."""
