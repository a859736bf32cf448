"""An Intel of our own: makes quotes and collateral that are right in everything but their root.

`forge` builds one machine, one quote and its collateral under a root that has Intel's names and
not Intel's key. Every argument spoils or changes one thing, and everything is signed after that,
so that a test reaches exactly the check it is about.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from verispect.core.encoding import sha256
from verispect.evidence.attestation import Anchor, EvidenceClass
from verispect.evidence.dcap import SGX, TDX, DCAPEvidence

NOW = datetime(2026, 3, 1, tzinfo=UTC)
AT = int(NOW.timestamp() * 1000)
DAY = 24 * 3600 * 1000
REPORT_DATA = bytes(range(64))
FMSPC = bytes.fromhex("90c06f000000")
QE_MR_SIGNER = bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5")
SEPT_VE_DISABLE = bytes.fromhex("0000001000000000")
PLATFORM_SVN = 5
ADVISORY = "INTEL-SA-00001"

_EXTENSION = "1.2.840.113741.1.13.1"
_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """Return the key of this name; always the same one in one process."""
    return ec.generate_private_key(ec.SECP256R1())


def anchors(root: str = "root") -> tuple[Anchor, ...]:
    """Return development anchors for a root of ours."""
    spki = key(root).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return tuple(
        Anchor(technology, sha256(spki), EvidenceClass.DEVELOPMENT, "our own Intel")
        for technology in (TDX, SGX)
    )


@dataclass
class Recipe:
    """What to make; the defaults make a quote that is up to date."""

    version: int = 4
    body_type: int = 3
    header: bytes | None = None
    td_attributes: bytes = SEPT_VE_DISABLE
    sgx_attributes: bytes = bytes.fromhex("0500000000000000e700000000000000")
    mr_service_td: bytes = bytes(48)
    module_version: int = 1
    mr_signer_seam: bytes = bytes(48)
    seam_attributes: bytes = bytes(8)
    report_data: bytes = REPORT_DATA
    qe_mr_signer: bytes = QE_MR_SIGNER
    qe_product: int | None = None
    qe_svn: int = 4
    qe_attributes: bytes = bytes.fromhex("1500000000000000e700000000000000")
    qe_misc_select: bytes = bytes(4)
    padding: bytes = b""
    # Who signs what.
    root: str = "root"
    pck_root: str | None = None
    pck_signer: str = "ca"
    pck_may_sign: bool = True
    ca_is_ca: bool = True
    ca_path_length: int = 0
    qe_signed_by: str = "pck"
    reported_key: str = "attestation"
    quote_signed_by: str = "attestation"
    tcb_signed_by: str = "tcb-signing"
    qe_identity_signed_by: str = "tcb-signing"
    root_crl_signed_by: str | None = None
    pck_crl_signed_by: str = "ca"
    crl_authority: str = "ca"
    # Dates, from NOW.
    pck_days: tuple[float, float] = (-100, 100)
    tcb_days: tuple[float, float] = (-5, 20)
    qe_days: tuple[float, float] = (-6, 21)
    root_crl_days: tuple[float, float] = (-100, 200)
    pck_crl_days: tuple[float, float] = (-4, 22)
    # What Intel says.
    status: str = "UpToDate"
    advisories: Sequence[str] = ()
    needed_svn: int = PLATFORM_SVN
    qe_status: str = "UpToDate"
    module_status: str = "UpToDate"
    evaluation: int = 17
    qe_evaluation: int = 18
    tcb_id: str | None = None
    tcb_fmspc: bytes = FMSPC
    tcb_pce_id: bytes = bytes(2)
    qe_id: str | None = None
    revoked: Sequence[str] = ()
    members: dict[str, Any] = field(default_factory=dict)
    """Of the collateral, put in at the very end."""


def forge(**changes: Any) -> DCAPEvidence:
    """Return evidence made as a `Recipe` with these changes says."""
    recipe = Recipe(**changes)
    return DCAPEvidence(_quote(recipe), _collateral(recipe))


def replaced(evidence: DCAPEvidence, offset: int, data: bytes) -> DCAPEvidence:
    """Return the evidence with bytes of its quote written over."""
    quote = evidence.quote
    return DCAPEvidence(quote[:offset] + data + quote[offset + len(data) :], evidence.collateral)


# -- Certificates -------------------------------------------------------------------------------


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Intel Corporation"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
        ]
    )


_NAMES = {
    "root": "Intel SGX Root CA",
    "other-root": "Intel SGX Root CA",
    "ca": "Intel SGX PCK Platform CA",
    "other-ca": "Intel SGX PCK Platform CA",
    "tcb-signing": "Intel SGX TCB Signing",
    "pck": "Intel SGX PCK Certificate",
}
_SERIALS = {name: 1000 + place for place, name in enumerate(_NAMES)}


def _certificate(
    subject: str,
    issuer: str,
    *,
    ca: bool,
    path_length: int | None = None,
    days: tuple[float, float] = (-1000, 1000),
    signed_by: str | None = None,
    may_sign: bool = True,
    extension: bytes | None = None,
) -> x509.Certificate:
    usage = dict.fromkeys(
        ("key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(_NAMES[subject]))
        .issuer_name(_name(_NAMES[issuer]))
        .serial_number(_SERIALS[subject])
        .public_key(key(subject).public_key())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not ca and may_sign,
                content_commitment=not ca,
                key_cert_sign=ca,
                crl_sign=ca,
                decipher_only=False,
                **usage,
            ),
            critical=True,
        )
    )
    if extension is not None:
        oid = x509.ObjectIdentifier(_EXTENSION)
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, extension), critical=False)
    return builder.sign(key(signed_by or issuer), SHA256())


def _pem(*chain: x509.Certificate) -> str:
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in chain)


def _root(name: str) -> x509.Certificate:
    return _certificate(name, name, ca=True, path_length=1)


def _pck_chain(recipe: Recipe) -> bytes:
    root = recipe.pck_root or recipe.root
    ca = _certificate("ca", root, ca=recipe.ca_is_ca, path_length=recipe.ca_path_length)
    pck = _certificate(
        "pck",
        "ca",
        ca=False,
        days=recipe.pck_days,
        signed_by=recipe.pck_signer,
        may_sign=recipe.pck_may_sign,
        extension=_sgx_extension(),
    )
    return _pem(pck, ca, _root(root)).encode()


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2)
    return bytes([tag]) + length + content


def _oid(dotted: str) -> bytes:
    first, second, *rest = (int(part) for part in dotted.split("."))
    content = bytes([first * 40 + second])
    for number in rest:
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(number & 0x7F | 0x80)
        content += bytes(reversed(digits))
    return _der(0x06, content)


def _pair(suffix: str, value: bytes) -> bytes:
    return _der(0x30, _oid(f"{_EXTENSION}.{suffix}") + value)


def _sgx_extension() -> bytes:
    svn = _der(0x02, bytes([PLATFORM_SVN]))
    tcb = b"".join(_pair(f"2.{index}", svn) for index in range(1, 18))
    tcb += _pair("2.18", _der(0x04, bytes([PLATFORM_SVN]) * 16))
    configuration = b"".join(_pair(f"7.{index}", _der(0x01, b"\xff")) for index in (1, 2, 3))
    return _der(
        0x30,
        _pair("1", _der(0x04, bytes(range(16))))
        + _pair("2", _der(0x30, tcb))
        + _pair("3", _der(0x04, bytes(2)))
        + _pair("4", _der(0x04, FMSPC))
        + _pair("5", _der(0x0A, b"\x01"))
        + _pair("6", _der(0x04, bytes(16)))
        + _pair("7", _der(0x30, configuration)),
    )


def _revocations(
    recipe: Recipe, issuer: str, signed_by: str, days: tuple[float, float], subjects: Sequence[str]
) -> str:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(_name(_NAMES[issuer]))
        .last_update(NOW + timedelta(days=days[0]))
        .next_update(NOW + timedelta(days=days[1]))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key(issuer).public_key()),
            critical=False,
        )
    )
    for subject in set(recipe.revoked).intersection(subjects):
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(_SERIALS[subject])
            .revocation_date(NOW - timedelta(days=50))
            .build()
        )
    return builder.sign(key(signed_by), SHA256()).public_bytes(Encoding.DER).hex()


# -- Quote --------------------------------------------------------------------------------------


def _sign(name: str, data: bytes) -> bytes:
    r, s = decode_dss_signature(key(name).sign(data, ec.ECDSA(SHA256())))
    return r.to_bytes(32) + s.to_bytes(32)


def _point(name: str) -> bytes:
    numbers = key(name).public_key().public_numbers()
    return numbers.x.to_bytes(32) + numbers.y.to_bytes(32)


def _enclave(
    attributes: bytes, mr_signer: bytes, product: int, svn: int, report_data: bytes, misc: bytes
) -> bytes:
    return b"".join(
        (
            bytes([PLATFORM_SVN]) * 16,
            misc,
            bytes(28),
            attributes,
            b"\xe1" * 32,
            bytes(32),
            mr_signer,
            bytes(96),
            struct.pack("<HH", product, svn),
            bytes(60),
            report_data.ljust(64, b"\x00"),
        )
    )


def _trust_domain(recipe: Recipe) -> bytes:
    svn = bytes([PLATFORM_SVN, recipe.module_version]) + bytes([PLATFORM_SVN]) * 14
    return b"".join(
        (
            svn,
            b"\xa0" * 48,
            recipe.mr_signer_seam,
            recipe.seam_attributes,
            recipe.td_attributes,
            bytes.fromhex("e702060000000000"),
            b"\xa1" * 48,
            b"\xa2" * 48,
            b"\xa3" * 48,
            b"\xa4" * 48,
            b"".join(bytes([0xB0 + index]) * 48 for index in range(4)),
            recipe.report_data,
        )
    )


def _quote(recipe: Recipe) -> bytes:
    sgx = recipe.version == 3
    header = struct.pack("<HHI4x", recipe.version, 2, 0 if sgx else 0x81) + _VENDOR + bytes(20)
    if sgx:
        mr_signer = b"\xe2" * 32
        body = _enclave(recipe.sgx_attributes, mr_signer, 7, 9, recipe.report_data, bytes(4))
    else:
        body = _trust_domain(recipe)
    if recipe.version == 5:
        if recipe.body_type == 3:
            body += bytes([PLATFORM_SVN, 1]) + bytes([PLATFORM_SVN]) * 14 + recipe.mr_service_td
        body = struct.pack("<HI", recipe.body_type, len(body)) + body
    signed = (recipe.header or header) + body
    authentication = bytes(range(32))
    product = recipe.qe_product if recipe.qe_product is not None else (1 if sgx else 2)
    qe_report = _enclave(
        recipe.qe_attributes,
        recipe.qe_mr_signer,
        product,
        recipe.qe_svn,
        hashlib.sha256(_point(recipe.reported_key) + authentication).digest(),
        recipe.qe_misc_select,
    )
    chain = _pck_chain(recipe)
    certification = qe_report + _sign(recipe.qe_signed_by, qe_report)
    certification += struct.pack("<H", len(authentication)) + authentication
    certification += struct.pack("<HI", 5, len(chain)) + chain
    if not sgx:
        certification = struct.pack("<HI", 6, len(certification)) + certification
    data = _sign(recipe.quote_signed_by, signed) + _point(recipe.quote_signed_by) + certification
    return signed + struct.pack("<I", len(data)) + data + recipe.padding


# -- Collateral ---------------------------------------------------------------------------------


def _date(days: float) -> str:
    return (NOW + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _tcb_info(recipe: Recipe) -> dict[str, Any]:
    sgx = recipe.version == 3
    components = [{"svn": recipe.needed_svn}] * 16
    tcb: dict[str, Any] = {"sgxtcbcomponents": components, "pcesvn": PLATFORM_SVN}
    if not sgx:
        # The second byte of TEE_TCB_SVN is the version of the module, not a level.
        tdx = [{"svn": recipe.needed_svn}] * 16
        tdx[1] = {"svn": 0}
        tcb["tdxtcbcomponents"] = tdx
    level: dict[str, Any] = {"tcb": tcb, "tcbDate": _date(-300), "tcbStatus": recipe.status}
    if recipe.advisories:
        level["advisoryIDs"] = list(recipe.advisories)
    info: dict[str, Any] = {
        "id": recipe.tcb_id or ("SGX" if sgx else "TDX"),
        "version": 3,
        "issueDate": _date(recipe.tcb_days[0]),
        "nextUpdate": _date(recipe.tcb_days[1]),
        "fmspc": recipe.tcb_fmspc.hex().upper(),
        "pceId": recipe.tcb_pce_id.hex(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": recipe.evaluation,
    }
    if not sgx:
        module = {
            "mrsigner": "00" * 48,
            "attributes": "00" * 8,
            "attributesMask": "FF" * 8,
        }
        levels = [
            {
                "tcb": {"isvsvn": PLATFORM_SVN},
                "tcbDate": _date(-300),
                "tcbStatus": recipe.module_status,
            }
        ]
        info["tdxModule"] = module
        info["tdxModuleIdentities"] = [{"id": "TDX_01", **module, "tcbLevels": levels}]
    return {**info, "tcbLevels": [level]}


def _qe_identity(recipe: Recipe) -> dict[str, Any]:
    sgx = recipe.version == 3
    return {
        "id": recipe.qe_id or ("QE" if sgx else "TD_QE"),
        "version": 2,
        "issueDate": _date(recipe.qe_days[0]),
        "nextUpdate": _date(recipe.qe_days[1]),
        "tcbEvaluationDataNumber": recipe.qe_evaluation,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_MR_SIGNER.hex().upper(),
        "isvprodid": 1 if sgx else 2,
        "tcbLevels": [
            {"tcb": {"isvsvn": 4}, "tcbDate": _date(-300), "tcbStatus": recipe.qe_status}
        ],
    }


def _collateral(recipe: Recipe) -> bytes:
    root = _root(recipe.root)
    signing = _pem(_certificate("tcb-signing", recipe.root, ca=False), root)
    authority = _certificate(recipe.crl_authority, recipe.root, ca=True, path_length=0)
    tcb_info = json.dumps(_tcb_info(recipe), separators=(",", ":"))
    qe_identity = json.dumps(_qe_identity(recipe), separators=(",", ":"))
    root_crl = _revocations(
        recipe,
        recipe.root,
        recipe.root_crl_signed_by or recipe.root,
        recipe.root_crl_days,
        ("ca", "tcb-signing"),
    )
    pck_signer = recipe.crl_authority if recipe.pck_crl_signed_by == "ca" else "tcb-signing"
    members = {
        "pck_crl_issuer_chain": _pem(authority, root),
        "root_ca_crl": root_crl,
        "pck_crl": _revocations(
            recipe, recipe.crl_authority, pck_signer, recipe.pck_crl_days, ("pck",)
        ),
        "tcb_info_issuer_chain": signing,
        "tcb_info": tcb_info,
        "tcb_info_signature": _sign(recipe.tcb_signed_by, tcb_info.encode()).hex(),
        "qe_identity_issuer_chain": signing,
        "qe_identity": qe_identity,
        "qe_identity_signature": _sign(recipe.qe_identity_signed_by, qe_identity.encode()).hex(),
    }
    return json.dumps({**members, **recipe.members}).encode()
