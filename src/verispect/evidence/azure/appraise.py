"""Appraisal of an Azure confidential machine, as `spec/evidence-azure-vtpm.md` says.

1. `structure`: the HCL report, its runtime data, the quote and its signature.
2. `hardware`: the SEV-SNP report or the TDX quote, by that technology's own appraisal.
3. `binding`: the hardware's field is the SHA-256 of the runtime data, the rest zero.
4. `signature`: the runtime data's attestation key signed the quote, RSASSA with SHA-256.
5. `freshness`: the nonce is the quote's `extraData`; the guest's value is the runtime data's.
6. `registers`: the quoted digest is that of the given register values.
7. `measurements`: reference values of registers; the hardware's were compared in step 2.
8. `class`: as the hardware's anchor says.

What the hardware vouches for is the paravisor; the paravisor vouches for the vTPM. The answer says
so. This module refuses an attestation key from anywhere else than the runtime data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from verispect.core.encoding import sha256
from verispect.core.errors import Reason
from verispect.evidence.attestation import (
    Anchor,
    AttestationAppraisal,
    AttestationPolicy,
    AttestationVerdict,
    Examination,
    Expectation,
    TrustClaim,
    TrustTier,
)
from verispect.evidence.azure.evidence import REGISTER_COUNT, AzureEvidence
from verispect.evidence.azure.hcl_report import (
    HardwareKind,
    HclReport,
    RuntimeData,
    parse_hcl_report,
    read_runtime_data,
)
from verispect.evidence.dcap import GENUINE_ANCHORS as INTEL_ANCHORS
from verispect.evidence.dcap import DCAPEvidence, appraise_dcap
from verispect.evidence.sev_snp import GENUINE_ANCHORS as AMD_ANCHORS
from verispect.evidence.sev_snp import SevSnpEvidence, appraise_sev_snp
from verispect.evidence.tpm.quote import (
    check_qualifying_data,
    check_register_digest,
    check_registers,
    quote_facts,
    read_registers,
    read_signature,
    verify_quote_signature,
)
from verispect.evidence.tpm.structures import ALG_RSASSA, Quote, Signature, parse_quote

TECHNOLOGY: Final = "azure-vtpm"

GENUINE_ANCHORS: Final = (*AMD_ANCHORS, *INTEL_ANCHORS)
"""Azure has no root of its own here: the processors' roots decide."""

_BANK: Final = "sha256"
_FIELD_BYTES: Final = 64
_FRESHNESS: Final = "freshness:"


