"""The settlement addendum: a receipt was paid for by this transaction of this chain.

A receipt is signed before its payment is taken, so that it names the authorisation and no
transaction. Afterwards the same key signs this small addendum to it. Whoever does not believe it
looks on the chain, which it says where to. The module refuses to speak of a payment that was not
captured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.encoding import DIGEST_BYTES, Digest, decode, encode
from verispect.core.envelope import SignedEnvelope, open_envelope, sign_envelope
from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.core.keys import Signer
from verispect.payments.pricing import MAX_AMOUNT
from verispect.payments.store import Payment, State

ADDENDUM_TYPE: Final = "application/verispect-settlement+cbor"
ADDENDUM_VERSION: Final = 1
MAX_ADDENDUM_BYTES: Final = 1024

_FIELDS: Final = 7
_NETWORK: Final = re.compile(r"eip155:[1-9][0-9]{0,31}")
_TOKEN: Final = re.compile(r"0x[0-9a-f]{40}")
_HASH: Final = re.compile(r"0x[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SettlementAddendum:
    """What was paid for a receipt, and where that can be seen."""

    receipt: Digest
    """The receipt's id."""
    authorisation: Digest
    """The payment's id, as the receipt's statement has it."""
    network: str
    """CAIP-2 name of the chain."""
    token: str
    """Its address, in lower case."""
    amount: int
    transaction: str
    """Hash of the transaction that moved the money."""

    def encode(self) -> bytes:
        """Return the payload."""
        return encode(
            [
                ADDENDUM_VERSION,
                self.receipt,
                self.authorisation,
                self.network,
                self.token,
                self.amount,
                self.transaction,
            ]
        )


def addendum_of(payment: Payment, receipt: Digest) -> SettlementAddendum | None:
    """Return the addendum of a payment; `None` where it is not captured by a known transaction."""
    if payment.state is not State.CAPTURED or payment.settled is None or payment.charge is None:
        return None
    key = payment.authorisation.key
    return SettlementAddendum(
        receipt,
        payment.payment_id,
        key.network,
        key.asset,
        payment.charge,
        payment.settled.lower(),
    )


def sign_addendum(addendum: SettlementAddendum, *, issuer: str, signer: Signer) -> bytes:
    """Return the signed addendum; the same one is the same bytes.

    Args:
        addendum: what is signed.
        issuer: the name under which trusted roots list the key.
        signer: of the receipt.
    """
    return sign_envelope(
        addendum.encode(),
        content_type=ADDENDUM_TYPE,
        issuer=issuer,
        subject=addendum.authorisation.hex(),
        signer=signer,
    ).encode()


def open_addendum(data: bytes) -> tuple[SignedEnvelope, SettlementAddendum]:
    """Open a signed addendum. Shape only: whose signature it is the envelope verifies.

    Raises:
        MalformedError: `malformed-payment`, and as envelopes.
        UnsupportedError: `unsupported-version`, and as envelopes.
    """
    if len(data) > MAX_ADDENDUM_BYTES:
        raise MalformedError("the addendum is too large", reason=Reason.TOO_LARGE)
    envelope = open_envelope(data, content_type=ADDENDUM_TYPE)
    row: Any = decode(envelope.payload)
    if type(row) is list and row and type(row[0]) is int and row[0] != ADDENDUM_VERSION:
        raise UnsupportedError(
            f"expected addendum version {ADDENDUM_VERSION}, got {row[0]}",
            reason=Reason.UNSUPPORTED_VERSION,
        )
    if type(row) is not list or len(row) != _FIELDS or row[0] is True:
        raise _malformed()
    _, receipt, authorisation, network, token, amount, transaction = row
    for digest in (receipt, authorisation):
        if type(digest) is not bytes or len(digest) != DIGEST_BYTES:
            raise _malformed()
    for form, text in ((_NETWORK, network), (_TOKEN, token), (_HASH, transaction)):
        if type(text) is not str or not form.fullmatch(text):
            raise _malformed()
    if type(amount) is not int or not 0 < amount <= MAX_AMOUNT:
        raise _malformed()
    addendum = SettlementAddendum(
        Digest(receipt), Digest(authorisation), network, token, amount, transaction
    )
    if envelope.subject != addendum.authorisation.hex() or envelope.evidence:
        raise _malformed()
    return envelope, addendum


def _malformed() -> MalformedError:
    return MalformedError("not a settlement addendum", reason=Reason.MALFORMED_PAYMENT)
