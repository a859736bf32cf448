"""Appraisal of one AMD SEV-SNP report, as `spec/evidence-sev-snp.md` says.

1. `structure`: the report, 1,184 bytes of version 2 to 5, and the certificate of its key.
2. `generation`: by CPUID from version 3 on, else by the certificate's product; both must agree.
3. `chain`: ARK (an anchor by its key) to ASK or ASVK to VCEK or VLEK, RSASSA-PSS with 4096 bits.
4. `signature`: over the report, under the certified key.
5. `validity`: of the three certificates, at the time of judgement.
6. `revocation`: AMD's list, where one is given.
7. `endorsement`: the certificate's TCB is the reported TCB, its chip the report's chip.
8. `tcb`: floors of the policy; AMD publishes no status.
9. `attributes`: debug, migration agent, VMPL.
10. `freshness`: `report_data`, or a nonce that fills it.
11. `measurements`: reference values.
12. `class`: hardware, unless the anchor is somebody's own.

This module refuses to trust a version number, a product or a chip before the signatures above it
hold, and to compare names of certificates.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from verispect.core.encoding import Digest
from verispect.core.errors import Reason, VerificationError
from verispect.evidence.attestation import (
    Anchor,
    AttestationAppraisal,
    AttestationPolicy,
    EvidenceClass,
    Examination,
    Expectation,
    TrustClaim,
    TrustTier,
)
from verispect.evidence.certificates import (
    Certificate,
    check_chain_validity,
    find_anchor,
    load_certificate,
    verify_chain,
)
from verispect.evidence.sev_snp.amd_certificates import ARK, ASK, ASVK
from verispect.evidence.sev_snp.endorsement import (
    Endorsement,
    read_endorsement,
    signed_with_amd_parameters,
)
from verispect.evidence.sev_snp.report import (
    Generation,
    Report,
    SigningKey,
    generation_of_cpuid,
    parse_report,
)
from verispect.evidence.sev_snp.revocation import check_not_revoked

TECHNOLOGY: Final = "amd-sev-snp"

_ARK_DIGESTS: Final = {
    Generation.MILAN: "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9",
    Generation.GENOA: "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831",
    Generation.TURIN: "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08",
}
GENUINE_ANCHORS: Final = tuple(
    Anchor(TECHNOLOGY, Digest(bytes.fromhex(digest)), EvidenceClass.HARDWARE, f"AMD ARK {name}")
    for name, digest in _ARK_DIGESTS.items()
)

_RSA_BITS: Final = 4096
_REPORT_DATA_BYTES: Final = 64
_CHIP_ID_SHOWN: Final = 16


@dataclass(frozen=True, slots=True)
class SevSnpEvidence:
    """One report and the certificates that vouch for its key, all DER."""

    report: bytes
    certificate: bytes
    """VCEK or VLEK."""
    signer: bytes | None = None
    """ASK or ASVK; `None` takes AMD's own of the generation."""
    root: bytes | None = None
    """ARK, as the signer."""
    revocation_list: bytes | None = None
    """AMD's list under the same root."""


def appraise_sev_snp(
    evidence: SevSnpEvidence,
    *,
    anchors: Sequence[Anchor] = GENUINE_ANCHORS,
    expected: Expectation,
    policy: AttestationPolicy,
    at: int,
) -> AttestationAppraisal:
    """Appraise one report; never raises for bad evidence.

    Args:
        evidence: the report and its certificates.
        anchors: roots that are trusted; only those of this technology count.
        expected: `nonce` must fill `report_data` from its start, the rest being zero; registers
            are `measurement`, `host_data`, `id_key_digest`, `author_key_digest`, `family_id`,
            `image_id`, `report_id` and `chip_id`.
        policy: what of genuine evidence is acceptable.
        at: the time of judgement, milliseconds since the epoch.
    """
    examination = Examination(TECHNOLOGY, policy)
    _Appraiser(examination, evidence, anchors, expected, at).run()
    return examination.conclude()


