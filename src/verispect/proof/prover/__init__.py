"""The proving half: commitments, sumchecks and lookups, made fast by numba kernels.

Needs the extra `prover`. The kernels are one source: with `NUMBA_DISABLE_JIT=1` the same functions
run as plain Python. Nothing in the verifying half imports this package, and this package refuses to
decide anything: only `verispect.proof.verifier` says whether a proof holds.
"""
