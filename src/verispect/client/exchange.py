"""One request and its answer, and whether the answer may be believed.

What was sent and what was shown is compared with what was committed to, the stream's chunks with
the signed chain, and the receipt with the caller's own trusted root and policy. An answer that
does not verify is an exception, never a warning. This module reaches no network.
"""

from __future__ import annotations

from dataclasses import dataclass

from verispect.appraisal.asked import expect, read_request
from verispect.appraisal.policy import AssurancePolicy, expand, is_sum_of_presets
from verispect.appraisal.result import VerifiedReceipt
from verispect.appraisal.transcript import Answer, read_answer
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Verifier
from verispect.core.claims import Claim, Source
from verispect.core.commitments import Opening, Part, decode_openings
from verispect.core.encoding import Digest, from_hex
from verispect.core.errors import (
    MalformedError,
    Reason,
    UnsupportedError,
    VerificationError,
)
from verispect.core.receipt import InferenceReceipt


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer, as bytes, with receipt and openings: not yet verified."""

    request: bytes
    response: bytes
    receipt: bytes
    openings: bytes
    nonce: bytes
    assurance: str | AssurancePolicy
    """The word with which assurance was asked for, or the policy of one's own."""
    confidential: Digest | None = None
    """Digest of the key to which the request was sent encrypted."""

    @property
    def answer(self) -> Answer:
        """The answer as the caller was shown it."""
        return read_answer(self.response)

    def opened(self) -> dict[Part, Opening]:
        """Return the openings."""
        return decode_openings(self.openings)


def verify_exchange(
    exchange: Exchange, *, trusted_root: TrustedRoot, policy: AssurancePolicy, now: int
) -> VerifiedReceipt:
    """Verify an exchange: the receipt, that it is of *this* request, and of *this* answer.

    Args:
        exchange: what was sent and received.
        trusted_root: what the caller trusts.
        policy: what the caller requires.
        now: the time at which to judge, milliseconds since the epoch.

    Raises:
        VerificationError: the answer is no.
        TrustError: could not tell, because of the trusted root.
        UnsupportedError: could not tell, because of something unknown.
        MalformedError: receipt, openings or answer are not the format.
    """
    receipt = InferenceReceipt.parse(exchange.receipt)
    answer = exchange.answer
    if answer.receipt is not None and not _is_same(answer.receipt, receipt):
        raise VerificationError(
            "the receipt in the answer is not the one the gateway keeps",
            reason=Reason.CONTENT_MISMATCH,
        )
    asked = policy_asked(exchange.assurance)
    if asked is None:
        raise UnsupportedError(
            "the assurance asked for is unknown here", reason=Reason.ASSURANCE_UNKNOWN
        )
    expected = expect(
        read_request(exchange.request),
        answer,
        inference_id=from_hex(receipt.claimed_inference),
        nonce=exchange.nonce,
        assurance=asked.digest(),
    )
    verified = Verifier(trusted_root).verify(
        receipt, opened=exchange.opened(), policy=policy, now=now, expected=expected
    )
    if exchange.confidential is not None:
        _check_confidential(verified, exchange.confidential)
    return verified


def policy_asked(assurance: str | AssurancePolicy) -> AssurancePolicy | None:
    """Return the policy that was asked for; `None` for a word that is unknown here."""
    if isinstance(assurance, AssurancePolicy):
        return assurance
    return expand(assurance) if is_sum_of_presets(assurance) else None


def _check_confidential(verified: VerifiedReceipt, key: Digest) -> None:
    if verified.statement.confidential != key:
        raise VerificationError(
            "the statement does not name the key the request was encrypted to",
            reason=Reason.CONTENT_MISMATCH,
        )
    if Source.HARDWARE not in verified.result.claims[Claim.CONFIDENTIALITY]:
        raise VerificationError(
            "the receipt's evidence does not show that the request was confidential",
            reason=Reason.POLICY_UNMET,
        )


def _is_same(data: bytes, receipt: InferenceReceipt) -> bool:
    """Tell whether `data` is the same signed statement, whatever evidence travels with either."""
    try:
        return InferenceReceipt.parse(data).receipt_id == receipt.receipt_id
    except (MalformedError, UnsupportedError):
        return False
