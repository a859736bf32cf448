"""Structures of the TPM 2.0 library specification (part 2), strictly parsed.

`TPMS_ATTEST` as a quote makes it, `TPMT_SIGNATURE` and `TPMT_PUBLIC` of RSA and ECC keys. Every
structure ends where its bytes end; algorithms outside the named ones are refused, SHA-1 among
them.

This module refuses to judge: it checks no signature and trusts no key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from verispect.core.encoding import sha256
from verispect.core.errors import MalformedError, Reason, UnsupportedError

GENERATED_MAGIC: Final = 0xFF544347
"""`TPM_GENERATED_VALUE`: a restricted key signs nothing from outside that begins so."""
ST_ATTEST_QUOTE: Final = 0x8018

MAX_ATTEST_BYTES: Final = 2048
MAX_SIGNATURE_BYTES: Final = 1024
MAX_PUBLIC_BYTES: Final = 2048
MAX_PCR_SELECTIONS: Final = 16
MAX_SELECT_BYTES: Final = 8

ALG_RSA: Final = 0x0001
ALG_AES: Final = 0x0006
ALG_SHA256: Final = 0x000B
ALG_NULL: Final = 0x0010
ALG_RSASSA: Final = 0x0014
ALG_RSAPSS: Final = 0x0016
ALG_ECDSA: Final = 0x0018
ALG_ECC: Final = 0x0023

HASHES: Final[dict[int, tuple[str, HashAlgorithm]]] = {
    ALG_SHA256: ("sha256", SHA256()),
    0x000C: ("sha384", SHA384()),
    0x000D: ("sha512", SHA512()),
}
# Banks may also be of hashes that we never compute, such as SHA-1; their sizes are known.
BANKS: Final = {
    0x0004: ("sha1", 20),
    ALG_SHA256: ("sha256", 32),
    0x000C: ("sha384", 48),
    0x000D: ("sha512", 64),
}
_CURVES: Final[dict[int, ec.EllipticCurve]] = {0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1()}
DEFAULT_EXPONENT: Final = 65537

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class PcrSelection:
    """Registers of one bank."""

    bank: str
    digest_bytes: int
    registers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Quote:
    """A `TPMS_ATTEST` of type quote, believed by nobody."""

    qualified_signer: bytes
    extra_data: bytes
    clock: int
    """Milliseconds of operation since the TPM was last cleared."""
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    selections: tuple[PcrSelection, ...]
    pcr_digest: bytes


@dataclass(frozen=True, slots=True)
class Signature:
    """A `TPMT_SIGNATURE`: the value in the form in which `cryptography` takes it."""

    scheme: int
    hash_name: str
    algorithm: HashAlgorithm
    value: bytes


@dataclass(frozen=True, slots=True)
class PublicArea:
    """A `TPMT_PUBLIC` of an RSA or ECC key."""

    raw: bytes
    name_algorithm: int
    attributes: int
    key: PublicKey
    symmetric_bits: int
    """Of the AES-CFB a storage key protects its children with; 0 for other keys."""

    @property
    def name(self) -> bytes:
        """The key's name: its name algorithm and the digest of its public area.

        Raises:
            UnsupportedError: `unsupported-algorithm` for a name algorithm other than SHA-256.
        """
        if self.name_algorithm != ALG_SHA256:
            raise _unsupported("expected a name of SHA-256")
        return self.name_algorithm.to_bytes(2, "big") + sha256(self.raw)


# TPMA_OBJECT, part 2 section 8.3.
FIXED_TPM: Final = 1 << 1
FIXED_PARENT: Final = 1 << 4
SENSITIVE_DATA_ORIGIN: Final = 1 << 5
RESTRICTED: Final = 1 << 16
DECRYPT: Final = 1 << 17
SIGN: Final = 1 << 18

ATTESTATION_KEY_ATTRIBUTES: Final = (
    FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | SIGN
)
ENDORSEMENT_KEY_ATTRIBUTES: Final = (
    FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | DECRYPT
)


class Reader:
    """Takes big-endian fields off bytes, and refuses what is missing or left over."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._offset = 0
        self._what = what

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        end = self._offset + count
        if end > len(self._data):
            raise self.malformed("ends too early")
        taken = self._data[self._offset : end]
        self._offset = end
        return taken

    def number(self, count: int) -> int:
        """Return the next unsigned number of `count` bytes."""
        return int.from_bytes(self.take(count), "big")

    def sized(self) -> bytes:
        """Return the contents of a `TPM2B`."""
        return self.take(self.number(2))

    def end(self) -> None:
        """Refuse anything that is left."""
        if self._offset != len(self._data):
            raise self.malformed("has bytes behind its end")

    def malformed(self, detail: str) -> MalformedError:
        """Return the error for this structure."""
        return MalformedError(f"{self._what} {detail}", reason=Reason.MALFORMED_EVIDENCE)


