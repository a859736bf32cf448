"""Attestation evidence on a receipt: hardware vouches for the key that signed it.

One kind per technology. The entry's body is what the machine said; its endorsements hold the
certificates and collateral that verify it years later, and the members of its binding. The field
that the guest chose is recomputed from the members *and the key of this very receipt*; evidence
for another key, another session or another request is refused, so that a receipt whose key is not
in verified evidence counts as signed only.

Time: certificates live for hours, receipts for years. Evidence is judged at the time it was
collected, which must not be after the statement nor longer before it than the policy says; that
this time is the operator's word unless the evidence carries its own is said in `not_covered`.

Measurements without a reference value of the user's are of unknown code, and unknown code proves
nothing: the entry is refused. The class of the evidence is decided by the anchor that verified and
by nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from verispect.core.claims import Claim, ClaimSources, Source
from verispect.core.encoding import decode
from verispect.core.errors import (
    Error,
    MalformedError,
    Reason,
    UnsupportedError,
    VerificationError,
)
from verispect.core.receipt import EvidenceEntry
from verispect.core.statement import ModelIdentity
from verispect.evidence.attestation import (
    AttestationAppraisal,
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Expectation,
)
from verispect.evidence.bindings.inference_v1 import INFERENCE_V1, inference_digest
from verispect.evidence.bindings.key_v1 import KEY_V1
from verispect.evidence.bindings.registry import binding_profile
from verispect.evidence.checks import Check, CheckStatus
from verispect.evidence.code_registers import name_code
from verispect.evidence.interface import (
    EvidenceAppraisal,
    EvidenceContext,
    EvidenceFacts,
    TrustAnchors,
)

MAX_FILES: Final = 16
MAX_MEMBERS: Final = 16
FIELD_BYTES: Final = 64
"""Width of the guest's field in our own profiles."""

MAIN_FILES: Final[Mapping[str, str]] = {
    "aws-nitro": "doc",
    "intel-tdx": "quote",
    "amd-sev-snp": "report",
    "gcp-confidential-space": "token",
}
"""Technologies whose evidence is one file, and its name; the body of the others is a map."""

KINDS: Final = (*MAIN_FILES, "tpm2-quote", "azure-vtpm")

_HARDWARE: Final = frozenset({Source.HARDWARE})
CLAIMS: Final[ClaimSources] = dict.fromkeys((Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION), _HARDWARE)
CONFIDENTIAL_CLAIMS: Final[ClaimSources] = {**CLAIMS, Claim.CONFIDENTIALITY: _HARDWARE}
"""Of a request that came encrypted to the very key that the evidence vouches for."""

NOT_COVERED: Final = (
    "model weights: the measurements cover code, so the model stays asserted",
    "physical attack on the attesting machine",
    "an upstream service behind the attested gateway",
    "that the attested machine is where the operator says",
    "when evidence was collected, beyond its own certificates: the operator's word",
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What stands in an entry's endorsements."""

    files: Mapping[str, bytes]
    """Endorsements by name."""
    members: Mapping[str, bytes]
    """Members of the binding, but for the receipt's own key and inference."""

    @classmethod
    def decode(cls, data: bytes) -> Bundle:
        """Read `{"binding": {name: bytes}, "files": {name: bytes}}`.

        Raises:
            MalformedError: `malformed-evidence`.
        """
        document = _decode_map(data)
        if document.keys() != {"binding", "files"}:
            raise _malformed("the endorsements are not a binding and files")
        return cls(
            _byte_map(document["files"], MAX_FILES), _byte_map(document["binding"], MAX_MEMBERS)
        )


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_EVIDENCE)


def _decode_map(data: bytes) -> dict[str, Any]:
    try:
        document = decode(data, maximum_items=256)
    except MalformedError as error:
        raise _malformed(error.message) from error
    if type(document) is not dict:
        raise _malformed("expected a map")
    return document


def _byte_map(value: Any, limit: int) -> dict[str, bytes]:
    if type(value) is not dict or len(value) > limit:
        raise _malformed(f"expected a map of at most {limit}")
    for name, content in value.items():
        if type(name) is not str or type(content) is not bytes:
            raise _malformed("expected byte strings by name")
    return value


