"""The proof system: integer models, their runtime, and proofs that an output is the model's.

`spec/integer-model.md` says what is proven and `spec/proof.md` how. Everything here but the
packages `prover` and `importer` is the verifying half: it belongs to the base install, needs NumPy
only, and reaches no network, clock, environment or randomness. It may import `core` and `tlog`.

This room refuses to say anything about a model whose weights were not committed, and to call a
proof hiding that was not made in the mode `zero-knowledge`.
"""
