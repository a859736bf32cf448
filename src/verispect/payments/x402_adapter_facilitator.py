"""The facilitator's half of the `x402` package, with plain dictionaries on the outside.

It verifies by the package's scheme mechanisms and settles by them, for one network and with one
account. It advertises the kinds that it can serve, and no others.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address
from x402.mechanisms.evm.batch_settlement.authorizer_signer import LocalAuthorizerSigner
from x402.mechanisms.evm.batch_settlement.facilitator.scheme import BatchSettlementEvmFacilitator
from x402.mechanisms.evm.default_assets import find_default_asset
from x402.mechanisms.evm.exact import ExactEvmFacilitatorScheme
from x402.mechanisms.evm.upto.facilitator import UptoEvmScheme
from x402.schemas import PaymentPayload, PaymentRequirements

from verispect.core.errors import Error
from verispect.payments.chain.signer import ChainSigner
from verispect.payments.merchant import Token
from verispect.payments.refusals import RefusedPaymentError

VERSION: Final = 2

_CODE: Final = re.compile(r"[a-z0-9_]{1,96}")


class X402Facilitator:
    """A `Facilitator`. Methods block; threads may share it.

    Args:
        signer: the account that brings payments to the chain.
        authoriser: the key with which claims of channels are signed, where it is the payee's own.
    """

    def __init__(self, signer: ChainSigner, *, authoriser: LocalAccount | None = None) -> None:
        self._network = f"eip155:{signer.get_chain_id()}"
        self._signer = signer
        key = None if authoriser is None else LocalAuthorizerSigner(authoriser)
        self._schemes: dict[str, Any] = {
            "batch-settlement": BatchSettlementEvmFacilitator(signer, key),  # type: ignore[arg-type]
            "upto": UptoEvmScheme(signer),  # type: ignore[arg-type]
            "exact": ExactEvmFacilitatorScheme(signer),  # type: ignore[arg-type]
        }

    def supported(self) -> dict[str, Any]:
        """Return which kinds of payment it takes."""
        kinds = []
        for name, scheme in self._schemes.items():
            kind = {"x402Version": VERSION, "scheme": name, "network": self._network}
            extra = scheme.get_extra(self._network)
            kinds.append({**kind, "extra": extra} if extra else kind)
        return {
            "kinds": kinds,
            "extensions": [],
            "signers": {"eip155:*": self._signer.get_addresses()},
        }

    def verify(self, payload: dict[str, Any], requirements: dict[str, Any]) -> dict[str, Any]:
        """Return x402's answer to a verification."""
        read = self._read(payload, requirements)
        if read is None:
            return {"isValid": False, "invalidReason": "unsupported_scheme"}
        return _written(read[0].verify(*read[1:]))

    def settle(self, payload: dict[str, Any], requirements: dict[str, Any]) -> dict[str, Any]:
        """Return x402's answer to a settlement."""
        read = self._read(payload, requirements)
        if read is None:
            return {
                "success": False,
                "errorReason": "unsupported_scheme",
                "transaction": "",
                "network": self._network,
            }
        return _written(read[0].settle(*read[1:]))

    def _read(
        self, payload: dict[str, Any], requirements: dict[str, Any]
    ) -> tuple[Any, PaymentPayload, PaymentRequirements] | None:
        wanted = PaymentRequirements.model_validate(requirements)
        paid = PaymentPayload.model_validate(payload)
        scheme = self._schemes.get(wanted.scheme)
        if scheme is None or wanted.network != self._network:
            return None
        return scheme, paid, wanted


class OwnFacilitator:
    """Our own facilitator, asked in this process: `Facilitating`, with x402's codes in refusals.

    Args:
        facilitator: does the work.
    """

    def __init__(self, facilitator: X402Facilitator) -> None:
        self._facilitator = facilitator

    def verify(self, payload: dict[str, Any], requirements: dict[str, Any]) -> None:
        """Verify a payment.

        Raises:
            RefusedPaymentError: `payment-invalid`.
            NetworkError: where the chain cannot be asked.
        """
        answer = _asked(self._facilitator.verify, payload, requirements)
        if answer.get("isValid") is not True:
            raise _refused(answer.get("invalidReason"))

    def settle(self, payload: dict[str, Any], requirements: dict[str, Any]) -> str:
        """Settle a payment and return its transaction.

        Raises:
            RefusedPaymentError: `payment-invalid`.
            NetworkError: where it may or may not have been settled.
        """
        answer = _asked(self._facilitator.settle, payload, requirements)
        if answer.get("success") is not True:
            raise _refused(answer.get("errorReason"))
        return str(answer["transaction"])


def known_token(network: str, asset: str) -> Token | None:
    """Return what has to be known of a token, where the package knows it.

    Args:
        network: CAIP-2 name of the chain.
        asset: address of the token.
    """
    found = find_default_asset(asset, network)
    if found is None:
        return None
    return Token(to_checksum_address(asset), found["name"], found["version"])


def _asked(
    ask: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]],
    payload: dict[str, Any],
    requirements: dict[str, Any],
) -> dict[str, Any]:
    try:
        return ask(payload, requirements)
    except Error:
        raise
    except Exception as error:  # the package raises whatever a hostile payload provokes
        raise RefusedPaymentError("the payment could not be verified") from error


def _refused(code: Any) -> RefusedPaymentError:
    if type(code) is not str or not _CODE.fullmatch(code):
        return RefusedPaymentError("the payment was refused")
    return RefusedPaymentError(f"the payment was refused: {code}", code)


def _written(answer: Any) -> dict[str, Any]:
    value: dict[str, Any] = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
    return value
