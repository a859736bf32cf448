"""Paid inference with x402: prices, the durable life of a payment, settlement on a chain.

The room may import `core` to `ledger`; it knows nothing of HTTP. It refuses to run an inference
and to decide whether assurance was met: it is told. Only `x402_adapter` imports `x402`.
"""