class AttestedKey:
    """The kind of one technology; see the module.

    Args:
        technology: the name on the wire.
    """

    binds_itself = False

    def __init__(self, technology: str) -> None:
        self.name = technology

    def appraise(self, context: EvidenceContext) -> EvidenceAppraisal:
        """Verify one entry against the receipt."""
        entry = context.entry
        if entry is None:
            raise RuntimeError("attestation evidence is an entry of its own")
        try:
            appraisal, members = self._appraise(context, entry)
        except Error as error:
            reason = error.reason
            check = Check(f"{self.name}:binding", CheckStatus.FAILED, error.message, reason)
            return EvidenceAppraisal([check], {}, NOT_COVERED)
        checks = [
            replace(check, name=f"{self.name}:{check.name}", status=status)
            for check in appraisal.checks
            if (status := _status(check, appraisal)) is not CheckStatus.UNKNOWN
        ]
        not_covered = [*NOT_COVERED, *(f"{self.name}: {line}" for line in appraisal.not_checked)]
        if entry.profile != INFERENCE_V1.name:
            not_covered.append(
                f"{self.name}: freshness for this request: the evidence is of the session's key"
            )
        found = appraisal.evidence_class
        if found is not EvidenceClass.HARDWARE and found is not None:
            not_covered.append(f"{self.name}: hardware protection: class {found.value} evidence")
        claims: ClaimSources = {}
        if appraisal.acceptable:
            exposed = _why_not_confidential(context, members)
            claims = CLAIMS if exposed else CONFIDENTIAL_CLAIMS
            not_covered.append(f"{self.name}: {exposed or _STILL_SEEN}")
        facts = EvidenceFacts(
            established_at=entry.collected_at,
            roots=self._roots(context.anchors, found),
            tcb_status=appraisal.tcb_status,
            per_inference=entry.profile == INFERENCE_V1.name,
        )
        return EvidenceAppraisal(checks, claims, not_covered, found, facts)

    def _roots(self, anchors: TrustAnchors, found: EvidenceClass | None) -> frozenset[str]:
        """Return the names it goes back to: the technology, and the anchor where it must be one."""
        labels = {
            each.label
            for each in anchors.attestation_anchors(self.name)
            if each.evidence_class is found
        }
        return frozenset({self.name} | (labels if len(labels) == 1 else set()))

    def _appraise(
        self, context: EvidenceContext, entry: EvidenceEntry
    ) -> tuple[AttestationAppraisal, Mapping[str, bytes]]:
        """Return the technology's appraisal, and the members of the binding."""
        _check_age(context, entry)
        files, members = read_entry(entry)
        appraisal = appraise_field(
            self.name,
            files,
            _field(context, entry, members),
            anchors=context.anchors,
            policy=context.policy,
            at=entry.collected_at,
        )
        return appraisal, members


def read_entry(entry: EvidenceEntry) -> tuple[Mapping[str, bytes], Mapping[str, bytes]]:
    """Return an entry's evidence with its endorsements, and the members of its binding, by name.

    Raises:
        MalformedError: `malformed-evidence`.
    """
    bundle = Bundle.decode(entry.endorsements)
    main = MAIN_FILES.get(entry.kind)
    evidence = {main: entry.body} if main else _byte_map(_decode_map(entry.body), MAX_FILES)
    if evidence.keys() & bundle.files.keys():
        raise _malformed("an endorsement has the name of the evidence")
    return {**bundle.files, **evidence}, bundle.members


def appraise_field(
    technology: str,
    files: Mapping[str, bytes],
    field: bytes,
    *,
    anchors: TrustAnchors,
    policy: AttestationPolicy,
    at: int,
) -> AttestationAppraisal:
    """Appraise evidence whose guest's field must be `field`, of code that the user knows.

    Args:
        technology: the kind of the evidence.
        files: evidence and endorsements by name.
        field: recomputed from what the evidence is to vouch for.
        anchors: roots and reference values.
        policy: what is acceptable.
        at: the time of judgement, milliseconds since the epoch.

    Raises:
        VerificationError: `attestation-measurement-mismatch` where there are no reference values.
    """
    from verispect.evidence.technologies import appraise_evidence
    from verispect.evidence.tpm.quote import qualifying_data

    references = anchors.reference_values(technology)
    if not name_code(technology, references):
        raise _no_reference(technology)
    # A vTPM's registers stand in a quote of their own: without the field in it too, a quote from
    # before the machine was started with other code would do.
    nonce = qualifying_data(field, None) if technology == "azure-vtpm" else None
    return appraise_evidence(
        technology,
        files,
        anchors=anchors.attestation_anchors(technology),
        expected=Expectation(nonce=nonce, report_data=field, measurements=references),
        policy=policy,
        at=at,
    )


