"""PEM certificates to DER and back, without looking inside.

What a certificate says is `verispect.evidence.certificates`' business; here only the armour is
taken off, strictly: nothing but certificates and blank lines, canonical base64.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from verispect.core.errors import MalformedError, Reason
from verispect.evidence.certificates import MAX_CERTIFICATE_BYTES, MAX_CHAIN_CERTIFICATES

MAX_PEM_BYTES: Final = 2 * MAX_CERTIFICATE_BYTES * MAX_CHAIN_CERTIFICATES

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"
_LINE_CHARACTERS: Final = 64
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/=\r\n]+")


def is_pem(data: bytes) -> bool:
    """Tell whether the bytes begin as a PEM certificate does."""
    return data.lstrip().startswith(_BEGIN)


def certificates_of_pem(data: bytes) -> tuple[bytes, ...]:
    """Return the DER of every certificate, in order.

    Raises:
        MalformedError: `malformed-evidence`, or `too-large`.
    """
    if len(data) > MAX_PEM_BYTES:
        raise MalformedError(f"PEM of more than {MAX_PEM_BYTES} bytes", reason=Reason.TOO_LARGE)
    before, *blocks = data.split(_BEGIN)
    if before.strip() or not 1 <= len(blocks) <= MAX_CHAIN_CERTIFICATES:
        raise _malformed()
    return tuple(_block(block) for block in blocks)


def pem_of_certificate(der: bytes) -> bytes:
    """Return one certificate as PEM."""
    text = base64.b64encode(der)
    lines = [text[at : at + _LINE_CHARACTERS] for at in range(0, len(text), _LINE_CHARACTERS)]
    return b"\n".join((_BEGIN, *lines, _END, b""))


def _block(block: bytes) -> bytes:
    text, end, after = block.partition(_END)
    if not end or after.strip() or not _BASE64.fullmatch(text):
        raise _malformed()
    try:
        return base64.b64decode(text.replace(b"\r", b"").replace(b"\n", b""), validate=True)
    except binascii.Error as error:
        raise _malformed() from error


def _malformed() -> MalformedError:
    return MalformedError("not PEM certificates", reason=Reason.MALFORMED_EVIDENCE)
