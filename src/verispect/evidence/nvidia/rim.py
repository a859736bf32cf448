"""NVIDIA's reference manifests (RIM): signed XML with the measurements that are good.

One manifest is for the driver, one for the VBIOS; NVSwitches have only the latter. Form: a
`SoftwareIdentity` (ISO 19770-2) with the version in its `Meta` and one `Resource` per measurement;
an enveloped XML signature, ECDSA P-384 with SHA-384, at its end, with the path to NVIDIA's root.

1. The text is XML in UTF-8 within the limits below, without a document type, entities,
   processing instructions or comments.
2. It holds exactly one signature, a child of the root element, over the whole document
   (`URI=""`), by the algorithms named here and no other transform.
3. The path in its `KeyInfo` ends at an anchor for `nvidia-rim` and is valid at the given time.
4. The signature is good under the first certificate.
5. Values are read from the very bytes that the signature covers, never from the document.

XML signatures need `lxml` and `signxml`, the extra `gpu-rim`. Where they are missing nothing is
verified and `ManifestSupportMissing` is raised; the caller must never take that for a yes. This
module refuses network access, files and the wall clock, which signxml would use for certificates.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, Final

from verispect.core.errors import MalformedError, Reason, UnsupportedError, VerificationError
from verispect.evidence.attestation import Anchor
from verispect.evidence.certificates import Certificate
from verispect.evidence.nvidia.anchors import MANIFEST
from verispect.evidence.nvidia.paths import load_path, verify_path

MAX_MANIFEST_BYTES: Final = 512 * 1024
"""Upper limit of a manifest; genuine ones have 20 kB."""

MAX_XML_DEPTH: Final = 12
MAX_XML_ELEMENTS: Final = 4096
MAX_INDEX: Final = 253
"""RIM index n is SPDM index n + 1, and that is one byte below 255."""

MAX_ALTERNATIVES: Final = 64

INSTALL_HINT: Final = "reference manifests: install verispect[gpu-rim]"

_SWID: Final = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_DSIG: Final = "{http://www.w3.org/2000/09/xmldsig#}"
_SHA384_HASH: Final = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
_ENVELOPED: Final = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_CANONICAL: Final = frozenset(
    {
        "http://www.w3.org/2006/12/xml-c14n11",
        "http://www.w3.org/TR/2001/REC-xml-c14n-20010315",
        "http://www.w3.org/2001/10/xml-exc-c14n#",
    }
)
_ECDSA_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#sha384"

_FORBIDDEN: Final = re.compile(rb"<!DOCTYPE|<!ENTITY|<!\[CDATA\[|<!--", re.IGNORECASE)
_DECLARATION: Final = re.compile(rb"\A<\?xml [^?<>]{0,100}\?>\s*")
_NUMBER: Final = re.compile(r"\A(?:0|[1-9][0-9]{0,3})\Z")
_HEXADECIMAL: Final = re.compile(r"\A(?:[0-9A-Fa-f]{2}){1,64}\Z")


class ManifestSupportMissing(Exception):  # noqa: N818 - not an error of the evidence
    """`lxml` or `signxml` is not installed: nothing was verified."""


@dataclass(frozen=True, slots=True)
class ReferenceManifest:
    """A manifest whose signature was verified."""

    product: str
    edition: str
    version: str
    """Of the driver or VBIOS, `550.90.07` or `96.00.9F.00.01`."""
    measurements: Mapping[int, frozenset[bytes]]
    """By SPDM index, only those that the manifest calls active; never empty sets."""
    path: tuple[Certificate, ...]
    """Signing certificate first."""
    anchor: Anchor


def verify_manifest(data: bytes, anchors: Sequence[Anchor], at: int) -> ReferenceManifest:
    """Verify one manifest; see the module for the steps.

    Raises:
        MalformedError: `malformed-evidence`, `too-large` or `too-deep`.
        VerificationError: `attestation-signature-invalid`, `attestation-root-untrusted`,
            `attestation-expired` or `attestation-not-yet-valid`.
        UnsupportedError: `unsupported-algorithm`.
        ManifestSupportMissing: without the extra.
    """
    etree, signxml = _xml_libraries()
    root = _parse(data, etree)  # 1
    _check_signature_form(root)  # 2
    path = load_path(_certificates(root))  # 3
    anchor = verify_path(path, anchors, MANIFEST, at)
    signed = _verify_signature(root, path[0], at, signxml)  # 4
    return _read(_parse(signed, etree), path, anchor)  # 5


def _xml_libraries() -> tuple[ModuleType, ModuleType]:
    try:
        return importlib.import_module("lxml.etree"), importlib.import_module("signxml")
    except ImportError as error:
        raise ManifestSupportMissing(INSTALL_HINT) from error


# -- 1. XML ---------------------------------------------------------------------------------------


def _parse(data: bytes, etree: ModuleType) -> Any:
    if len(data) > MAX_MANIFEST_BYTES:
        raise MalformedError(
            f"a manifest has at most {MAX_MANIFEST_BYTES} bytes", reason=Reason.TOO_LARGE
        )
    if b"\0" in data or _FORBIDDEN.search(data):
        raise _malformed("manifest with a document type, comment, CDATA or NUL")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed("manifest is not UTF-8") from error
    declaration = _DECLARATION.match(data)
    if (
        declaration
        and b"encoding" in declaration.group()
        and b"UTF-8" not in (declaration.group().upper())
    ):
        raise _malformed("manifest is not declared as UTF-8")
    if b"<?" in data[declaration.end() if declaration else 0 :]:
        raise _malformed("manifest with a processing instruction")
    _check_depth(data)
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        recover=False,
    )
    try:
        root = etree.fromstring(data, parser=parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise _malformed("manifest is not XML") from error
    if sum(1 for _ in root.iter()) > MAX_XML_ELEMENTS:
        raise MalformedError("manifest has too many elements", reason=Reason.TOO_LARGE)
    return root


_TAG: Final = re.compile(rb"<(/?)[^<>]*?(/?)>")


def _check_depth(data: bytes) -> None:
    # Before the parser builds anything. `>` inside an attribute's value can only make the count
    # stop early for that tag, and then the parser's own limits hold.
    depth = 0
    for closing, empty in _TAG.findall(data):
        if closing:
            depth -= 1
        elif not empty:
            depth += 1
        if depth > MAX_XML_DEPTH:
            raise MalformedError(f"nesting exceeds {MAX_XML_DEPTH}", reason=Reason.TOO_DEEP)


# -- 2. What the signature covers -----------------------------------------------------------------


def _check_signature_form(root: Any) -> None:
    if root.tag != f"{_SWID}SoftwareIdentity":
        raise _malformed("manifest is not a SoftwareIdentity")
    signatures = list(root.iter(f"{_DSIG}Signature"))
    if len(signatures) != 1 or signatures[0].getparent() is not root:
        raise _unsigned("a manifest has exactly one signature, at its top level")
    signature = signatures[0]
    information = _one(signature, "SignedInfo")
    reference = _one(information, "Reference")
    if reference.get("URI") != "":
        raise _unsigned("the signature covers something other than the manifest")
    transforms = [transform.get("Algorithm") for transform in _one(reference, "Transforms")]
    if not (
        transforms[:1] == [_ENVELOPED]
        and len(transforms) == 2
        and transforms[1] in _CANONICAL
        and all(len(transform) == 0 for transform in _one(reference, "Transforms"))
    ):
        raise _unsigned("the signature transforms the manifest in another way")
    method = _one(information, "SignatureMethod").get("Algorithm")
    digest = _one(reference, "DigestMethod").get("Algorithm")
    canonical = _one(information, "CanonicalizationMethod").get("Algorithm")
    if method != _ECDSA_SHA384 or digest != _SHA384 or canonical not in _CANONICAL:
        raise UnsupportedError(
            "algorithm of the manifest's signature", reason=Reason.UNSUPPORTED_ALGORITHM
        )


def _one(parent: Any, name: str) -> Any:
    found = parent.findall(f"{_DSIG}{name}")
    if len(found) != 1:
        raise _unsigned(f"a signature has exactly one {name}")
    return found[0]


# -- 3. and 4. Who signed -------------------------------------------------------------------------


def _certificates(root: Any) -> list[bytes]:
    data = _one(_one(_one(root, "Signature"), "KeyInfo"), "X509Data")
    certificates: list[bytes] = []
    for element in data:
        if element.tag != f"{_DSIG}X509Certificate" or len(element):
            raise _malformed("key information of the manifest")
        try:
            text = "".join((element.text or "").split()).encode("ascii")
            certificates.append(base64.b64decode(text, validate=True))
        except (UnicodeEncodeError, binascii.Error, ValueError) as error:
            raise _malformed("certificate of the manifest") from error
    return certificates


def _verify_signature(root: Any, signer: Certificate, at: int, signxml: ModuleType) -> bytes:
    """Return the bytes that the signature covers."""
    expected = signxml.SignatureConfiguration(
        location="./",
        expect_references=1,
        signature_methods=frozenset({signxml.SignatureMethod.ECDSA_SHA384}),
        digest_algorithms=frozenset({signxml.DigestAlgorithm.SHA384}),
        # The path was verified above; without this the wall clock would decide once more.
        verification_time=datetime.fromtimestamp(at / 1000, UTC),
    )
    try:
        result = signxml.XMLVerifier().verify(root, x509_cert=signer.parsed, expect_config=expected)
    except Exception as error:
        raise _unsigned("the manifest's signature does not match") from error
    signed: bytes = result.signed_data
    return signed


# -- 5. Values ------------------------------------------------------------------------------------


def _read(root: Any, path: tuple[Certificate, ...], anchor: Anchor) -> ReferenceManifest:
    metas, payloads = root.findall(f"{_SWID}Meta"), root.findall(f"{_SWID}Payload")
    if len(metas) != 1 or len(payloads) != 1:
        raise _malformed("a manifest has one Meta and one Payload")
    version = metas[0].get("colloquialVersion")
    if not version or len(version) > 64 or not version.isprintable():
        raise _malformed("version of the manifest")
    measurements: dict[int, frozenset[bytes]] = {}
    seen: set[int] = set()
    for resource in payloads[0]:
        if resource.tag != f"{_SWID}Resource" or resource.get("type") != "Measurement":
            raise _malformed("payload of the manifest")
        index = _number(resource.get("index"), MAX_INDEX)
        if index in seen:
            raise _malformed(f"index {index} comes twice")
        seen.add(index)
        values = _alternatives(resource)
        if _is_active(resource):
            measurements[index + 1] = values
    if not seen:
        raise _malformed("a manifest without measurements")
    return ReferenceManifest(
        product=_short(metas[0].get("product")),
        edition=_short(metas[0].get("edition")),
        version=version,
        measurements=measurements,
        path=path,
        anchor=anchor,
    )


def _is_active(resource: Any) -> bool:
    active = resource.get("active")
    if active not in {"True", "False", "true", "false"}:
        raise _malformed("activity of a measurement")
    return bool(active.lower() == "true")


def _alternatives(resource: Any) -> frozenset[bytes]:
    count = _number(resource.get("alternatives"), MAX_ALTERNATIVES)
    size = _number(resource.get("size"), 64)
    values: set[bytes] = set()
    for place in range(count):
        text = resource.get(f"{_SHA384_HASH}{place}")
        if text is None or not _HEXADECIMAL.match(text) or len(text) != 2 * size:
            raise _malformed("value of a measurement")
        values.add(bytes.fromhex(text))
    if not values or resource.get(f"{_SHA384_HASH}{count}") is not None:
        raise _malformed("number of a measurement's values")
    return frozenset(values)


def _number(text: str | None, most: int) -> int:
    if text is None or not _NUMBER.match(text) or int(text) > most:
        raise _malformed("number in the manifest")
    return int(text)


def _short(text: str | None) -> str:
    return "".join(c if c.isprintable() else "?" for c in (text or "")[:64])


def _unsigned(detail: str) -> VerificationError:
    return VerificationError(detail, reason=Reason.ATTESTATION_SIGNATURE_INVALID)


def _malformed(detail: str) -> MalformedError:
    return MalformedError(detail, reason=Reason.MALFORMED_EVIDENCE)