AWS_NITRO: Final = partial(AttestedKey, "aws-nitro")
INTEL_TDX: Final = partial(AttestedKey, "intel-tdx")
AMD_SEV_SNP: Final = partial(AttestedKey, "amd-sev-snp")
CONFIDENTIAL_SPACE: Final = partial(AttestedKey, "gcp-confidential-space")
TPM_QUOTE: Final = partial(AttestedKey, "tpm2-quote")
AZURE_VTPM: Final = partial(AttestedKey, "azure-vtpm")


_STILL_SEEN: Final = "confidentiality: sizes and times of request and answer are seen on the way"


def _why_not_confidential(context: EvidenceContext, members: Mapping[str, bytes]) -> str | None:
    """Return why good evidence does not show that only the attested code read the request."""
    statement = context.receipt.unverified_statement
    if statement.confidential is None:
        return "confidentiality: the request came in the clear"
    if members.get("hpke_key_digest") != statement.confidential:
        return "confidentiality: the evidence is not of the key the request came encrypted to"
    if statement.model.identity is not ModelIdentity.LOCAL_WEIGHTS:
        return "confidentiality: an upstream service read the request"
    return None


def _status(check: Check, appraisal: AttestationAppraisal) -> CheckStatus:
    """Return the status a check has for the receipt.

    A decision about TCB is made by the policy. A step that could not be taken is listed as not
    covered instead, and neither passes nor decides.
    """
    if check.status is not CheckStatus.UNKNOWN:
        return check.status
    if appraisal.verdict is AttestationVerdict.POLICY and check.reason is appraisal.reason:
        return CheckStatus.PASSED if appraisal.acceptable else CheckStatus.FAILED
    return CheckStatus.UNKNOWN


def _no_reference(technology: str) -> Error:
    return VerificationError(
        f"the trusted root names no measurements of {technology} code, so the code is unknown",
        reason=Reason.ATTESTATION_MEASUREMENT_MISMATCH,
    )


def _check_age(context: EvidenceContext, entry: EvidenceEntry) -> None:
    signed_at = context.receipt.unverified_statement.signed_at
    age = signed_at - entry.collected_at
    maximum = context.policy.maximum_age_seconds
    if age < 0:
        raise VerificationError(
            "the evidence was collected after the statement", reason=Reason.ATTESTATION_NOT_FRESH
        )
    if maximum is not None and age > maximum * 1000:
        raise VerificationError(
            f"the evidence was collected over {maximum} s before the statement",
            reason=Reason.ATTESTATION_NOT_FRESH,
        )


def _field(context: EvidenceContext, entry: EvidenceEntry, members: Mapping[str, bytes]) -> bytes:
    """Recompute the guest's field with the receipt's own key, never with a claimed one."""
    if entry.profile not in (KEY_V1.name, INFERENCE_V1.name):
        raise _unknown_profile(entry.profile)
    envelope = context.receipt.envelope
    own = {"receipt_key_id": bytes(envelope.key_id)}
    if entry.profile == INFERENCE_V1.name:
        statement = context.receipt.unverified_statement
        own["inference_digest"] = bytes(inference_digest(envelope.subject, statement))
    if members.keys() & own.keys():
        raise _malformed("the binding claims the receipt's own key or inference")
    return binding_profile(entry.profile).recompute({**members, **own}, FIELD_BYTES)


def _unknown_profile(name: str) -> Error:
    return UnsupportedError(
        f"{name} does not bind the key of a receipt", reason=Reason.UNSUPPORTED_EVIDENCE
    )
