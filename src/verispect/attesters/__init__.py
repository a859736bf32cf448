"""Attesters produce evidence: the signer of statements, and what vouches for its key.

An attester asks a device; it refuses to judge what the device says, and to answer without one.
"""
