"""Signatures on the chain's curve, in the one form that we take, and what channels are signed by.

A signature has 65 bytes and its `s` in the lower half of the curve: the other form of the same
signature is another text of one payment. A wallet that is a contract signs otherwise, and is
refused by name. Digests are those of EIP-712, made here because a voucher is checked with every
request; tests hold them to the `x402` package.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from eth_abi.abi import encode
from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature
from eth_utils.crypto import keccak
from eth_utils.exceptions import ValidationError

from verispect.payments.chain.addresses import BATCH_SETTLEMENT
from verispect.payments.refusals import RefusedPaymentError

SIGNATURE_BYTES: Final = 65

ChannelConfig = tuple[str, str, str, str, str, int, bytes]
"""Payer, payer's authoriser, receiver, receiver's authoriser, token, withdrawal delay, salt."""

_HALF: Final = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
_DOMAIN: Final = keccak(
    text="EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
_CONFIG: Final = keccak(
    text="ChannelConfig(address payer,address payerAuthorizer,address receiver,"
    "address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
)
_VOUCHER: Final = keccak(text="Voucher(bytes32 channelId,uint128 maxClaimableAmount)")
_REFUND: Final = keccak(text="Refund(bytes32 channelId,uint256 nonce,uint128 amount)")


def check_form(signature: bytes, code: str) -> None:
    """Refuse a signature that is not the one form of an account's.

    Args:
        signature: as it came.
        code: x402's error code for it.

    Raises:
        RefusedPaymentError: `payment-invalid`.
    """
    if len(signature) != SIGNATURE_BYTES:
        raise RefusedPaymentError("signatures of smart wallets are not taken", code)
    if int.from_bytes(signature[32:64]) > _HALF or signature[64] not in {0, 1, 27, 28}:
        raise RefusedPaymentError("the signature is not in its one form", code)


def signer_of(digest: bytes, signature: bytes) -> str | None:
    """Return the address that signed, in lower case; `None` where nobody can have."""
    v = signature[64] - 27 if signature[64] >= 27 else signature[64]
    try:
        made = Signature(signature[:64] + bytes([v]))
        return made.recover_public_key_from_msg_hash(digest).to_address()
    except (BadSignature, ValidationError, ValueError):
        return None


def channel_id_of(chain_id: int, config: ChannelConfig) -> bytes:
    """Return the id of a channel."""
    kinds = ["bytes32", *["address"] * 5, "uint40", "bytes32"]
    return _digest(chain_id, encode(kinds, [_CONFIG, *config]))


def voucher_digest(chain_id: int, channel_id: bytes, most: int) -> bytes:
    """Return what a payer's authoriser signs for a voucher."""
    return _digest(chain_id, _VOUCHER + channel_id + most.to_bytes(32))


def refund_digest(chain_id: int, channel_id: bytes, nonce: int, amount: int) -> bytes:
    """Return what the payee's authoriser signs for a refund."""
    return _digest(chain_id, _REFUND + channel_id + nonce.to_bytes(32) + amount.to_bytes(32))


def _digest(chain_id: int, content: bytes) -> bytes:
    return keccak(b"\x19\x01" + _separator(chain_id) + keccak(content))


@lru_cache(maxsize=8)
def _separator(chain_id: int) -> bytes:
    kinds = ["bytes32", "bytes32", "bytes32", "uint256", "address"]
    name, version = keccak(text="x402 Batch Settlement"), keccak(text="1")
    return keccak(encode(kinds, [_DOMAIN, name, version, chain_id, BATCH_SETTLEMENT]))
