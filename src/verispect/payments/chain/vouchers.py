"""Channels: what the chain says of a voucher, and claims of many channels in one transaction.

A channel holds a deposit, and two totals: what was deposited and what the payee has claimed. A
claim names the total that was charged so far, so that claiming twice changes nothing, and one
claim of the newest total takes all that came before it. What is claimed is the payee's: nobody can
take it back, and anybody can have it sent to the payee, and to nobody else.

What a channel owes cannot be told from one payment: an earlier one may have been charged and then
released, because its assurance did not come. So a `ChannelBook` says it, which counts what is owed
and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from eth_account.messages import encode_typed_data

from verispect.core.errors import Reason, VerificationError
from verispect.ledger.anchor.chain import Chain
from verispect.payments.chain.addresses import BATCH_SETTLEMENT
from verispect.payments.chain.calls import call_data, read_words
from verispect.payments.chain.signer import ChainReceipt, ChainSigner
from verispect.payments.chain.terms import VoucherTerms
from verispect.payments.store import Payment

MAX_CLAIMS: Final = 100
"""Channels in one transaction: about two million gas."""

_CHANNEL: Final = "(address,address,address,address,address,uint40,bytes32)"
_CLAIMS: Final = f"(({_CHANNEL},uint128),bytes,uint128)[]"
_TYPES: Final = {
    "ClaimBatch": [{"name": "claims", "type": "ClaimEntry[]"}],
    "ClaimEntry": [
        {"name": "channelId", "type": "bytes32"},
        {"name": "maxClaimableAmount", "type": "uint128"},
        {"name": "totalClaimed", "type": "uint128"},
    ],
}


_REFUND: Final = {
    "Refund": [
        {"name": "channelId", "type": "bytes32"},
        {"name": "nonce", "type": "uint256"},
        {"name": "amount", "type": "uint128"},
    ],
}


class ChannelBook(Protocol):
    """Knows what each channel owes; `payments.channels` keeps one that survives crashes."""

    def claim(self, payment: Payment, charge: int) -> Claim:
        """Return the claim that takes a payment which is owed, and all that was owed before it.

        Asked again it MUST return the same total, or a higher one.

        Raises:
            VerificationError: `payment-invalid` where the channel is not known.
            MalformedError: `malformed-payment`.
        """
        ...


class Authoriser(Protocol):
    """The payee's key for claims, such as `eth_account`'s `LocalAccount`."""

    @property
    def address(self) -> Any:
        """Its address."""
        ...

    def sign_message(self, signable_message: Any) -> Any:
        """Sign typed data."""
        ...


@dataclass(frozen=True, slots=True)
class ChannelTotals:
    """What the chain holds of a channel."""

    deposited: int
    """What was deposited and not given back."""
    claimed: int


@dataclass(frozen=True, slots=True)
class Claim:
    """The newest total of one channel that is owed."""

    terms: VoucherTerms
    total: int


def channel_totals(chain: Chain, channel_id: bytes, *, block: int | None = None) -> ChannelTotals:
    """Read a channel.

    Raises:
        NetworkError: `network-failed`, `chain-failed`.
    """
    answer = chain.call(BATCH_SETTLEMENT, call_data("channels(bytes32)", channel_id), block=block)
    deposited, claimed = read_words(["uint128", "uint128"], answer)
    return ChannelTotals(deposited, claimed)


def newest_claims(claims: Iterable[Claim]) -> list[Claim]:
    """Return one claim for each channel: of its highest total."""
    newest: dict[bytes, Claim] = {}
    for claim in claims:
        known = newest.get(claim.terms.channel_id)
        if known is None or claim.total > known.total:
            newest[claim.terms.channel_id] = claim
    return list(newest.values())


def send_claims(
    signer: ChainSigner, claims: Sequence[Claim], authoriser: Authoriser | None
) -> ChainReceipt:
    """Claim many channels of one payee in one transaction, and wait for its block.

    Args:
        signer: who sends it.
        claims: at most `MAX_CLAIMS`.
        authoriser: whose signature it carries; none where the signer itself may claim.

    Raises:
        VerificationError: `chain-reverted` where a claim is refused: then none is taken.
        NetworkError: `network-failed`, `chain-failed`, `chain-unconfirmed`.
    """
    if not 0 < len(claims) <= MAX_CLAIMS:
        raise ValueError(f"expected 1 to {MAX_CLAIMS} claims")
    rows = [
        ((claim.terms.channel, claim.terms.most), claim.terms.signature, claim.total)
        for claim in claims
    ]
    sender = signer.address.lower()
    if all(
        sender in {claim.terms.receiver.lower(), claim.terms.authoriser.lower()} for claim in claims
    ):
        data = call_data(f"claim({_CLAIMS})", rows)
    elif authoriser is None:
        raise VerificationError(
            "no key for the payee's claims is here", reason=Reason.CHAIN_REVERTED
        )
    else:
        signature = _sign(authoriser, claims, signer.get_chain_id())
        data = call_data(f"claimWithSignature({_CLAIMS},bytes)", rows, signature)
    return send_and_wait(signer, BATCH_SETTLEMENT, data)


def pay_out(signer: ChainSigner, receiver: str, token: str) -> ChainReceipt:
    """Have what was claimed sent to the payee.

    Raises:
        VerificationError: `chain-reverted`.
        NetworkError: `network-failed`, `chain-failed`, `chain-unconfirmed`.
    """
    data = call_data("settle(address,address)", receiver, token)
    return send_and_wait(signer, BATCH_SETTLEMENT, data)


def send_and_wait(signer: ChainSigner, to: str, data: bytes) -> ChainReceipt:
    """Send a call and wait for its block.

    Raises:
        VerificationError: `chain-reverted` where the contract refused it.
        NetworkError: `network-failed`, `chain-failed`, `chain-unconfirmed`.
    """
    receipt = signer.wait_for_transaction_receipt(signer.send_transaction(to, data))
    if receipt.status != 1:
        raise VerificationError("the contract refused the call", reason=Reason.CHAIN_REVERTED)
    return receipt


def _sign(authoriser: Authoriser, claims: Sequence[Claim], chain_id: int) -> bytes:
    entries = [
        {
            "channelId": claim.terms.channel_id,
            "maxClaimableAmount": claim.terms.most,
            "totalClaimed": claim.total,
        }
        for claim in claims
    ]
    return _sign_typed(authoriser, chain_id, _TYPES, {"claims": entries})


def _sign_typed(
    authoriser: Authoriser, chain_id: int, types: dict[str, Any], message: dict[str, Any]
) -> bytes:
    domain = {
        "name": "x402 Batch Settlement",
        "version": "1",
        "chainId": chain_id,
        "verifyingContract": BATCH_SETTLEMENT,
    }
    signable = encode_typed_data(domain_data=domain, message_types=types, message_data=message)
    return bytes(authoriser.sign_message(signable).signature)


def sign_refund(
    authoriser: Authoriser, chain_id: int, channel_id: bytes, *, nonce: int, amount: int
) -> bytes:
    """Return the payee's leave to give a payer back what was deposited."""
    return _sign_typed(
        authoriser,
        chain_id,
        _REFUND,
        {"channelId": channel_id, "nonce": nonce, "amount": amount},
    )


def claim_payload(
    claims: Sequence[Claim], authoriser: Authoriser | None, chain_id: int
) -> dict[str, Any]:
    """Return claims as a facilitator is asked for them."""
    names = ("payer", "payerAuthorizer", "receiver", "receiverAuthorizer", "token")
    rows = []
    for claim in claims:
        *addresses, delay, salt = claim.terms.channel
        channel: dict[str, Any] = dict(zip(names, addresses, strict=True))
        channel |= {"withdrawDelay": delay, "salt": "0x" + salt.hex()}
        rows.append(
            {
                "voucher": {"channel": channel, "maxClaimableAmount": str(claim.terms.most)},
                "signature": "0x" + claim.terms.signature.hex(),
                "totalClaimed": str(claim.total),
            }
        )
    payload: dict[str, Any] = {"type": "claim", "claims": rows}
    if authoriser is not None:
        signature = _sign(authoriser, claims, chain_id)
        payload["claimAuthorizerSignature"] = "0x" + signature.hex()
    return payload
