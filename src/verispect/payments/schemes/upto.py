"""The scheme `upto`: what was metered moves, at most what was signed, by our facilitator alone."""

from __future__ import annotations

from typing import Any

from verispect.payments.chain.addresses import UPTO_PERMIT2_PROXY
from verispect.payments.chain.terms import TransferTerms
from verispect.payments.merchant import Merchant
from verispect.payments.refusals import RefusedPaymentError
from verispect.payments.schemes.exact import check_spender
from verispect.payments.schemes.signatures import check_form


def check_upto(terms: TransferTerms, payload: dict[str, Any], merchant: Merchant) -> None:
    """Refuse a permit that somebody else could bring, for another amount than we metered.

    Args:
        terms: what was signed.
        payload: as it came.
        merchant: who is paid, and its facilitator.

    Raises:
        RefusedPaymentError: `payment-invalid`.
    """
    check_form(terms.signature, "invalid_permit2_signature")
    check_spender(payload, UPTO_PERMIT2_PROXY)
    named, ours = terms.facilitator, merchant.facilitator
    if named is None or ours is None or named.lower() != ours.lower():
        raise RefusedPaymentError(
            "the payment names another facilitator", "upto_facilitator_mismatch"
        )
