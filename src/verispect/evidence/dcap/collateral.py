"""Intel's endorsements for one platform: TCB info, quoting enclave identity, revocation lists.

The layout is that of `dcap-qvl`: one JSON object with the two signed documents as text, their
signatures and both revocation lists in hexadecimal, and three issuer chains in PEM. The text of
the documents is what is signed, so it is kept byte for byte. A `pck_certificate_chain` member is
never read: the library would prefer it to the chain inside the quote, and then what we checked
and what it checked could be two chains.

`load_collateral` reads; `verify_signatures` checks what does not depend on time. Both remember
their good answers by the exact bytes, in bounded caches. Neither knows an anchor: who calls them
compares the roots (`Collateral.roots`) first.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from verispect.core.errors import MalformedError, Reason, VerificationError
from verispect.evidence.certificates import (
    Certificate,
    check_ca,
    load_certificate,
    verify_chain,
    verify_issued_by,
)
from verispect.evidence.dcap.signatures import verify_p256

MAX_COLLATERAL_BYTES: Final = 1024 * 1024
"""Upper limit of the JSON; genuine collateral has 15 to 25 kB, most of it the revocation list."""

MAX_CHAIN_BYTES: Final = 16 * 1024
"""Upper limit of one chain in PEM; Intel's have 2 and 4 kB."""

MAX_CHAIN_CERTIFICATES: Final = 4
"""Upper limit of one chain; Intel's have two and three."""

COLLATERAL_CACHE_SIZE: Final = 16

CHAIN_MEMBERS: Final = (
    "tcb_info_issuer_chain",
    "qe_identity_issuer_chain",
    "pck_crl_issuer_chain",
)

_PLATFORM_EXTENSION: Final = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
"""Stands in the certificate of every platform and in no other of Intel's."""

# One class of characters between two fixed texts: matching takes linear time.
_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*"
)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


@dataclass(frozen=True, slots=True)
class SignedDocument:
    """TCB info or a quoting enclave's identity: JSON that Intel signed."""

    name: str
    text: str
    signature: bytes
    members: Mapping[str, Any]
    identifier: str
    """`SGX` or `TDX`, `QE` or `TD_QE`."""
    version: int
    evaluation_data_number: int
    issued_at: int
    """Milliseconds since the epoch, as the next one."""
    next_update: int

    def has_expired(self, at: int) -> bool:
        """Tell whether the document is too old at `at`; it is good until its last moment."""
        return at > self.next_update


@dataclass(frozen=True, slots=True)
class RevocationList:
    """An X.509 revocation list."""

    name: str
    der: bytes
    parsed: x509.CertificateRevocationList
    issued_at: int
    """Milliseconds since the epoch, as the next one."""
    next_update: int
    revoked: frozenset[int]
    """Serial numbers."""

    def has_expired(self, at: int) -> bool:
        """Tell whether a newer list must exist at `at`; at the moment of its update it does."""
        return at >= self.next_update


@dataclass(frozen=True, slots=True)
class Collateral:
    """All endorsements of one platform, taken apart. Chains start with their root."""

    data: bytes
    tcb_info: SignedDocument
    qe_identity: SignedDocument
    tcb_chain: tuple[Certificate, ...]
    qe_chain: tuple[Certificate, ...]
    crl_chain: tuple[Certificate, ...]
    root_crl: RevocationList
    pck_crl: RevocationList
    texts: Mapping[str, str]
    """The issuer chains as they came, by member name."""

    @property
    def roots(self) -> tuple[Certificate, ...]:
        """The root of every chain."""
        return self.tcb_chain[0], self.qe_chain[0], self.crl_chain[0]

    @property
    def dated(self) -> Sequence[SignedDocument | RevocationList]:
        """Everything that carries its own dates of issue and next update."""
        return self.tcb_info, self.qe_identity, self.root_crl, self.pck_crl

    @property
    def window(self) -> tuple[int, int]:
        """The time in which all of `dated` is current, in milliseconds."""
        return max(d.issued_at for d in self.dated), min(d.next_update for d in self.dated)


