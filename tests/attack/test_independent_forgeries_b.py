"""Intel evidence forged from the public formats with keys of one's own, and spliced with genuine.

Every forgery is complete but for the one thing that its test names, and is judged under a policy
that takes every class, with the forger's root trusted: only the named thing can refuse it.
"""

from __future__ import annotations

import datetime as dt
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from independent_keys import (
    JUNE_2025,
    SGX_EXTENSION,
    IntelLookAlike,
    genuine_collateral,
    genuine_quote,
    issue,
    raw_signature,
    revocations,
)

from verispect.core.errors import Reason
from verispect.evidence.attestation import (
    Anchor,
    AttestationAppraisal,
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Expectation,
)
from verispect.evidence.dcap import GENUINE_ANCHORS, DCAPEvidence, appraise_dcap

EVERY_CLASS = AttestationPolicy(accepted_classes=frozenset(EvidenceClass))
_DATE = dt.datetime(2025, 6, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def intel() -> IntelLookAlike:
    return IntelLookAlike()


def appraise(
    quote: bytes, collateral: bytes, *anchors: Anchor, technology: str | None = None
) -> AttestationAppraisal:
    return appraise_dcap(
        DCAPEvidence(quote, collateral),
        anchors=anchors,
        expected=Expectation(),
        policy=EVERY_CLASS,
        at=JUNE_2025,
        technology=technology,
    )


def own(intel: IntelLookAlike) -> tuple[Anchor, Anchor]:
    return intel.root.anchor("intel-tdx"), intel.root.anchor("intel-sgx")


def assert_refused(appraisal: AttestationAppraisal, *reasons: Reason) -> None:
    assert appraisal.verdict is AttestationVerdict.REJECT
    assert not appraisal.acceptable
    assert appraisal.reason in reasons


def test_the_forger_is_able(intel: IntelLookAlike) -> None:
    """Without a flaw the look-alike is accepted by whoever trusts its root, as development only."""
    appraisal = appraise(intel.quote(), intel.collateral(), *own(intel))
    assert appraisal.verdict is AttestationVerdict.ACCEPT
    assert appraisal.evidence_class is EvidenceClass.DEVELOPMENT


def test_own_keys_under_intels_names_are_nobodys(intel: IntelLookAlike) -> None:
    """A whole hierarchy with Intel's names is refused as untrusted by the pinned root."""
    appraisal = appraise(intel.quote(), intel.collateral(), *GENUINE_ANCHORS)
    assert_refused(appraisal, Reason.ATTESTATION_ROOT_UNTRUSTED)
    assert appraisal.evidence_class is None


@pytest.mark.parametrize("genuine", ["quote", "collateral"])
def test_genuine_and_own_parts_do_not_mix(intel: IntelLookAlike, genuine: str) -> None:
    """A quote under one trusted root with collateral under another is refused as untrusted."""
    quote = genuine_quote() if genuine == "quote" else intel.quote()
    collateral = intel.collateral()
    if genuine == "collateral":
        collateral = json.dumps(genuine_collateral()).encode()
    appraisal = appraise(quote, collateral, *GENUINE_ANCHORS, *own(intel))
    assert_refused(appraisal, Reason.ATTESTATION_ROOT_UNTRUSTED)


def test_a_platforms_key_publishes_no_collateral(intel: IntelLookAlike) -> None:
    """TCB info signed by a platform's own PCK key is refused: its chain is not a publisher's."""
    collateral = intel.collateral(signer=intel.pck, signer_chain=intel.pck_chain)
    assert_refused(
        appraise(intel.quote(), collateral, *own(intel)), Reason.ATTESTATION_ROOT_UNTRUSTED
    )


def test_a_publisher_below_the_cas_of_platforms_is_none(intel: IntelLookAlike) -> None:
    """TCB info by a look-alike signing certificate that a platform CA issued is refused."""
    below = issue("Intel SGX TCB Signing", intel.platform_ca)
    chain = below.pem + intel.platform_ca.pem + intel.root.pem
    collateral = intel.collateral(signer=below, signer_chain=chain)
    assert_refused(
        appraise(intel.quote(), collateral, *own(intel)), Reason.ATTESTATION_ROOT_UNTRUSTED
    )


def test_a_platform_certificate_straight_below_the_root_publishes_nothing(
    intel: IntelLookAlike,
) -> None:
    """TCB info by a certificate with a platform's extension is refused wherever it stands."""
    signer = issue("x", intel.root, extension=(SGX_EXTENSION, intel.sgx_extension))
    collateral = intel.collateral(signer=signer)
    assert_refused(
        appraise(intel.quote(), collateral, *own(intel)), Reason.ATTESTATION_ROOT_UNTRUSTED
    )


def tcb_text(**changes: Any) -> str:
    return json.dumps(json.loads(genuine_collateral()["tcb_info"]) | changes)


def replaced(name: str, old: str, new: str) -> str:
    text = str(genuine_collateral()[name])
    assert old in text
    return text.replace(old, new, 1)


def statuses(status: str) -> str:
    document = json.loads(genuine_collateral()["tcb_info"])
    for level in document["tcbLevels"]:
        level["tcbStatus"] = status
    return json.dumps(document)


COLLATERAL_FORGERIES: dict[str, tuple[Callable[[IntelLookAlike], dict[str, Any]], Reason]] = {
    "a member twice": (
        lambda _: {"tcb_info": replaced("tcb_info", '"version":3', '"version":3,"version":3')},
        Reason.MALFORMED_EVIDENCE,
    ),
    "a status twice": (
        lambda _: {
            "tcb_info": replaced(
                "tcb_info", '"tcbStatus":"UpToDate"', '"tcbStatus":"Revoked","tcbStatus":"UpToDate"'
            )
        },
        Reason.MALFORMED_EVIDENCE,
    ),
    "white space under the same signature": (
        lambda intel: {
            "tcb_info": replaced("tcb_info", ",", ", "),
            "tcb_info_signature": raw_signature(
                intel.signing.key, genuine_collateral()["tcb_info"].encode()
            ).hex(),
        },
        Reason.ATTESTATION_SIGNATURE_INVALID,
    ),
    "tcb info issued tomorrow": (
        lambda _: {"tcb_info": tcb_text(issueDate="2025-06-28T10:16:03Z")},
        Reason.ATTESTATION_NOT_YET_VALID,
    ),
    "next update before issue": (
        lambda _: {"tcb_info": tcb_text(nextUpdate="2025-06-01T10:16:03Z")},
        Reason.ATTESTATION_EXPIRED,
    ),
    "unknown status": (lambda _: {"tcb_info": statuses("Uptodate")}, Reason.MALFORMED_EVIDENCE),
    "revoked status": (lambda _: {"tcb_info": statuses("Revoked")}, Reason.TCB_REVOKED),
    "no levels": (lambda _: {"tcb_info": tcb_text(tcbLevels=[])}, Reason.TCB_UNKNOWN),
    "another fmspc": (
        lambda _: {"tcb_info": tcb_text(fmspc="90C06F000000")},
        Reason.ATTESTATION_BINDING_INVALID,
    ),
    "fmspc null": (
        lambda _: {"tcb_info": tcb_text(fmspc=None)},
        Reason.ATTESTATION_BINDING_INVALID,
    ),
    "tcb info of sgx": (
        lambda _: {"tcb_info": tcb_text(id="SGX")},
        Reason.ATTESTATION_BINDING_INVALID,
    ),
    "identity of the sgx enclave": (
        lambda _: {"qe_identity": replaced("qe_identity", '"TD_QE"', '"QE"')},
        Reason.ATTESTATION_BINDING_INVALID,
    ),
    "number that is none": (
        lambda _: {
            "tcb_info": replaced(
                "tcb_info", '"tcbEvaluationDataNumber":17', '"tcbEvaluationDataNumber":NaN'
            )
        },
        Reason.MALFORMED_EVIDENCE,
    ),
    "number of 5,000 digits": (
        lambda _: {"tcb_info": replaced("tcb_info", '"svn":2', '"svn":' + "1" * 5000)},
        Reason.MALFORMED_EVIDENCE,
    ),
    "list of another issuer": (
        lambda intel: {"pck_crl": revocations(intel.root).hex()},
        Reason.ATTESTATION_SIGNATURE_INVALID,
    ),
    "empty list": (lambda _: {"pck_crl": ""}, Reason.MALFORMED_EVIDENCE),
    "old list": (
        lambda intel: {"pck_crl": revocations(intel.platform_ca, issued=_DATE,
                                              following=_DATE + dt.timedelta(days=1)).hex()},
        Reason.ATTESTATION_EXPIRED,
    ),
    "platform revoked": (
        lambda intel: {"pck_crl": revocations(
            intel.platform_ca, (intel.pck.certificate.serial_number,)).hex()},
        Reason.ATTESTATION_REVOKED,
    ),
    "platform ca revoked": (
        lambda intel: {"root_ca_crl": revocations(
            intel.root, (intel.platform_ca.certificate.serial_number,)).hex()},
        Reason.ATTESTATION_REVOKED,
    ),
    "publisher revoked": (
        lambda intel: {"root_ca_crl": revocations(
            intel.root, (intel.signing.certificate.serial_number,)).hex()},
        Reason.ATTESTATION_REVOKED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COLLATERAL_FORGERIES)
def test_re_signed_collateral_is_refused(intel: IntelLookAlike, name: str) -> None:
    """Collateral with one lie, signed anew, is refused for the lie's own reason."""
    change, reason = COLLATERAL_FORGERIES[name]
    assert_refused(appraise(intel.quote(), intel.collateral(**change(intel)), *own(intel)), reason)


def header(version: int, tee: int) -> bytes:
    genuine = genuine_quote()
    return struct.pack("<HHI", version, 2, tee) + genuine[8:48]


def td_body(offset: int, value: int) -> bytes:
    body = bytearray(genuine_quote()[48:632])
    body[offset] ^= value
    return bytes(body)


QUOTE_FORGERIES: dict[str, tuple[dict[str, Any], Reason]] = {
    "attestation key not reported": ({"bound_key": bytes(64)}, Reason.ATTESTATION_BINDING_INVALID),
    "sgx in version 4": ({"header": header(4, 0)}, Reason.UNSUPPORTED_VERSION),
    "tdx body in version 3": ({"header": header(3, 0)}, Reason.MALFORMED_EVIDENCE),
    "certification by name": ({"certification_type": 1}, Reason.UNSUPPORTED_ALGORITHM),
    "authentication data too long": ({"authentication": bytes(33)}, Reason.MALFORMED_EVIDENCE),
    "no authentication data": ({"authentication": b""}, Reason.MALFORMED_EVIDENCE),
    "trailing byte": ({"tail": b"\0\0\x01"}, Reason.MALFORMED_EVIDENCE),
    "debug": ({"body": td_body(120, 1)}, Reason.ATTESTATION_DEBUG),
    "profiling": ({"body": td_body(120, 0x10)}, Reason.ATTESTATION_ATTRIBUTES),
    "page faults visible": ({"body": td_body(123, 0x10)}, Reason.ATTESTATION_ATTRIBUTES),
    "quoting enclave in debug": ({"qe_change": (48, b"\x13")}, Reason.ATTESTATION_ATTRIBUTES),
    "quoting enclave of another": (
        {"qe_change": (128, bytes(32))},
        Reason.ATTESTATION_MEASUREMENT_MISMATCH,
    ),
    "quoting enclave too old": ({"qe_change": (258, b"\0\0")}, Reason.TCB_UNKNOWN),
    "sgx body in version 5": (
        {"header": header(5, 0x81), "body": struct.pack("<HI", 1, 384) + bytes(384)},
        Reason.UNSUPPORTED_VERSION,
    ),
    "body longer than its type": (
        {"header": header(5, 0x81), "body": struct.pack("<HI", 2, 648) + bytes(648)},
        Reason.MALFORMED_EVIDENCE,
    ),
}


@pytest.mark.parametrize("name", QUOTE_FORGERIES)
def test_a_well_signed_quote_with_one_lie_is_refused(intel: IntelLookAlike, name: str) -> None:
    """A quote that is signed all the way is refused for the one field that is wrong."""
    change, reason = QUOTE_FORGERIES[name]
    assert_refused(appraise(intel.quote(**change), intel.collateral(), *own(intel)), reason)


def test_a_quote_of_one_technology_is_not_the_others(intel: IntelLookAlike) -> None:
    """A TDX quote offered as an SGX one is refused as unsupported."""
    appraisal = appraise(intel.quote(), intel.collateral(), *own(intel), technology="intel-sgx")
    assert_refused(appraisal, Reason.UNSUPPORTED_EVIDENCE)
    assert appraisal.technology == "intel-sgx"


def test_a_chain_beside_the_quote_replaces_none_inside_it(intel: IntelLookAlike) -> None:
    """A genuine chain in the collateral does not make a quote under own keys genuine."""
    genuine = genuine_quote()
    members = genuine_collateral()
    members["pck_certificate_chain"] = (
        genuine[genuine.index(b"-----BEGIN") :].rstrip(b"\0").decode()
    )
    appraisal = appraise(intel.quote(), json.dumps(members).encode(), *GENUINE_ANCHORS)
    assert_refused(appraisal, Reason.ATTESTATION_ROOT_UNTRUSTED)


@pytest.mark.parametrize("damage", ["nested", "16 MB", "utf-16", "byte order mark"])
def test_collateral_that_is_not_plain_json_is_malformed(intel: IntelLookAlike, damage: str) -> None:
    """Nested, endless or otherwise encoded collateral is malformed, and nothing else."""
    good = intel.collateral()
    bad = {
        "nested": b'{"a":' * 100_000,
        "16 MB": b" " * (1 << 24),
        "utf-16": good.decode().encode("utf-16"),
        "byte order mark": b"\xef\xbb\xbf" + good,
    }[damage]
    assert_refused(appraise(intel.quote(), bad, *own(intel)), Reason.MALFORMED_EVIDENCE)


def test_a_broken_platform_extension_is_malformed(intel: IntelLookAlike) -> None:
    """A trusted platform certificate whose extension is cut anywhere is malformed and no crash."""
    whole = intel.sgx_extension
    for length in range(0, len(whole), 29):
        broken = IntelLookAlike(root=intel.root)
        broken.pck = issue(
            "Intel SGX PCK Certificate",
            broken.platform_ca,
            extension=(SGX_EXTENSION, whole[:length]),
        )
        assert_refused(
            appraise(broken.quote(), broken.collateral(), *own(intel)), Reason.MALFORMED_EVIDENCE
        )
