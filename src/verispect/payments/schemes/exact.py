"""The scheme `exact`: the signed amount moves whole or not at all, by EIP-3009 or by Permit2."""

from __future__ import annotations

from typing import Any

from verispect.payments.chain.addresses import EXACT_PERMIT2_PROXY
from verispect.payments.chain.terms import Method, TransferTerms
from verispect.payments.merchant import Merchant
from verispect.payments.refusals import RefusedPaymentError
from verispect.payments.schemes.signatures import check_form


def check_exact(
    terms: TransferTerms,
    payload: dict[str, Any],
    merchant: Merchant,  # noqa: ARG001  every scheme is asked in one way
) -> None:
    """Refuse what our settlement would not bring to the chain.

    Args:
        terms: what was signed.
        payload: as it came.
        merchant: who is paid.

    Raises:
        RefusedPaymentError: `payment-invalid`.
    """
    if terms.method is Method.EIP3009:
        check_form(terms.signature, "invalid_exact_evm_payload_signature")
        return
    check_form(terms.signature, "invalid_permit2_signature")
    check_spender(payload, EXACT_PERMIT2_PROXY)


def check_spender(payload: dict[str, Any], proxy: str) -> None:
    """Refuse a permit that is for another contract than the scheme's proxy.

    Args:
        payload: as it came.
        proxy: the contract's address.

    Raises:
        RefusedPaymentError: `payment-invalid`.
    """
    spender = payload["permit2Authorization"].get("spender")
    if type(spender) is not str or spender.lower() != proxy.lower():
        raise RefusedPaymentError("the permit is for another contract", "invalid_permit2_spender")
