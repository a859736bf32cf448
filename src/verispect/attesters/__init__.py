"""Attesters produce evidence: here the signer of statements."""