def load_collateral(data: bytes) -> Collateral:
    """Take collateral apart; nothing in it may be believed yet.

    Raises:
        MalformedError: `too-large` or `malformed-evidence`.
        UnsupportedError: `unsupported-algorithm` for a certificate of an unknown kind.
    """
    if len(data) > MAX_COLLATERAL_BYTES:
        raise MalformedError(
            f"expected at most {MAX_COLLATERAL_BYTES} bytes of collateral, got {len(data)}",
            reason=Reason.TOO_LARGE,
        )
    return _load(bytes(data))


@lru_cache(maxsize=COLLATERAL_CACHE_SIZE)
def _load(data: bytes) -> Collateral:
    members = _json_object(data, "collateral")
    texts = {name: _text(members, name) for name in CHAIN_MEMBERS}
    tcb_chain, qe_chain, crl_chain = (parse_chain(text.encode()) for text in texts.values())
    return Collateral(
        data=data,
        tcb_info=_document(members, "tcb_info"),
        qe_identity=_document(members, "qe_identity"),
        tcb_chain=tcb_chain,
        qe_chain=qe_chain,
        crl_chain=crl_chain,
        root_crl=_revocation_list("root_ca_crl", _hexadecimal(members, "root_ca_crl")),
        pck_crl=_revocation_list("pck_crl", _hexadecimal(members, "pck_crl")),
        texts=texts,
    )


@lru_cache(maxsize=64)
def parse_chain(text: bytes) -> tuple[Certificate, ...]:
    """Read a PEM chain that ends with its root, and nothing but certificates.

    Returns:
        The certificates, root first.

    Raises:
        MalformedError: `malformed-evidence`, or `too-large` for a certificate.
        UnsupportedError: `unsupported-algorithm`.
    """
    if len(text) > MAX_CHAIN_BYTES:
        raise _malformed(f"expected at most {MAX_CHAIN_BYTES} bytes of chain, got {len(text)}")
    found: list[Certificate] = []
    offset = len(text) - len(text.lstrip())
    while offset < len(text):
        match = _CERTIFICATE.match(text, offset)
        if match is None or len(found) == MAX_CHAIN_CERTIFICATES:
            raise _malformed(f"a chain is not at most {MAX_CHAIN_CERTIFICATES} PEM certificates")
        try:
            der = base64.b64decode(b"".join(match[1].split()), validate=True)
        except binascii.Error as error:
            raise _malformed("a PEM certificate is not base64") from error
        found.append(load_certificate(der))
        offset = match.end()
    if len(found) < 2:
        raise _malformed("a chain needs its root and a certificate below it")
    return tuple(reversed(found))


def verify_signatures(collateral: Collateral) -> None:
    """Check issuer chains and signatures of both documents and both revocation lists.

    The list of revoked platforms must be signed by the last certificate of its issuer chain; that
    this is the CA of the platform's own certificate is for the caller to check.

    Raises:
        MalformedError, VerificationError, UnsupportedError: as `verify_chain`, and
            `attestation-signature-invalid`; `attestation-root-untrusted` for a document that a
            platform's key signed.
    """
    _verify(collateral.data)


@lru_cache(maxsize=COLLATERAL_CACHE_SIZE)
def _verify(data: bytes) -> None:
    # Only success is remembered: `lru_cache` keeps no exception.
    collateral = _load(data)
    for document, chain in (
        (collateral.tcb_info, collateral.tcb_chain),
        (collateral.qe_identity, collateral.qe_chain),
    ):
        verify_chain(chain)
        _check_publisher(document.name, chain)
        key = chain[-1].public_key
        if not isinstance(key, ec.EllipticCurvePublicKey) or not verify_p256(
            key, document.signature, document.text.encode()
        ):
            raise _unsigned(document.name)
    root, issuer = collateral.crl_chain[0], collateral.crl_chain[-1]
    verify_issued_by(root, root)
    for place, certificate in enumerate(collateral.crl_chain[1:]):
        parent = collateral.crl_chain[place]
        verify_issued_by(certificate, parent)
        check_ca(parent, len(collateral.crl_chain) - 1 - place)
    check_ca(issuer, 0)
    _verify_list(collateral.root_crl, root)
    _verify_list(collateral.pck_crl, issuer)


