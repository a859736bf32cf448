"""The checks that every signed quote has to pass, whoever vouches for its key.

A quote without a trusted key says nothing; these functions presume that the key was decided about
elsewhere and refuse to decide it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from verispect.core.encoding import sha256
from verispect.core.errors import MalformedError, Reason, UnsupportedError, VerificationError
from verispect.evidence.attestation import Expectation
from verispect.evidence.certificates import MIN_RSA_BITS
from verispect.evidence.tpm.structures import (
    ALG_ECDSA,
    ALG_RSAPSS,
    ALG_RSASSA,
    PublicKey,
    Quote,
    Signature,
    parse_signature,
)

QUALIFYING_DATA_TAG: Final = b"verispect tpm qualifying data v1\0"
_DER_SEQUENCE: Final = 0x30


def qualifying_data(report_data: bytes, nonce: bytes | None) -> bytes:
    """Return the `extraData` that commits to a guest's value and to a verifier's nonce.

    A TPM has one field for both, of which every TPM takes 32 bytes. It is a SHA-256 over a tag,
    the nonce's length in four bytes, the nonce (empty where there is none) and `report_data`.
    """
    given = nonce or b""
    return sha256(QUALIFYING_DATA_TAG + len(given).to_bytes(4, "big") + given + report_data)


def check_qualifying_data(quote: Quote, expected: Expectation) -> bool:
    """Check `extraData` against what was expected; tell whether anything was.

    Raises:
        VerificationError: `attestation-nonce-mismatch`.
    """
    if expected.report_data is not None:
        wanted = qualifying_data(expected.report_data, expected.nonce)
    elif expected.nonce is not None:
        wanted = expected.nonce
    else:
        return False
    if not hmac.compare_digest(quote.extra_data, wanted):
        raise VerificationError(
            "the quote's qualifying data is not the expected value",
            reason=Reason.ATTESTATION_NONCE_MISMATCH,
        )
    return True


def read_signature(data: bytes, key: PublicKey) -> Signature:
    """Read a `TPMT_SIGNATURE`, or the bare value that tools call plain (with SHA-256).

    Raises:
        MalformedError: `malformed-evidence`, or `too-large`.
        UnsupportedError: `unsupported-algorithm`.
    """
    if isinstance(key, rsa.RSAPublicKey) and len(data) == key.key_size // 8:
        return Signature(ALG_RSASSA, "sha256", SHA256(), data)
    if isinstance(key, ec.EllipticCurvePublicKey) and data[:1] == bytes([_DER_SEQUENCE]):
        return Signature(ALG_ECDSA, "sha256", SHA256(), data)
    return parse_signature(data)


def verify_quote_signature(key: PublicKey, quote: bytes, signature: Signature) -> None:
    """Check the signature of a `TPMS_ATTEST`.

    Raises:
        VerificationError: `attestation-signature-invalid`.
        UnsupportedError: `unsupported-algorithm` for an RSA key below 2048 bits.
    """
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and signature.scheme == ALG_ECDSA:
            key.verify(signature.value, quote, ec.ECDSA(signature.algorithm))
            return
        if isinstance(key, rsa.RSAPublicKey) and signature.scheme in (ALG_RSASSA, ALG_RSAPSS):
            if key.key_size < MIN_RSA_BITS:
                raise UnsupportedError(
                    f"expected an RSA key of at least {MIN_RSA_BITS} bits",
                    reason=Reason.UNSUPPORTED_ALGORITHM,
                )
            scheme: padding.PKCS1v15 | padding.PSS = padding.PKCS1v15()
            if signature.scheme == ALG_RSAPSS:
                # Older TPMs take the largest salt, newer ones the digest's length.
                scheme = padding.PSS(padding.MGF1(signature.algorithm), padding.PSS.AUTO)
            key.verify(signature.value, quote, scheme, signature.algorithm)
            return
    except (InvalidSignature, ValueError) as error:
        raise _not_signed() from error
    raise _not_signed()


def read_registers(quote: Quote, values: bytes) -> dict[str, bytes]:
    """Return the selected registers by name, for example `sha256:7`.

    Args:
        quote: names the registers and their order.
        values: their values, one behind the other, in that order.

    Raises:
        MalformedError: `malformed-evidence` where there are more or fewer bytes.
    """
    registers: dict[str, bytes] = {}
    offset = 0
    for selection in quote.selections:
        for index in selection.registers:
            end = offset + selection.digest_bytes
            registers[f"{selection.bank}:{index}"] = values[offset:end]
            offset = end
    if offset != len(values):
        raise MalformedError(
            f"expected {offset} bytes of registers, got {len(values)}",
            reason=Reason.MALFORMED_EVIDENCE,
        )
    return registers


def check_register_digest(quote: Quote, values: bytes, hash_name: str) -> None:
    """Check that the quoted digest is that of the values.

    Raises:
        VerificationError: `attestation-binding-invalid`.
    """
    digest = hashlib.new(hash_name, values).digest()
    if not hmac.compare_digest(quote.pcr_digest, digest):
        raise VerificationError(
            "the registers are not those that were quoted",
            reason=Reason.ATTESTATION_BINDING_INVALID,
        )


def check_registers(
    registers: Mapping[str, bytes], measurements: Mapping[str, frozenset[str]]
) -> None:
    """Check registers against reference values; a register that was not quoted fails.

    Raises:
        VerificationError: `attestation-measurement-mismatch`.
    """
    for name, accepted in measurements.items():
        if name not in registers or registers[name].hex() not in accepted:
            raise VerificationError(
                f"register {name} has no matching reference value",
                reason=Reason.ATTESTATION_MEASUREMENT_MISMATCH,
            )


def quote_facts(quote: Quote) -> dict[str, object]:
    """Return what a quote says, for the facts of an appraisal."""
    return {
        "extra_data": quote.extra_data.hex(),
        "qualified_signer": quote.qualified_signer.hex(),
        "clock_ms": quote.clock,
        "reset_count": quote.reset_count,
        "restart_count": quote.restart_count,
        "clock_safe": quote.safe,
        "firmware_version": f"{quote.firmware_version:016x}",
        "pcr_selection": {s.bank: list(s.registers) for s in quote.selections},
        "pcr_digest": quote.pcr_digest.hex(),
    }


def _not_signed() -> VerificationError:
    return VerificationError(
        "the key did not sign the quote", reason=Reason.ATTESTATION_SIGNATURE_INVALID
    )