def appraise_azure(
    evidence: AzureEvidence,
    *,
    anchors: Sequence[Anchor] = GENUINE_ANCHORS,
    expected: Expectation,
    policy: AttestationPolicy,
    at: int,
) -> AttestationAppraisal:
    """Appraise one machine's evidence; never raises for bad evidence.

    Args:
        evidence: report, quote and certificates.
        anchors: the processors' roots that are trusted.
        expected: `nonce` is the quote's `extraData`; `report_data` the 64 bytes of `user-data` in
            the runtime data; registers named `sha256:7` are the vTPM's, others the hardware's.
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
        evidence: AzureEvidence,
        anchors: Sequence[Anchor],
        expected: Expectation,
        at: int,
    ) -> None:
        self._examination = examination
        self._evidence = evidence
        self._anchors = anchors
        self._expected = expected
        self._at = at
        self._report: HclReport
        self._runtime: RuntimeData
        self._quote: Quote
        self._signature: Signature
        self._hardware: AttestationAppraisal
        self._registers: dict[str, bytes] = {}

    def run(self) -> None:
        """Take the steps until one fails."""
        steps = (
            ("structure", self._read),
            ("hardware", self._check_hardware),
            ("binding", self._check_binding),
            ("signature", self._check_signature),
            ("freshness", self._check_freshness),
            ("registers", self._check_registers),
            ("measurements", self._check_measurements),
            ("class", self._examination.check_class),
        )
        self._examination.walk(steps)

    # 1
    def _read(self) -> None:
        self._report = parse_hcl_report(self._evidence.hcl_report)
        self._runtime = read_runtime_data(self._report.runtime_data)
        self._quote = parse_quote(self._evidence.quote)
        self._signature = read_signature(self._evidence.signature, self._runtime.attestation_key)
        user_data = self._runtime.user_data
        self._examination.facts.update(
            quote_facts(self._quote),
            hardware_kind=self._report.kind.name,
            runtime_data_digest=sha256(self._report.runtime_data).hex(),
            user_data=None if user_data is None else user_data.hex(),
            configuration=dict(self._runtime.configuration),
        )
        self._examination.passed("structure", f"report over {self._report.kind.name}")

    # 2
    def _check_hardware(self) -> None:
        if self._report.kind is HardwareKind.SEV_SNP:
            appraisal = self._appraise_sev_snp()
        else:
            appraisal = self._appraise_tdx()
        self._hardware = appraisal
        examination = self._examination
        examination.facts["hardware"] = dict(appraisal.facts)
        examination.evidence_class = appraisal.evidence_class
        examination.tcb_status = appraisal.tcb_status
        examination.advisories.extend(appraisal.advisories)
        examination.trust_vector.update(appraisal.trust_vector)
        examination.not_checked.extend(
            line for line in appraisal.not_checked if not line.startswith(_FRESHNESS)
        )
        if appraisal.reason is not None:
            detail = next(c.detail for c in appraisal.checks if c.reason is appraisal.reason)
            if appraisal.verdict is AttestationVerdict.REJECT:
                examination.fail("hardware", detail, appraisal.reason)
            examination.decide("hardware", detail, appraisal.reason)
        else:
            examination.passed("hardware", f"{appraisal.technology} evidence is genuine")

    def _appraise_sev_snp(self) -> AttestationAppraisal:
        if self._evidence.certificate is None:
            self._examination.fail("hardware", "no VCEK was given", Reason.MALFORMED_EVIDENCE)
        return appraise_sev_snp(
            SevSnpEvidence(
                report=self._report.hardware_report,
                certificate=self._evidence.certificate,
                signer=self._evidence.signer,
                root=self._evidence.root,
                revocation_list=self._evidence.revocation_list,
            ),
            anchors=self._anchors,
            expected=self._expected_of_hardware(),
            policy=replace(self._examination.policy, maximum_age_seconds=None),
            at=self._at,
        )

    def _appraise_tdx(self) -> AttestationAppraisal:
        quote, collateral = self._evidence.td_quote, self._evidence.collateral
        if quote is None or collateral is None:
            self._examination.fail(
                "hardware", "no TDX quote with collateral was given", Reason.MALFORMED_EVIDENCE
            )
        return appraise_dcap(
            DCAPEvidence(quote, collateral),
            anchors=self._anchors,
            expected=self._expected_of_hardware(),
            policy=replace(self._examination.policy, maximum_age_seconds=None),
            at=self._at,
        )

    def _expected_of_hardware(self) -> Expectation:
        return Expectation(measurements=self._named(of_vtpm=False))

    def _named(self, *, of_vtpm: bool) -> Mapping[str, frozenset[str]]:
        """Return the reference values of the vTPM's registers, or those of the hardware's."""
        return {
            name: accepted
            for name, accepted in self._expected.measurements.items()
            if (":" in name) is of_vtpm
        }

    # 3
    def _check_binding(self) -> None:
        found = self._hardware.facts.get("report_data")
        if self._report.kind is HardwareKind.TDX and self._report.td_report_data.hex() != found:
            self._examination.fail(
                "binding",
                "the TDX quote is of another TDREPORT",
                Reason.ATTESTATION_BINDING_INVALID,
            )
        if found != sha256(self._report.runtime_data).ljust(_FIELD_BYTES, b"\0").hex():
            self._examination.fail(
                "binding",
                "the hardware's field is not the digest of the runtime data",
                Reason.ATTESTATION_BINDING_INVALID,
            )
        if self._hardware.facts.get("vmpl", 0) != 0:
            # A guest asks for reports of its own, with any field, at the levels below.
            self._examination.fail(
                "binding",
                "the report was not asked for by a paravisor",
                Reason.ATTESTATION_ATTRIBUTES,
            )
        self._examination.not_checked.append(
            "paravisor: the hardware vouches for it and it alone vouches for the vTPM"
        )
        self._examination.passed("binding", "the hardware's field is the runtime data's digest")

    # 4
    def _check_signature(self) -> None:
        if self._signature.scheme != ALG_RSASSA or self._signature.hash_name != _BANK:
            self._examination.fail(
                "signature", "expected RSASSA with SHA-256", Reason.UNSUPPORTED_ALGORITHM
            )
        verify_quote_signature(self._runtime.attestation_key, self._evidence.quote, self._signature)
        self._examination.passed("signature", "quote signed by the runtime data's key")

    # 5
    def _check_freshness(self) -> None:
        expected = self._expected
        if expected.public_key is not None:
            self._examination.fail(
                "freshness", "no field holds a key", Reason.ATTESTATION_BINDING_INVALID
            )
        if expected.report_data is not None and expected.report_data != self._runtime.user_data:
            self._examination.fail(
                "freshness",
                "the runtime data's user-data is not the expected value",
                Reason.ATTESTATION_NONCE_MISMATCH,
            )
        if check_qualifying_data(self._quote, Expectation(nonce=expected.nonce)):
            self._examination.passed("freshness", "the nonce is the quote's qualifying data")
        elif expected.report_data is not None:
            self._examination.passed("freshness", "user-data is the expected value")
        else:
            self._examination.skipped("freshness", "freshness: no nonce was expected")
        if self._examination.policy.maximum_age_seconds is not None:
            self._examination.not_checked.append("age: nothing says when the quote was made")

    # 6
    def _check_registers(self) -> None:
        if not self._evidence.pcrs:
            self._examination.skipped("registers", "registers: no values were given")
            return
        values, selections = self._evidence.pcrs, self._quote.selections
        if (
            len(values) > REGISTER_COUNT
            or [selection.bank for selection in selections] != [_BANK]
            or any(index >= len(values) for index in selections[0].registers)
        ):
            self._examination.fail(
                "registers", "the quote is of other registers", Reason.MALFORMED_EVIDENCE
            )
        quoted = b"".join(values[index] for index in selections[0].registers)
        self._registers = read_registers(self._quote, quoted)
        check_register_digest(self._quote, quoted, self._signature.hash_name)
        shown = {name: value.hex() for name, value in self._registers.items()}
        self._examination.facts["pcrs"] = shown
        self._examination.passed("registers", f"{len(shown)} registers are those quoted")

    # 7
    def _check_measurements(self) -> None:
        named = self._named(of_vtpm=True)
        check_registers(self._registers, named)
        if named:
            self._examination.trust_vector[TrustClaim.EXECUTABLES] = TrustTier.AFFIRMING
            self._examination.passed("measurements", "registers have their reference values")
        else:
            self._examination.skipped(
                "measurements", "registers: no reference values of the vTPM's were given"
            )
