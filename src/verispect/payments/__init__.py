"""Paid inference: prices, and the durable life of a payment from its reservation to its capture.

The room may import `core` to `node`; it knows nothing of HTTP. It refuses to run an inference
and to decide whether assurance was met: it is told. It moves no money itself either: a
`Settlement` does (`verispect.payments.chain`).
"""
