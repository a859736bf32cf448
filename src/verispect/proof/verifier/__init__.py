"""The verifier of proofs of integer models, written from spec/proof.md and not from the prover.

It reads in the order of the specification:

    check      the statement and the proof's head, and the whole in order
    channel    sections 5 and 10: what is received, drawn and required, decided or collected
    sumcheck   the rounds of sections 7 to 9
    views      section 6: functionals of tensors, and their extensions
    lookups    section 7
    relations  section 8
    opening    section 9, and the columns of section 4
    masks      section 10.5
    algebra    extensions and exact contractions

Everything here needs NumPy only, and refuses whatever it cannot check.
"""

from verispect.proof.verifier.check import VerifiedProof, verify_proof

__all__ = ["VerifiedProof", "verify_proof"]
