"""What AMD's certificates say about the platform whose key they certify.

VCEK and VLEK certificates carry extensions under 1.3.6.1.4.1.3704.1: the product, the security
version of every component at which the key was derived, and the chip or the cloud provider. The
values are AMD's word; the report repeats them as the firmware's word, and both must agree.

This module parses; it checks no signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.evidence.certificates import Certificate
from verispect.evidence.sev_snp.report import Generation

_ARC: Final = "1.3.6.1.4.1.3704.1."
_PRODUCT: Final = "2"
_HARDWARE_ID: Final = "4"
_PROVIDER: Final = "5"
_COMPONENTS: Final = {
    "3.1": "bootloader",
    "3.2": "tee",
    "3.3": "snp",
    "3.8": "microcode",
    "3.9": "fmc",
}
HARDWARE_ID_BYTES: Final = {Generation.MILAN: 64, Generation.GENOA: 64, Generation.TURIN: 8}
_PRODUCTS: Final = {
    "Milan": Generation.MILAN,
    "Genoa": Generation.GENOA,
    # Bergamo and Siena are Genoa's siblings under the same root.
    "Bergamo": Generation.GENOA,
    "Siena": Generation.GENOA,
    "Turin": Generation.TURIN,
}
_INTEGER: Final = 0x02
_IA5_STRING: Final = 0x16
_SHORT_LENGTH: Final = 0x80

# AlgorithmIdentifier of RSASSA-PSS with SHA-384, MGF1 with SHA-384 and a salt of 48 bytes. The
# trailer field that follows may be left out or be 1, its only value.
_PSS_OID: Final = bytes.fromhex("06092a864886f70d01010a")
_PSS_SHA384_SALT_48: Final = bytes.fromhex(
    "a00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d06096086480165030402020500"
    "a203020130"
)


@dataclass(frozen=True, slots=True)
class Endorsement:
    """The extensions of one VCEK or VLEK certificate."""

    product: str
    generation: Generation
    components: Mapping[str, int]
    hardware_id: bytes | None
    """The chip's identifier; only a VCEK has one."""
    provider: str | None
    """The cloud provider's identifier; only a VLEK has one."""


def read_endorsement(certificate: Certificate) -> Endorsement:
    """Read the extensions of a VCEK or VLEK certificate.

    Raises:
        MalformedError: `malformed-evidence` where one is missing or not of its type.
        UnsupportedError: `unsupported-evidence` for a product this software does not know.
    """
    values = {
        extension.oid.dotted_string[len(_ARC) :]: extension.value.value
        for extension in certificate.parsed.extensions
        if isinstance(extension.value, x509.UnrecognizedExtension)
        and extension.oid.dotted_string.startswith(_ARC)
    }
    if _PRODUCT not in values:
        raise _malformed("product")
    product = _read_text(values[_PRODUCT], "product")
    generation = _PRODUCTS.get(product.split("-")[0])
    if generation is None:
        raise UnsupportedError(
            "certificate of an unknown processor generation", reason=Reason.UNSUPPORTED_EVIDENCE
        )
    components = {
        name: _read_number(values[oid], name) for oid, name in _COMPONENTS.items() if oid in values
    }
    if generation is not Generation.TURIN:
        components.pop("fmc", None)
    if len(components) != len(_COMPONENTS) - (generation is not Generation.TURIN):
        raise _malformed("TCB components")
    hardware_id = values.get(_HARDWARE_ID)
    if hardware_id is not None and len(hardware_id) != HARDWARE_ID_BYTES[generation]:
        raise _malformed("hardware identifier")
    provider = _read_text(values[_PROVIDER], "provider") if _PROVIDER in values else None
    return Endorsement(product, generation, components, hardware_id, provider)


def signed_with_amd_parameters(certificate: Certificate) -> bool:
    """Tell whether the certificate's signature is RSASSA-PSS with SHA-384 and 48 bytes of salt."""
    # The outer algorithm follows the signed part behind a header of four bytes; that it equals
    # the inner one was checked when the certificate was parsed.
    offset = 4 + len(certificate.parsed.tbs_certificate_bytes)
    algorithm = certificate.der[offset : offset + 2 + len(_PSS_OID) + 2 + len(_PSS_SHA384_SALT_48)]
    return algorithm[2:].startswith(_PSS_OID) and algorithm.endswith(_PSS_SHA384_SALT_48)


def _read_text(der: bytes, what: str) -> str:
    if len(der) < 2 or der[0] != _IA5_STRING or der[1] >= _SHORT_LENGTH or der[1] != len(der) - 2:
        raise _malformed(what)
    try:
        text = der[2:].decode("ascii")
    except UnicodeDecodeError as error:
        raise _malformed(what) from error
    if not text.isprintable():
        # It is shown before any signature is checked, and a control character moves a cursor.
        raise _malformed(what)
    return text


def _read_number(der: bytes, what: str) -> int:
    """Return a DER integer of 0 to 255."""
    plain = len(der) == 3 and der[:2] == bytes([_INTEGER, 1]) and der[2] < 0x80
    padded = len(der) == 4 and der[:3] == bytes([_INTEGER, 2, 0]) and der[3] >= 0x80
    if not (plain or padded):
        raise _malformed(what)
    return der[-1]


def _malformed(what: str) -> MalformedError:
    return MalformedError(
        f"extension of an AMD certificate: {what}", reason=Reason.MALFORMED_EVIDENCE
    )
