"""Appraises Intel TDX and SGX quotes with stored collateral; the steps of `spec/evidence-dcap.md`.

1. `structure`: quote and collateral are the formats, to the last byte.
2. `root`: every chain ends in a certificate with the key of one and the same anchor.
3. `pck-chain`: issuers, order and purpose of the platform's certificates.
4. `quoting-enclave-signature`: the platform's key signed the quoting enclave's report.
5. `attestation-key`: that report holds the digest of attestation key and authentication data.
6. `quote-signature`: the attestation key signed header and body.
7. `collateral-signatures`: TCB info, identity and revocation lists are Intel's.
8. `debug`: neither enclave nor trust domain is open to the host.
9. `time`: every certificate, document and list is current at the time of judgement.
10. `revocation`: no certificate of any chain is on a list.
11. `platform`: the collateral is for this platform and this technology.
12. `identity`: quoting enclave and TDX module are those that Intel names.
13. `tcb`: `dcap-qvl` repeats 3 to 11 and tells the TCB status; attributes are refused here.
14. `tcb-policy`: status, advisories and evaluation number against the policy.
15. `freshness`: report data is exactly what was expected.
16. `measurements`: every register that was named has one of its accepted values.
17. `class`: the policy accepts what stands behind the anchor.

Debug comes before time because no collateral of any day can help a guest that is open. Step 5 is
the one without which anybody can make quotes. Nothing becomes a fact before what signs it has been
verified.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from cryptography.hazmat.primitives.asymmetric import ec

from verispect.core.encoding import Digest, sha256
from verispect.core.errors import Error, Reason, UnsupportedError
from verispect.evidence.attestation import (
    Anchor,
    AttestationAppraisal,
    AttestationPolicy,
    EvidenceClass,
    Examination,
    Expectation,
    unreadable,
)
from verispect.evidence.certificates import Certificate, check_validity, find_anchor, verify_chain
from verispect.evidence.dcap.collateral import (
    Collateral,
    load_collateral,
    parse_chain,
    verify_signatures,
)
from verispect.evidence.dcap.identity import check_quoting_enclave, check_tdx_module
from verispect.evidence.dcap.judgement import (
    EVALUATION_NUMBER,
    check_freshness,
    check_measurements,
    judge_tcb,
)
from verispect.evidence.dcap.library import evaluate_tcb, read_platform
from verispect.evidence.dcap.quote import TEE_SGX, Quote, TdReport, parse_quote
from verispect.evidence.dcap.registers import describe_report, read_registers
from verispect.evidence.dcap.signatures import load_p256, verify_p256

TDX: Final = "intel-tdx"
SGX: Final = "intel-sgx"

_INTEL_ROOT_KEY: Final = Digest(
    bytes.fromhex("a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e")
)

GENUINE_ANCHORS: Final = tuple(
    Anchor(technology, _INTEL_ROOT_KEY, EvidenceClass.HARDWARE, "Intel SGX Root CA")
    for technology in (TDX, SGX)
)

_NEVER_CHECKED: Final = (
    "physical attacks on the memory of the machine",
    "where the machine stands: its PPID is a fact and was compared with no registry",
)


@dataclass(frozen=True, slots=True)
class DCAPEvidence:
    """A quote and the collateral that was kept with it."""

    quote: bytes
    collateral: bytes
    """JSON in the layout of `verispect.evidence.dcap.collateral`."""


def appraise_dcap(
    evidence: DCAPEvidence,
    *,
    anchors: Sequence[Anchor],
    expected: Expectation,
    policy: AttestationPolicy,
    at: int,
    technology: str | None = None,
) -> AttestationAppraisal:
    """Appraise a quote; never raises for bad evidence.

    Args:
        evidence: what was collected.
        anchors: roots that are trusted, for `intel-tdx` and `intel-sgx` each.
        expected: `report_data` and `nonce` are compared with all 64 bytes of the quote's field,
            filled up with zeros where they are shorter.
        policy: what is acceptable of genuine evidence. `allow_debug` cannot be honoured beyond
            step 12: the library tells no TCB status of what is open to the host.
        at: time of judgement, milliseconds since the epoch.
        technology: `intel-tdx` or `intel-sgx` where only one of them will do; a quote of the
            other is refused with `unsupported-evidence`.

    Returns:
        The appraisal, of the technology that was asked for or, without one, that the quote is of.
    """
    try:
        quote = parse_quote(evidence.quote)
        found = SGX if quote.tee == TEE_SGX else TDX
        if technology not in (None, found):
            raise UnsupportedError(
                f"expected a quote of {technology}, found one of {found}",
                reason=Reason.UNSUPPORTED_EVIDENCE,
            )
    except Error as error:
        guess = SGX if evidence.quote[:2] == b"\x03\x00" else TDX
        return unreadable(technology or guess, error)
    examination = Examination(found, policy)
    walk = _Walk(examination, evidence, quote, anchors, expected, at)
    try:
        walk.take()
    except Error as error:
        examination.error(walk.step, error)
    return examination.conclude()


class _Walk:
    """The steps of one appraisal, and what they hand to the next."""

    _anchor: Anchor
    _collateral: Collateral
    _pck_chain: tuple[Certificate, ...]

    def __init__(
        self,
        examination: Examination,
        evidence: DCAPEvidence,
        quote: Quote,
        anchors: Sequence[Anchor],
        expected: Expectation,
        at: int,
    ) -> None:
        self._examination = examination
        self._evidence = evidence
        self._quote = quote
        self._anchors = anchors
        self._expected = expected
        self._at = at
        self.step = "structure"

    def take(self) -> None:
        """Take the steps in the order of the module's text.

        Raises:
            Error: where `self.step` failed.
        """
        for name, step in self._steps():
            self.step = name
            step()

    def _steps(self) -> Sequence[tuple[str, Callable[[], None]]]:
        return (
            ("structure", self._read),
            ("root", self._find_root),
            ("pck-chain", self._check_pck_chain),
            ("quoting-enclave-signature", self._check_quoting_enclave_signature),
            ("attestation-key", self._check_attestation_key),
            ("quote-signature", self._check_quote_signature),
            ("collateral-signatures", self._check_collateral),
            ("debug", self._check_debug),
            ("time", self._check_time),
            ("revocation", self._check_revocation),
            ("platform", self._check_platform),
            ("identity", self._check_identity),
            ("tcb", self._evaluate_tcb),
            ("tcb-policy", self._judge_tcb),
            ("freshness", self._check_freshness),
            ("measurements", self._check_measurements),
            ("class", self._examination.check_class),
        )

    def _read(self) -> None:
        quote, facts = self._quote, self._examination.facts
        facts["version"] = quote.version
        facts["tee"] = "SGX" if quote.tee == TEE_SGX else "TDX"
        self._examination.not_checked.extend(_NEVER_CHECKED)
        self._pck_chain = parse_chain(quote.pck_chain)
        self._collateral = load_collateral(self._evidence.collateral)
        self._passed(f"quote version {quote.version} with collateral")

    def _find_root(self) -> None:
        root = self._pck_chain[0]
        anchor = find_anchor(root, self._anchors, self._examination.technology)
        if anchor is None:
            self._fail("no anchor has the root key", Reason.ATTESTATION_ROOT_UNTRUSTED)
        if any(other.key_digest != root.key_digest for other in self._collateral.roots):
            self._fail(
                "the collateral ends in another root than the quote",
                Reason.ATTESTATION_ROOT_UNTRUSTED,
            )
        self._anchor = anchor
        self._examination.facts["root_key_digest"] = root.key_digest.hex()
        self._passed(f"all chains end in {anchor.label}")

    def _check_pck_chain(self) -> None:
        verify_chain(self._pck_chain)
        platform, facts = read_platform(self._quote.pck_chain), self._examination.facts
        facts["fmspc"] = platform.fmspc.hex().upper()
        facts["pce_id"] = platform.pce_id.hex()
        facts["ppid"] = platform.ppid.hex()
        facts["cpu_svn"] = platform.cpu_svn.hex()
        facts["pce_svn"] = platform.pce_svn
        self._passed(f"{len(self._pck_chain)} certificates, all signed")

    def _check_quoting_enclave_signature(self) -> None:
        quote, key = self._quote, self._pck_chain[-1].public_key
        if not isinstance(key, ec.EllipticCurvePublicKey) or not verify_p256(
            key, quote.qe_report_signature, quote.qe_report_bytes
        ):
            self._fail(
                "the platform's key did not sign the quoting enclave's report",
                Reason.ATTESTATION_SIGNATURE_INVALID,
            )
        self._passed("the platform's key signed the quoting enclave's report")

    def _check_attestation_key(self) -> None:
        quote = self._quote
        digest = sha256(quote.attestation_key + quote.authentication_data)
        if not hmac.compare_digest(digest, quote.qe_report.report_data[: len(digest)]):
            self._fail(
                "the quoting enclave did not report this attestation key",
                Reason.ATTESTATION_BINDING_INVALID,
            )
        self._passed("the quoting enclave reported this attestation key")

    def _check_quote_signature(self) -> None:
        quote = self._quote
        key = load_p256(quote.attestation_key)
        if key is None or not verify_p256(key, quote.signature, quote.signed):
            self._fail(
                "the attestation key did not sign header and body",
                Reason.ATTESTATION_SIGNATURE_INVALID,
            )
        # Not before: until here anchor and report are only what the evidence claims.
        self._examination.evidence_class = self._anchor.evidence_class
        self._examination.facts["report_data"] = quote.report.report_data.hex()
        self._examination.facts.update(describe_report(quote))
        self._passed("the attestation key signed header and body")

    def _check_collateral(self) -> None:
        verify_signatures(self._collateral)
        window = [_iso(moment) for moment in self._collateral.window]
        self._examination.facts["collateral_window"] = window
        self._passed("TCB info, identity and revocation lists are signed")

    def _check_debug(self) -> None:
        debug = self._quote.report.debug
        self._examination.facts["debug"] = debug
        if debug and not self._examination.policy.allow_debug:
            self._fail("the guest is open to its host", Reason.ATTESTATION_DEBUG)
        self._passed("allowed by the policy" if debug else "not in debug mode")

    def _check_time(self) -> None:
        collateral = self._collateral
        for chain in (
            self._pck_chain,
            collateral.tcb_chain,
            collateral.qe_chain,
            collateral.crl_chain,
        ):
            for certificate in chain:
                check_validity(certificate, self._at)
        for document in collateral.dated:
            if document.has_expired(self._at):
                detail = f"{document.name} has expired"
                self._fail(detail, Reason.ATTESTATION_EXPIRED)
            if self._at < document.issued_at:
                detail = f"{document.name} is of a later time"
                self._fail(detail, Reason.ATTESTATION_NOT_YET_VALID)
        self._passed("certificates, documents and lists are current")

    def _check_revocation(self) -> None:
        collateral = self._collateral
        leaf, issuer = self._pck_chain[-1], self._pck_chain[-2]
        if issuer.key_digest != collateral.crl_chain[-1].key_digest:
            self._fail(
                "the list of revoked platforms is another CA's",
                Reason.ATTESTATION_BINDING_INVALID,
            )
        others = (
            *self._pck_chain[:-1],
            *collateral.tcb_chain,
            *collateral.qe_chain,
            *collateral.crl_chain,
        )
        if leaf.serial_number in collateral.pck_crl.revoked or any(
            certificate.serial_number in collateral.root_crl.revoked for certificate in others
        ):
            self._fail("a certificate is revoked", Reason.ATTESTATION_REVOKED)
        self._passed("no certificate is on a revocation list")

    def _check_platform(self) -> None:
        platform = read_platform(self._quote.pck_chain)
        facts, tcb_info = self._examination.facts, self._collateral.tcb_info
        qe_identity = self._collateral.qe_identity
        kinds = ("SGX", "QE") if self._quote.tee == TEE_SGX else ("TDX", "TD_QE")
        same = (
            _member(tcb_info.members, "fmspc") == platform.fmspc.hex()
            and _member(tcb_info.members, "pceId") == platform.pce_id.hex()
            and (tcb_info.identifier, qe_identity.identifier) == kinds
        )
        if not same:
            self._fail(
                "the collateral is for another platform or technology",
                Reason.ATTESTATION_BINDING_INVALID,
            )
        facts["qe_identity"] = qe_identity.identifier
        facts[EVALUATION_NUMBER] = min(
            tcb_info.evaluation_data_number, qe_identity.evaluation_data_number
        )
        self._passed(f"the collateral is for FMSPC {facts['fmspc']}")

    def _check_identity(self) -> None:
        quote, collateral = self._quote, self._collateral
        check_quoting_enclave(quote.qe_report, collateral.qe_identity.members)
        if isinstance(quote.report, TdReport):
            check_tdx_module(quote.report, collateral.tcb_info.members)
        facts = self._examination.facts
        facts["qe_mr_signer"] = quote.qe_report.mr_signer.hex()
        facts["qe_isv_svn"] = quote.qe_report.isv_svn
        self._passed("quoting enclave and module are those Intel names")

    def _evaluate_tcb(self) -> None:
        claims = evaluate_tcb(
            self._evidence.quote[: self._quote.length],
            self._evidence.collateral,
            self._pck_chain[0],
            self._at,
        )
        examination = self._examination
        examination.tcb_status = claims.status
        examination.advisories.extend(claims.advisories)
        examination.facts.update(claims.flags)
        examination.facts["status"] = claims.status
        examination.facts["advisories"] = list(claims.advisories)
        examination.facts["tcb_date"] = claims.date
        examination.facts["qe_status"] = claims.qe_status
        self._passed(f"TCB status {claims.status} as of {claims.date[:10]}")

    def _judge_tcb(self) -> None:
        judge_tcb(self._examination)

    def _check_freshness(self) -> None:
        check_freshness(self._examination, self._expected, self._quote.report.report_data)

    def _check_measurements(self) -> None:
        check_measurements(self._examination, self._expected, read_registers(self._quote))

    def _fail(self, detail: str, reason: Reason) -> NoReturn:
        self._examination.fail(self.step, detail, reason)

    def _passed(self, detail: str) -> None:
        self._examination.passed(self.step, detail)


def _iso(moment: int) -> str:
    return datetime.fromtimestamp(moment // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _member(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    return value.lower() if isinstance(value, str) else ""