class _Appraiser:
    """The steps in their order, and what earlier ones leave for later ones."""

    def __init__(
        self,
        examination: Examination,
        evidence: SevSnpEvidence,
        anchors: Sequence[Anchor],
        expected: Expectation,
        at: int,
    ) -> None:
        self._examination = examination
        self._policy = examination.policy
        self._evidence = evidence
        self._anchors = anchors
        self._expected = expected
        self._at = at
        self._report: Report
        self._generation: Generation
        self._endorsement: Endorsement
        self._path: tuple[Certificate, Certificate, Certificate]

    def run(self) -> None:
        """Take the steps until one fails."""
        steps = (
            ("structure", self._read),
            ("generation", self._find_generation),
            ("chain", self._check_chain),
            ("signature", self._check_signature),
            ("validity", self._check_validity),
            ("revocation", self._check_revocation),
            ("endorsement", self._check_endorsement),
            ("tcb", self._check_floors),
            ("attributes", self._check_attributes),
            ("freshness", self._check_report_data),
            ("measurements", self._check_measurements),
            ("class", self._examination.check_class),
        )
        self._examination.walk(steps)

    # 1
    def _read(self) -> None:
        report = self._report = parse_report(self._evidence.report)
        self._examination.facts.update(
            version=report.version,
            guest_svn=report.guest_svn,
            vmpl=report.vmpl,
            policy=hex(report.policy),
            debug=report.debug,
            migrate_ma=report.migration_agent,
            platform_info=hex(report.platform_info),
            signing_key=report.signing_key.value,
            current_tcb=report.current_tcb.raw.hex(),
            reported_tcb=report.reported_tcb.raw.hex(),
            committed_tcb=report.committed_tcb.raw.hex(),
            launch_tcb=report.launch_tcb.raw.hex(),
            chip_id=report.chip_id[:_CHIP_ID_SHOWN].hex(),
            measurement=report.measurement.hex(),
            report_data=report.report_data.hex(),
            host_data=report.host_data.hex(),
            id_key_digest=report.id_key_digest.hex(),
            author_key_digest=report.author_key_digest.hex(),
            report_id=report.report_id.hex(),
        )
        self._examination.passed("structure", f"report of version {report.version}")

    # 2
    def _find_generation(self) -> None:
        leaf = load_certificate(self._evidence.certificate)
        endorsement = self._endorsement = read_endorsement(leaf)
        self._generation = endorsement.generation
        if self._report.cpuid is not None:
            family, model, _ = self._report.cpuid
            if generation_of_cpuid(family, model) is not self._generation:
                _mismatch("the certificate is of another processor generation than the report")
        ours = ASK if self._report.signing_key is SigningKey.VCEK else ASVK
        signer = self._evidence.signer or ours[self._generation]
        root = self._evidence.root or ARK[self._generation]
        self._path = (load_certificate(root), load_certificate(signer), leaf)
        facts = self._examination.facts
        facts["generation"] = self._generation.value
        facts["product"] = endorsement.product
        facts["cert_valid"] = [_instant(leaf.not_before), _instant(leaf.not_after)]
        self._examination.passed("generation", f"{self._generation} ({endorsement.product})")

    # 3
    def _check_chain(self) -> None:
        root, signer, leaf = self._path
        anchor = find_anchor(root, self._anchors, TECHNOLOGY)
        genuine = {bytes.fromhex(digest): name for name, digest in _ARK_DIGESTS.items()}
        if anchor is None or genuine.get(root.key_digest, self._generation) != self._generation:
            self._examination.fail(
                "chain",
                f"the root is no anchor for {self._generation}",
                Reason.ATTESTATION_ROOT_UNTRUSTED,
            )
        for certificate in self._path:
            if not signed_with_amd_parameters(certificate):
                self._examination.fail(
                    "chain",
                    "expected signatures with RSASSA-PSS, SHA-384 and 48 bytes of salt",
                    Reason.UNSUPPORTED_ALGORITHM,
                )
        for certificate in (root, signer):
            key = certificate.public_key
            if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _RSA_BITS:
                self._examination.fail(
                    "chain", "expected RSA keys of 4096 bits", Reason.UNSUPPORTED_ALGORITHM
                )
        verify_chain((root, signer, leaf), key_usage_required=False)
        self._anchor = anchor
        self._examination.facts["anchor"] = anchor.label
        self._examination.passed("chain", f"{anchor.label} to {self._report.signing_key}")

    # 4
    def _check_signature(self) -> None:
        key = self._path[-1].public_key
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
            key.curve, ec.SECP384R1
        ):
            self._examination.fail(
                "signature", "expected a key on P-384", Reason.UNSUPPORTED_ALGORITHM
            )
        signature = encode_dss_signature(self._report.signature_r, self._report.signature_s)
        try:
            key.verify(signature, self._report.signed, ec.ECDSA(SHA384()))
        except InvalidSignature:
            self._examination.fail(
                "signature",
                "the certified key did not sign the report",
                Reason.ATTESTATION_SIGNATURE_INVALID,
            )
        self._examination.evidence_class = self._anchor.evidence_class
        self._examination.trust_vector[TrustClaim.INSTANCE_IDENTITY] = TrustTier.AFFIRMING
        self._examination.trust_vector[TrustClaim.HARDWARE] = TrustTier.AFFIRMING
        self._examination.passed("signature", "report signed by the certified key")

    # 5
    def _check_validity(self) -> None:
        check_chain_validity(self._path, self._at)
        self._examination.passed("validity", "all certificates are valid at the time of judgement")

    # 6
    def _check_revocation(self) -> None:
        root, signer, _ = self._path
        if self._evidence.revocation_list is not None:
            check_not_revoked(self._evidence.revocation_list, root=root, signer=signer, at=self._at)
            self._examination.passed("revocation", "not on the root's list")
        elif self._policy.require_revocation:
            self._examination.fail(
                "revocation", "no revocation list was given", Reason.EVIDENCE_MISSING
            )
        else:
            self._examination.skipped("revocation", "revocation: no list of AMD's was given")

    # 7
    def _check_endorsement(self) -> None:
        report, endorsement = self._report, self._endorsement
        components = report.reported_tcb.components(self._generation)
        self._examination.facts["tcb"] = components
        if components != dict(endorsement.components):
            # The firmware's word alone is what an old firmware would lie about.
            _mismatch("the reported TCB is not the one the certificate is for")
        if report.signing_key is SigningKey.VCEK:
            identifier = endorsement.hardware_id
            if endorsement.provider is not None or identifier is None:
                _mismatch("the report names a VCEK, the certificate is of another kind")
            if report.chip_id != identifier.ljust(len(report.chip_id), b"\0"):
                _mismatch("the report's chip is not the certificate's")
        else:
            if endorsement.hardware_id is not None or endorsement.provider is None:
                _mismatch("the report names a VLEK, the certificate is of another kind")
            self._examination.facts["provider"] = endorsement.provider
            self._examination.not_checked.append(
                "chip: the key is one of the provider's and names none"
            )
        self._examination.passed("endorsement", "TCB and chip are those of the certificate")

    # 8
    def _check_floors(self) -> None:
        floors = self._policy.minimum_tcb
        if not floors:
            self._examination.skipped(
                "tcb", "tcb: AMD publishes no status and the policy has no floors"
            )
            return
        components = self._report.reported_tcb.components(self._generation)
        below = sorted(name for name, floor in floors.items() if components.get(name, -1) < floor)
        if below:
            self._examination.tcb_status = "OutOfDate"
            self._examination.trust_vector[TrustClaim.HARDWARE] = TrustTier.WARNING
            self._examination.decide(
                "tcb", f"below the policy's floor: {', '.join(below)}", Reason.TCB_OUT_OF_DATE
            )
        else:
            self._examination.tcb_status = "UpToDate"
            self._examination.passed("tcb", "no component is below the policy's floor")

    # 9
    def _check_attributes(self) -> None:
        report, policy = self._report, self._policy
        if report.debug and not policy.allow_debug:
            self._examination.fail(
                "attributes", "the guest's policy allows debugging", Reason.ATTESTATION_DEBUG
            )
        if report.migration_agent:
            self._examination.fail(
                "attributes",
                "the guest's policy allows a migration agent",
                Reason.ATTESTATION_ATTRIBUTES,
            )
        if report.vmpl > policy.maximum_vmpl:
            self._examination.fail(
                "attributes",
                f"asked for at VMPL {report.vmpl}, expected at most {policy.maximum_vmpl}",
                Reason.ATTESTATION_ATTRIBUTES,
            )
        self._examination.trust_vector[TrustClaim.CONFIGURATION] = (
            TrustTier.WARNING if report.debug else TrustTier.AFFIRMING
        )
        detail = "debugging is on, as the policy allows" if report.debug else "debugging is off"
        self._examination.passed("attributes", f"{detail}; VMPL {report.vmpl}")

    # 10
    def _check_report_data(self) -> None:
        found, expected = self._report.report_data, self._expected
        if expected.public_key is not None:
            self._examination.fail(
                "freshness", "a report has no field for a key", Reason.ATTESTATION_BINDING_INVALID
            )
        wanted = [expected.report_data] if expected.report_data is not None else []
        if expected.nonce is not None:
            wanted.append(expected.nonce.ljust(_REPORT_DATA_BYTES, b"\0"))
        for value in wanted:
            if not hmac.compare_digest(found, value):
                self._examination.fail(
                    "freshness",
                    "report_data is not the expected value",
                    Reason.ATTESTATION_NONCE_MISMATCH,
                )
        if wanted:
            self._examination.passed("freshness", "report_data is the expected value")
        else:
            self._examination.skipped("freshness", "freshness: no report_data was expected")
        if self._policy.maximum_age_seconds is not None:
            self._examination.not_checked.append("age: a report does not say when it was made")

    # 11
    def _check_measurements(self) -> None:
        registers = self._report.registers
        for name, accepted in self._expected.measurements.items():
            if name not in registers or registers[name].hex() not in accepted:
                self._examination.fail(
                    "measurements",
                    f"{name} has no matching reference value",
                    Reason.ATTESTATION_MEASUREMENT_MISMATCH,
                )
        if "measurement" in self._expected.measurements:
            self._examination.trust_vector[TrustClaim.EXECUTABLES] = TrustTier.AFFIRMING
            self._examination.passed("measurements", "registers have their reference values")
        else:
            self._examination.skipped(
                "measurements", "measurement: no reference value for the launch digest was given"
            )


def _mismatch(detail: str) -> NoReturn:
    raise VerificationError(detail, reason=Reason.ATTESTATION_BINDING_INVALID)


def _instant(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
