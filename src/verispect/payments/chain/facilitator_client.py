"""A facilitator that somebody else runs: asked over HTTP, and believed in nothing.

What it answers is held to a size and a form. A claim that it settled becomes a hint where to look;
what became of the money is read from the chain by `ChainSettlement`. Without access to a chain
every such payment stays `pending` until there is one: nobody's word captures a payment.

No redirect is followed, and what a facilitator says appears in no message.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Sequence
from typing import Any, Final

import httpx

from verispect.core.errors import NetworkError, Reason, VerificationError
from verispect.ledger.anchor.account import ChainAccount
from verispect.ledger.anchor.chain import Chain
from verispect.payments.authorisation import Scheme
from verispect.payments.chain.settlement import ChainSettlement
from verispect.payments.chain.signer import ChainSigner
from verispect.payments.chain.terms import read_payload
from verispect.payments.chain.vouchers import (
    MAX_CLAIMS,
    Authoriser,
    ChannelBook,
    claim_payload,
    newest_claims,
)
from verispect.payments.settlement import Finding, Standing
from verispect.payments.store import Payment

MAX_ANSWER_BYTES: Final = 64 * 1024
TIMEOUT_SECONDS: Final = 30.0
"""For the whole exchange; a settlement waits for a block."""

_HASH: Final = re.compile(r"0x[0-9a-fA-F]{64}")


class FacilitatorClient:
    """Asks one facilitator. Methods block; threads may share it.

    Args:
        url: its base address, without a final slash.
        timeout_seconds: for one whole exchange.
        transport: for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._timeout = timeout_seconds
        self._client = httpx.Client(
            timeout=timeout_seconds, follow_redirects=False, transport=transport
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def supported(self) -> dict[str, Any]:
        """Return which kinds of payment it says that it takes.

        Raises:
            NetworkError: `network-failed`.
        """
        return self._ask("GET", "/supported", None)

    def verify(self, payload: dict[str, Any], requirements: dict[str, Any]) -> None:
        """Have a payment looked at; that it is said to be good proves nothing.

        Raises:
            VerificationError: `payment-invalid` where it is refused.
            NetworkError: `network-failed`.
        """
        answer = self._ask("POST", "/verify", _body(payload, requirements))
        if answer.get("isValid") is not True:
            raise VerificationError(
                "the facilitator refuses the payment", reason=Reason.PAYMENT_INVALID
            )

    def settle(self, payload: dict[str, Any], requirements: dict[str, Any]) -> str:
        """Have a payment settled and return the transaction that is said to do it.

        Raises:
            VerificationError: `payment-invalid` where it says that it did not.
            NetworkError: `network-failed`: it may or may not have.
        """
        answer = self._ask("POST", "/settle", _body(payload, requirements))
        transaction = answer.get("transaction")
        if answer.get("success") is not True:
            raise VerificationError(
                "the facilitator says that it did not settle", reason=Reason.PAYMENT_INVALID
            )
        if type(transaction) is not str or not _HASH.fullmatch(transaction):
            raise NetworkError("the facilitator named no transaction", reason=Reason.NETWORK_FAILED)
        return transaction.lower()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        deadline = time.monotonic() + self._timeout
        try:
            with self._client.stream(method, self._url + path, json=body) as response:
                text = b""
                for piece in response.iter_bytes():
                    text += piece
                    if len(text) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                        raise NetworkError(
                            "the facilitator answers too much or too slowly",
                            reason=Reason.NETWORK_FAILED,
                        )
                status = response.status_code
            value = json.loads(text)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
            raise NetworkError(
                "the facilitator did not answer", reason=Reason.NETWORK_FAILED
            ) from error
        # 202 is no answer: nothing was done yet, and nobody can be asked what became of it.
        if status not in {200, 400, 402} or type(value) is not dict:
            raise NetworkError("the facilitator failed", reason=Reason.NETWORK_FAILED)
        return value


class FacilitatorSettlement:
    """A `Settlement` through a facilitator, with the chain as the only witness.

    Args:
        client: of the facilitator.
        chain: who looks at the chain; without it payments stay pending.
        network: CAIP-2 name of the chain on which channels are paid out.
        book: what channels owe; without it vouchers are not taken.
        authoriser: the payee's key for claims of channels.
    """

    def __init__(
        self,
        client: FacilitatorClient,
        chain: ChainSettlement | None,
        *,
        network: str | None = None,
        book: ChannelBook | None = None,
        authoriser: Authoriser | None = None,
    ) -> None:
        self._client = client
        self._network = network
        self._chain = chain
        self._book = book
        self._authoriser = authoriser

    def settle(self, payment: Payment, amount: int) -> None:
        """Ask the facilitator to settle.

        Raises:
            MalformedError: `malformed-payment`.
            VerificationError, NetworkError: as `FacilitatorClient.settle`.
        """
        payload = read_payload(payment.authorisation.wire)
        accepted = payload.get("accepted")
        if type(accepted) is not dict:
            raise VerificationError(
                "the payment does not say what it accepted", reason=Reason.PAYMENT_INVALID
            )
        requirements = {**accepted, "amount": str(amount)}
        if payment.authorisation.scheme is Scheme.BATCH_SETTLEMENT:
            if self._book is None:
                raise VerificationError("no channels are kept here", reason=Reason.PAYMENT_INVALID)
            chain_id = int(payment.authorisation.key.network.partition(":")[2])
            claims = [self._book.claim(payment, amount)]
            payload = {**payload, "payload": claim_payload(claims, self._authoriser, chain_id)}
        transaction = self._client.settle(payload, requirements)
        if self._chain is not None:
            self._chain.hint(payment, transaction)

    def claim(self, owed: Sequence[tuple[Payment, int]]) -> int:
        """Claim many vouchers, of any number of channels, in as few transactions as can be.

        Returns:
            How many payments are said to be claimed; what the chain says of each is for `look`.

        Raises:
            VerificationError, NetworkError: as `FacilitatorClient.settle`.
        """
        vouchers = [
            (payment, charge)
            for payment, charge in owed
            if payment.authorisation.scheme is Scheme.BATCH_SETTLEMENT
        ]
        if self._book is None or not vouchers:
            return 0
        network = vouchers[0][0].authorisation.key.network
        claims = newest_claims(self._book.claim(*voucher) for voucher in vouchers)
        for start in range(0, len(claims), MAX_CLAIMS):
            rows = claims[start : start + MAX_CLAIMS]
            payload = claim_payload(rows, self._authoriser, int(network.partition(":")[2]))
            transaction = self._settle_channels(
                network, rows[0].terms.receiver, rows[0].terms.token, payload
            )
            for payment, _ in vouchers:
                if self._chain is not None:
                    self._chain.hint(payment, transaction)
        return len(vouchers)

    def pay_out(self, receiver: str, token: str) -> str:
        """Have what was claimed sent to the payee; return the transaction's hash.

        Raises:
            VerificationError, NetworkError: as `FacilitatorClient.settle`.
        """
        if self._network is None:
            raise VerificationError("no channels are kept here", reason=Reason.PAYMENT_INVALID)
        payload = {"type": "settle", "receiver": receiver, "token": token}
        return self._settle_channels(self._network, receiver, token, payload)

    def _settle_channels(
        self, network: str, receiver: str, token: str, payload: dict[str, Any]
    ) -> str:
        requirements = {
            "scheme": Scheme.BATCH_SETTLEMENT.value,
            "network": network,
            "asset": token,
            "amount": "0",
            "payTo": receiver,
            "maxTimeoutSeconds": int(TIMEOUT_SECONDS),
        }
        value = {"x402Version": 2, "accepted": requirements, "payload": payload}
        return self._client.settle(value, requirements)

    def look(self, payment: Payment, amount: int) -> Finding:
        """Return what the chain says; `UNKNOWN` without one."""
        if self._chain is None:
            return Finding(Standing.UNKNOWN)
        return self._chain.look(payment, amount)


def observer(
    chain: Chain, *, book: ChannelBook | None = None, confirmations: int = 1
) -> ChainSettlement:
    """Return a settlement that only looks: its account has no money and is forgotten."""
    nobody = ChainAccount(secrets.token_bytes(32))
    return ChainSettlement(ChainSigner(chain, nobody), book=book, confirmations=confirmations)


def _body(payload: dict[str, Any], requirements: dict[str, Any]) -> dict[str, Any]:
    return {"x402Version": 2, "paymentPayload": payload, "paymentRequirements": requirements}