def _check_publisher(name: str, chain: Sequence[Certificate]) -> None:
    # A platform's own key lies under the same root and may sign data. Whoever got hold of one could
    # otherwise publish that the platform is up to date.
    extensions = chain[-1].parsed.extensions
    if len(chain) != 2 or any(e.oid == _PLATFORM_EXTENSION for e in extensions):
        raise VerificationError(
            f"{name} is signed by a platform or below a CA of platforms",
            reason=Reason.ATTESTATION_ROOT_UNTRUSTED,
        )


def forget_collateral() -> None:
    """Empty the caches: for measurements, and for tests that compare with and without them."""
    for function in (_load, _verify, parse_chain):
        function.cache_clear()


def _verify_list(revocations: RevocationList, issuer: Certificate) -> None:
    key = issuer.public_key
    if issuer.key_usage is None or not issuer.key_usage.crl_sign:
        raise _unsigned(revocations.name)
    try:
        good = (
            isinstance(key, ec.EllipticCurvePublicKey)
            and revocations.parsed.issuer == issuer.parsed.subject
            and revocations.parsed.is_signature_valid(key)
        )
    except (UnsupportedAlgorithm, ValueError, TypeError):
        good = False
    if not good:
        raise _unsigned(revocations.name)


def _unsigned(name: str) -> VerificationError:
    return VerificationError(
        f"{name} is not signed by its issuer", reason=Reason.ATTESTATION_SIGNATURE_INVALID
    )


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_EVIDENCE)


def _json_object(data: bytes, name: str) -> dict[str, Any]:
    try:
        # Decoded here, because `json` would guess at UTF-16 and UTF-32 as well.
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique_members)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"{name} is not JSON") from error
    if not isinstance(value, dict):
        raise _malformed(f"{name} is not a JSON object")
    return value


def _unique_members(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is given twice")
    return members


def _text(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value.isascii():
        raise _malformed(f"expected {name} as text")
    return value


def _hexadecimal(members: Mapping[str, Any], name: str) -> bytes:
    try:
        return binascii.unhexlify(_text(members, name))
    except binascii.Error as error:
        raise _malformed(f"{name} is not hexadecimal") from error


def _document(members: Mapping[str, Any], name: str) -> SignedDocument:
    text = _text(members, name)
    content = _json_object(text.encode(), name)
    identifier, version = content.get("id"), content.get("version")
    number = content.get("tcbEvaluationDataNumber")
    if not isinstance(identifier, str) or type(version) is not int or type(number) is not int:
        raise _malformed(f"{name} lacks its id, version or evaluation data number")
    return SignedDocument(
        name=name,
        text=text,
        signature=_hexadecimal(members, f"{name}_signature"),
        members=content,
        identifier=identifier,
        version=version,
        evaluation_data_number=number,
        issued_at=_date(content, "issueDate"),
        next_update=_date(content, "nextUpdate"),
    )


def _date(content: Mapping[str, Any], name: str) -> int:
    value = content.get(name)
    try:
        if not isinstance(value, str) or not _DATE.fullmatch(value):
            raise ValueError(name)
        moment = datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise _malformed(f"{name} is not a date and time in UTC") from error
    return int(moment.timestamp()) * 1000


def _revocation_list(name: str, der: bytes) -> RevocationList:
    try:
        parsed = x509.load_der_x509_crl(der)
        next_update = parsed.next_update_utc
        if next_update is None:
            raise ValueError("no next update")
        return RevocationList(
            name=name,
            der=der,
            parsed=parsed,
            issued_at=int(parsed.last_update_utc.timestamp()) * 1000,
            next_update=int(next_update.timestamp()) * 1000,
            revoked=frozenset(entry.serial_number for entry in parsed),
        )
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _malformed(f"{name} is not a revocation list") from error
