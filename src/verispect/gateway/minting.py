"""Signs a statement under the number and at the time that the store gives, in its commit."""

from __future__ import annotations

import time

from verispect.attesters.signer import Issuer
from verispect.core.envelope import STATEMENT_TYPE, sign_envelope
from verispect.core.statement import InferenceStatement


def mint(draft: InferenceStatement, sequence: int, subject: str, issuer: Issuer) -> bytes:
    """Sign `draft` as number `sequence`; runs on the store's writer thread."""
    now = max(time.time_ns() // 1_000_000, draft.completed_at)
    envelope = sign_envelope(
        draft.encode_numbered(sequence, now),
        content_type=STATEMENT_TYPE,
        issuer=issuer.name,
        subject=subject,
        signer=issuer.signer,
    )
    return envelope.encode()