def parse_quote(data: bytes) -> Quote:
    """Parse a `TPMS_ATTEST` and refuse any other than a quote's.

    Raises:
        MalformedError: `malformed-evidence`, or `too-large`.
        UnsupportedError: `unsupported-algorithm` for a PCR bank of an unknown hash.
    """
    _check_size(data, MAX_ATTEST_BYTES, "quote")
    reader = Reader(data, "quote")
    if reader.number(4) != GENERATED_MAGIC:
        raise reader.malformed("was not made inside a TPM")
    if reader.number(2) != ST_ATTEST_QUOTE:
        raise reader.malformed("is another kind of attestation")
    qualified_signer, extra_data = reader.sized(), reader.sized()
    clock, reset_count, restart_count = reader.number(8), reader.number(4), reader.number(4)
    safe = reader.number(1)
    if safe > 1:
        raise reader.malformed("has a truth value that is neither yes nor no")
    firmware_version = reader.number(8)
    count = reader.number(4)
    if count > MAX_PCR_SELECTIONS:
        raise reader.malformed("selects too many banks")
    selections = tuple(_selection(reader) for _ in range(count))
    if len({selection.bank for selection in selections}) != count:
        raise reader.malformed("selects a bank twice")
    pcr_digest = reader.sized()
    reader.end()
    return Quote(
        qualified_signer=qualified_signer,
        extra_data=extra_data,
        clock=clock,
        reset_count=reset_count,
        restart_count=restart_count,
        safe=bool(safe),
        firmware_version=firmware_version,
        selections=selections,
        pcr_digest=pcr_digest,
    )


def _selection(reader: Reader) -> PcrSelection:
    algorithm = reader.number(2)
    if algorithm not in BANKS:
        raise _unsupported("PCR bank of an unknown hash")
    size = reader.number(1)
    if size > MAX_SELECT_BYTES:
        raise reader.malformed("selects registers that no TPM has")
    bits = int.from_bytes(reader.take(size), "little")
    bank, digest_bytes = BANKS[algorithm]
    registers = tuple(index for index in range(size * 8) if bits >> index & 1)
    return PcrSelection(bank, digest_bytes, registers)


def parse_signature(data: bytes) -> Signature:
    """Parse a `TPMT_SIGNATURE` of RSASSA, RSAPSS or ECDSA.

    Raises:
        MalformedError: `malformed-evidence`, or `too-large`.
        UnsupportedError: `unsupported-algorithm`.
    """
    _check_size(data, MAX_SIGNATURE_BYTES, "signature")
    reader = Reader(data, "signature")
    scheme, algorithm = reader.number(2), reader.number(2)
    if scheme not in (ALG_RSASSA, ALG_RSAPSS, ALG_ECDSA) or algorithm not in HASHES:
        raise _unsupported("signature scheme or hash")
    if scheme == ALG_ECDSA:
        r, s = (int.from_bytes(reader.sized(), "big") for _ in range(2))
        value = encode_dss_signature(r, s)
    else:
        value = reader.sized()
    reader.end()
    return Signature(scheme, *HASHES[algorithm], value)


def parse_public(data: bytes) -> PublicArea:
    """Parse a `TPMT_PUBLIC`, or a `TPM2B_PUBLIC` that holds one.

    Raises:
        MalformedError: `malformed-evidence`, or `too-large`.
        UnsupportedError: `unsupported-algorithm`.
    """
    _check_size(data, MAX_PUBLIC_BYTES, "public area")
    if int.from_bytes(data[:2], "big") == len(data) - 2:
        data = data[2:]
    reader = Reader(data, "public area")
    kind, name_algorithm = reader.number(2), reader.number(2)
    attributes = reader.number(4)
    reader.sized()  # The authorisation policy; what it demands concerns the owner.
    if kind not in (ALG_RSA, ALG_ECC):
        raise _unsupported("kind of key")
    symmetric_bits = _symmetric(reader)
    if reader.number(2) != ALG_NULL:
        reader.number(2)  # The hash of the signing scheme; every signature names its own.
    key = _rsa_key(reader) if kind == ALG_RSA else _ecc_key(reader)
    reader.end()
    return PublicArea(data, name_algorithm, attributes, key, symmetric_bits)


def _symmetric(reader: Reader) -> int:
    algorithm = reader.number(2)
    if algorithm == ALG_NULL:
        return 0
    if algorithm != ALG_AES:
        raise _unsupported("symmetric algorithm of a storage key")
    bits = reader.number(2)
    reader.number(2)  # The mode; part 1 section 27.2 knows only CFB here.
    return bits


def _rsa_key(reader: Reader) -> rsa.RSAPublicKey:
    bits, exponent = reader.number(2), reader.number(4) or DEFAULT_EXPONENT
    modulus = int.from_bytes(reader.sized(), "big")
    try:
        key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError as error:
        raise reader.malformed("holds no RSA key") from error
    if key.key_size != bits:
        raise reader.malformed("states another size than its key has")
    return key


def _ecc_key(reader: Reader) -> ec.EllipticCurvePublicKey:
    curve = _CURVES.get(reader.number(2))
    if curve is None:
        raise _unsupported("elliptic curve")
    if reader.number(2) != ALG_NULL:
        reader.number(2)  # A key derivation scheme's hash; no such scheme is used here.
    x, y = (int.from_bytes(reader.sized(), "big") for _ in range(2))
    try:
        return ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
    except ValueError as error:
        raise reader.malformed("holds no point of its curve") from error


def _check_size(data: bytes, limit: int, what: str) -> None:
    if len(data) > limit:
        raise MalformedError(f"{what} has more than {limit} bytes", reason=Reason.TOO_LARGE)


def _unsupported(what: str) -> UnsupportedError:
    return UnsupportedError(what, reason=Reason.UNSUPPORTED_ALGORITHM)
