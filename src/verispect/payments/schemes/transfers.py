"""A payment by one signed transfer: known by payer and nonce, worth what its payer has.

The facilitator says whether the transfer would be made now. Two things it cannot know: that the
same money was promised to us for requests which are not captured yet, and that the answer was
given before, to a copy. Both are told here from what is reserved.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from verispect.core.encoding import Digest
from verispect.core.errors import MalformedError, Reason, RequestError
from verispect.payments.authorisation import Authorisation, AuthorisationKey, Scheme
from verispect.payments.chain.terms import TransferTerms, read_payload, read_transfer
from verispect.payments.facilitator import Facilitating
from verispect.payments.merchant import EIP3009, PERMIT2, Merchant
from verispect.payments.pricing import MAX_AMOUNT
from verispect.payments.refusals import RefusedPaymentError
from verispect.payments.store import PaymentStore
from verispect.payments.till import Demand
from verispect.payments.wire import X402_VERSION, PaymentHeader, to_json

CAPTURE_SECONDS: Final = 30
"""How long a payment must outlast its deadline, so that it can still be taken then."""

PROMISE_SECONDS: Final = 30
"""How long a payment that was read counts as promised before it is reserved."""

_INSUFFICIENT: Final = "invalid_exact_evm_insufficient_balance"


class TransferCheck(Protocol):
    """What a scheme demands of a transfer, beyond who pays whom how much and when."""

    def __call__(self, terms: TransferTerms, payload: dict[str, Any], merchant: Merchant) -> None:
        """Raise `RefusedPaymentError` where it is not so."""
        ...


class SingleTransfers:
    """Reads payments of the schemes `exact` and `upto`.

    Args:
        merchant: who is paid.
        facilitator: who looks at the chain for us.
        payments: what is reserved.
        checks: of each scheme.
        balance: how much of the token an address has; none where no chain can be asked.
        now: seconds since 1970.
    """

    def __init__(
        self,
        merchant: Merchant,
        facilitator: Facilitating,
        payments: PaymentStore,
        checks: Mapping[Scheme, TransferCheck],
        *,
        balance: Callable[[str], int] | None,
        now: Callable[[], int],
    ) -> None:
        self._merchant = merchant
        self._facilitator = facilitator
        self._payments = payments
        self._checks = checks
        self._balance = balance
        self._now = now
        self._lock = threading.Lock()
        self._promised: dict[Digest, tuple[str, int, int]] = {}

    def read(self, header: PaymentHeader, demand: Demand) -> tuple[Authorisation, str]:
        """Read and verify a payment; return it and its payer.

        Raises:
            MalformedError, VerificationError, RequestError, NetworkError: as `Till.read`.
        """
        payer, nonce, amount, valid_before = _transfer(header)
        merchant = self._merchant
        key = AuthorisationKey.of_transfer(merchant.network, merchant.token.address, payer, nonce)
        known = self._payments.get(key.digest())
        if known is not None and _payload(known.authorisation) == header.payload:
            return known.authorisation, key.holder
        method = PERMIT2 if "permit2Authorization" in header.payload else EIP3009
        entry = merchant.meant(header, demand, method)
        value = {
            "x402Version": X402_VERSION,
            "resource": {"url": demand.resource},
            "accepted": entry,
            "payload": header.payload,
        }
        authorisation = Authorisation(key, header.scheme, amount, valid_before, to_json(value))
        terms = read_transfer(authorisation)
        self._check(terms, demand)
        self._checks[header.scheme](terms, header.payload, merchant)
        self._facilitator.verify(value, entry)
        self._promise(authorisation)
        return authorisation, key.holder

    def _check(self, terms: TransferTerms, demand: Demand) -> None:
        if terms.pay_to.lower() != self._merchant.pay_to.lower():
            raise RefusedPaymentError(
                "the payment is to somebody else", "invalid_exact_evm_payload_recipient_mismatch"
            )
        if terms.amount != demand.quote.ceiling:
            raise RefusedPaymentError(
                f"expected a payment of {demand.quote.ceiling}, got {terms.amount}",
                "invalid_exact_evm_payload_authorization_value_mismatch",
            )
        now = self._now()
        if terms.valid_after > now:
            raise RefusedPaymentError(
                "the payment is not valid yet",
                "invalid_exact_evm_payload_authorization_valid_after",
            )
        if terms.valid_before <= now:
            raise RefusedPaymentError(
                "the payment has ended", "invalid_exact_evm_payload_authorization_valid_before"
            )
        if terms.valid_before <= now + demand.lasting_seconds + CAPTURE_SECONDS:
            raise RequestError(
                "the payment does not last until its deadline", reason=Reason.PAYMENT_OVERDUE
            )

    def _promise(self, authorisation: Authorisation) -> None:
        """Refuse a payer that promises more than it has, over all that is not captured yet."""
        if self._balance is None:
            return
        key, now = authorisation.key, self._now()
        balance = self._balance(key.holder)
        with self._lock:
            for payment_id, (_, _, ends) in list(self._promised.items()):
                if ends <= now or self._payments.get(payment_id) is not None:
                    del self._promised[payment_id]
            self._promised.pop(key.digest(), None)
            promised = sum(
                amount for holder, amount, _ in self._promised.values() if holder == key.holder
            )
            reserved = self._payments.outstanding(key.network, key.asset, key.holder)
            if promised + reserved + authorisation.amount > balance:
                raise RefusedPaymentError("the payer has promised more than it has", _INSUFFICIENT)
            self._promised[key.digest()] = (key.holder, authorisation.amount, now + PROMISE_SECONDS)


def _payload(authorisation: Authorisation) -> Any:
    return read_payload(authorisation.wire).get("payload")


def _transfer(header: PaymentHeader) -> tuple[str, str, int, int]:
    """Return payer, nonce, amount and end; the rest is read once the key is known."""
    payload = header.payload
    if payload.keys() == {"authorization", "signature"} and header.scheme is Scheme.EXACT:
        fields = _part(payload, "authorization")
        end = _number(fields, "validBefore")
        return _word(fields, "from"), _word(fields, "nonce"), _number(fields, "value"), end
    if payload.keys() == {"permit2Authorization", "signature"}:
        fields = _part(payload, "permit2Authorization")
        nonce = f"0x{_number(fields, 'nonce'):064x}"
        # Permit2 takes it in the second of its deadline too.
        end = _number(fields, "deadline") + 1
        amount = _number(_part(fields, "permitted"), "amount")
        return _word(fields, "from"), nonce, amount, end
    raise _malformed()


def _part(value: dict[str, Any], name: str) -> dict[str, Any]:
    part = value.get(name)
    if type(part) is not dict:
        raise _malformed()
    return part


def _word(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    if type(text) is not str:
        raise _malformed()
    return text


def _number(value: dict[str, Any], name: str) -> int:
    text = value.get(name)
    if type(text) is not str or not (text.isascii() and text.isdigit() and len(text) <= 78):
        raise _malformed()
    number = int(text)
    # A nonce has 256 bits, and an end may be the largest number there is.
    if name in {"validBefore", "deadline"}:
        return min(number, MAX_AMOUNT - 1)
    if number >> 256:
        raise _malformed()
    return number


def _malformed() -> MalformedError:
    return MalformedError(
        "the payload of the payment is of another form", reason=Reason.MALFORMED_PAYMENT
    )
