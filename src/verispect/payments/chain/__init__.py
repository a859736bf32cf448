"""Where money moves: an EVM chain, the contracts that x402 pays through, and who asks them.

The room needs the extra `payments`, and `payments-dev` for the embedded chain. It may import
`core` to `node` and the foundation of `payments`; it refuses to import the `x402` package, which
is behind its adapter, and to believe anything about money that the chain does not say.
"""
