"""Durable state of the issuer: receipts, gapless sequence numbers, openings."""
