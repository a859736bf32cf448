"""Appraises a recorded service as a whole: CPU evidence, binding, GPU evidence, links, workload.

Numbered steps:

1. the recording is read; its shape names the profile;
2. a nonce that it repeats is the caller's, where the caller gave one;
3. the CPU's evidence verifies;
4. the guest's field is what the profile makes of the recorded members and the nonce;
5. every GPU's evidence verifies, for the nonce that the profile says it was asked with;
6. GPU and CPU evidence are linked as the profile says;
7. the workload's description is the one that the CPU measured, or an event log that replays to a
   quoted register names it.

A failure of 1 to 6 refuses the whole. What step 7 cannot show is listed, because several services
do not measure their workload and still prove their key. The whole is never better than its parts,
and nothing here says that the caller's own connection ended at the bound key.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from verispect.core.encoding import sha256
from verispect.core.errors import Error, Reason, VerificationError
from verispect.evidence.attestation import (
    Anchor,
    AttestationAppraisal,
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Examination,
    Expectation,
)
from verispect.evidence.bindings.interface import Binding, Bound
from verispect.evidence.bindings.registry import binding_profile
from verispect.evidence.bindings.services import DSTACK_COMPOSE
from verispect.evidence.event_log import proven_events
from verispect.evidence.links import (
    Link,
    check_derived_nonce,
    check_hash_link,
    check_shared_nonce,
)
from verispect.evidence.services.recording import Recording, read_recording
from verispect.evidence.technologies import appraise_evidence

GPU: Final = "nvidia-gpu"
_COMPOSE_EVENT: Final = "compose-hash"
_RUNTIME_REGISTER: Final = 3


@dataclass(frozen=True, slots=True)
class ServiceAppraisal:
    """The parts of a service's attestation and the whole."""

    whole: AttestationAppraisal
    """Its checks are the numbered steps; technology `service`."""
    profile: str | None
    cpu: AttestationAppraisal | None
    gpus: AttestationAppraisal | None
    """All GPUs together: each must be good, and none may appear twice."""
    binding: Binding | None
    link: Link | None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON view."""
        binding = self.binding
        return {
            **self.whole.to_json(),
            "profile": self.profile,
            "binds": sorted(bound.value for bound in binding.binds) if binding else [],
            "notBound": list(binding.not_bound) if binding else [],
            "link": self.link.kind.value if self.link else None,
            "cpu": self.cpu.to_json() if self.cpu is not None else None,
            "gpus": self.gpus.to_json() if self.gpus is not None else None,
        }


def appraise_service(
    data: bytes,
    *,
    profile: str | None,
    instance: int = 0,
    endorsements: Mapping[str, bytes],
    anchors: Sequence[Anchor] | None = None,
    expected: Expectation,
    policy: AttestationPolicy,
    at: int,
) -> ServiceAppraisal:
    """Appraise a recorded document of a service; never raises for bad evidence.

    Args:
        data: the document, byte for byte.
        profile: the binding profile, needed where several services share one shape.
        instance: which one, where the document holds several.
        endorsements: of the CPU's evidence, by name (`collateral`; `cert`, `ask`, `ark`).
        anchors: whom to trust, CPU and GPU; `None` for the vendors' own roots.
        expected: the caller's nonce, and measurements of the CPU's evidence.
        policy: what is acceptable of genuine evidence.
        at: the time of judgement, milliseconds since the epoch.
    """
    walk = _Walk(endorsements, anchors, expected, policy, at)
    examination = walk.examination
    try:
        walk.run(data, profile, instance)
    except Error as error:
        examination.error(walk.step, error)
    whole = examination.conclude()
    if whole.verdict is AttestationVerdict.POLICY and walk.cpu is not None:
        whole = replace(whole, acceptable=walk.cpu.acceptable)
    return ServiceAppraisal(whole, walk.profile, walk.cpu, walk.gpus, walk.binding, walk.link)


class _Walk:
    """The steps in their order, and what earlier ones leave for later ones."""

    def __init__(
        self,
        endorsements: Mapping[str, bytes],
        anchors: Sequence[Anchor] | None,
        expected: Expectation,
        policy: AttestationPolicy,
        at: int,
    ) -> None:
        self.examination = Examination("service", policy)
        self.step = "recording"
        self.profile: str | None = None
        self.cpu: AttestationAppraisal | None = None
        self.gpus: AttestationAppraisal | None = None
        self.binding: Binding | None = None
        self.link: Link | None = None
        self._endorsements = endorsements
        self._anchors = anchors
        self._expected = expected
        self._policy = policy
        self._at = at

    def run(self, data: bytes, profile: str | None, instance: int) -> None:
        # 1. The recording is read.
        recording = read_recording(data, profile=profile, instance=instance)
        self.profile = recording.profile
        self._passed(f"a recording of {recording.profile}, instance {instance}")
        if recording.instances > 1:
            self._gap(f"the other {recording.instances - 1} instances of the recording")
        # 2. Whose nonce it is.
        self.step = "nonce"
        nonce = self._check_nonce(recording)
        # 3. The CPU's evidence.
        self.step = "cpu"
        self.cpu = self._appraise_part(
            recording.technology,
            {**recording.cpu, **self._endorsements},
            # The nonce is inside the field in a way that only the profile knows.
            replace(self._expected, nonce=None),
        )
        self._take_cpu(self.cpu)
        report_data = bytes.fromhex(self.cpu.facts["report_data"])
        # 4. The guest's field.
        self.step = "binding"
        self.binding = self._check_binding(recording, nonce, report_data)
        # 5. Every GPU.
        self.step = "gpu"
        gpu_nonce = report_data[:32] if recording.profile == "chutes/1" else nonce
        self._appraise_gpus(recording, gpu_nonce)
        # 6. The link.
        self.step = "link"
        self._check_link(recording, nonce, report_data)
        # 7. The workload.
        self.step = "workload"
        self._check_workload(recording)
        self._gap("that your own connection ended at the key that is bound here")

    def _check_nonce(self, recording: Recording) -> bytes:
        echoed, wanted = recording.echoed_nonce, self._expected.nonce
        if wanted is not None:
            if echoed is not None and not hmac.compare_digest(echoed, wanted):
                self.examination.fail(
                    self.step,
                    "the service answered another nonce than yours",
                    Reason.ATTESTATION_NONCE_MISMATCH,
                )
            repeats = "repeats" if echoed is not None else "does not repeat"
            self._passed(f"the recording {repeats} your nonce; step 4 checks that it is signed")
            return wanted
        if echoed is None:
            self.examination.fail(
                self.step,
                "neither you nor the recording names a nonce",
                Reason.ATTESTATION_NONCE_MISMATCH,
            )
        self.examination.skipped(
            self.step, "freshness: the nonce is the recording's own word, none of yours was given"
        )
        return echoed

    def _appraise_part(
        self, technology: str, files: Mapping[str, bytes], expected: Expectation
    ) -> AttestationAppraisal:
        return appraise_evidence(
            technology,
            files,
            anchors=self._anchors,
            expected=expected,
            policy=self._policy,
            at=self._at,
        )

    def _take_cpu(self, cpu: AttestationAppraisal) -> None:
        examination = self.examination
        examination.evidence_class = cpu.evidence_class
        examination.facts.update(cpu.facts)
        examination.trust_vector.update(
            {claim: value for claim, value in cpu.trust_vector.items() if value}
        )
        examination.not_checked.extend(cpu.not_checked)
        examination.tcb_status = cpu.tcb_status
        examination.advisories.extend(cpu.advisories)
        self._take(cpu, cpu.technology)
        if cpu.verdict is AttestationVerdict.ACCEPT:
            self._passed(f"{cpu.technology} verifies")

    def _take(self, part: AttestationAppraisal, what: str) -> None:
        """Let a part that does not verify, or waits for a decision, decide the whole."""
        if part.verdict is AttestationVerdict.REJECT:
            detail = next((c.detail for c in part.checks if c.reason is part.reason), "refused")
            reason = part.reason or Reason.EVIDENCE_INVALID
            self.examination.fail(self.step, f"{what}: {detail}", reason)
        if part.verdict is AttestationVerdict.POLICY and part.reason is not None:
            self.examination.decide(self.step, f"{what}: {part.tcb_status}", part.reason)

    def _check_binding(self, recording: Recording, nonce: bytes, report_data: bytes) -> Binding:
        profile = binding_profile(recording.profile)
        try:
            binding = profile.check({**recording.members, "nonce": nonce}, report_data)
        except VerificationError:
            self._tell_stale_nonce(recording, report_data)
            raise
        if "nvswitch_evidence_digest" in binding.members:
            self._gap("nvswitch: its evidence is bound, and was not verified")
        bound = ", ".join(sorted(what.value for what in binding.binds))
        self._passed(f"report_data binds {bound} by {binding.profile}")
        self.examination.not_checked.extend(f"not bound: {what}" for what in binding.not_bound)
        return binding

    def _tell_stale_nonce(self, recording: Recording, report_data: bytes) -> None:
        # The services that keep the nonce in clear have it in the second half of the field.
        plain = recording.profile in ("near/tls-v1", "venice/1", "nanogpt/1", "phala/1")
        members = {**recording.members, "nonce": report_data[32:]}
        if plain:
            try:
                binding_profile(recording.profile).check(members, report_data)
            except Error:
                return
            self.examination.fail(
                self.step, "the field holds another nonce", Reason.ATTESTATION_NONCE_MISMATCH
            )

    def _appraise_gpus(self, recording: Recording, nonce: bytes) -> None:
        if recording.gpus is None:
            self.examination.skipped(self.step, "gpu: the recording holds no evidence of any")
            return
        part = self._appraise_part(GPU, {"evidence": recording.gpus}, Expectation(nonce=nonce))
        self.gpus = part
        if part.reason is Reason.ATTESTATION_NONCE_MISMATCH:
            # The nonce is the link: another one means evidence of another occasion.
            self.examination.fail(
                self.step,
                "a gpu answered another nonce than the cpu's evidence names",
                Reason.ATTESTATION_BINDING_INVALID,
            )
        self._take(part, "gpu")
        # The whole is of the weakest class among its parts.
        order = list(EvidenceClass)
        classes = [c for c in (self.examination.evidence_class, part.evidence_class) if c]
        self.examination.evidence_class = max(classes, key=order.index)
        devices = _devices(part)
        if not any(device.get("device") == "gpu" for device in devices):
            self.examination.fail(
                self.step, "no device shown is a gpu", Reason.ATTESTATION_BINDING_INVALID
            )
        for gap in part.not_checked:
            self._gap(f"gpu: {gap}")
        self._passed(f"{len(devices)} verify, all different")

    def _check_link(self, recording: Recording, nonce: bytes, report_data: bytes) -> None:
        binding = self.binding
        if self.gpus is None or binding is None:
            return
        nonces = _gpu_nonces(self.gpus)
        if recording.profile == "chutes/1":
            self.link = check_derived_nonce(report_data, nonces)
        elif Bound.GPU_EVIDENCE in binding.binds and recording.gpu_text is not None:
            check_shared_nonce(nonce, nonces)
            self.link = check_hash_link(binding, recording.gpu_text)
        else:
            self.link = check_shared_nonce(nonce, nonces)
        self._passed(f"{self.link.kind.value}: {self.link.shows}")
        self.examination.not_checked.extend(self.link.not_shown)

    def _check_workload(self, recording: Recording) -> None:
        compose, cpu = recording.app_compose, self.cpu
        if compose is None or cpu is None or cpu.technology != "intel-tdx":
            self._gap("workload: the recording does not describe it")
            return
        try:
            DSTACK_COMPOSE.check({"app_compose": compose}, bytes.fromhex(cpu.facts["mr_config_id"]))
        except VerificationError:
            pass
        else:
            self._passed("app_compose is the one in mr_config_id")
            return
        quoted = bytes.fromhex(cpu.facts["rtmr"][_RUNTIME_REGISTER])
        proven = proven_events(recording.events, _RUNTIME_REGISTER, quoted)
        if proven is None:
            self.examination.skipped(
                self.step, "workload: the event log does not replay to rtmr3, so it counts nothing"
            )
        elif [e.payload for e in proven if e.name == _COMPOSE_EVENT] == [sha256(compose)]:
            self._passed("app_compose is the one of the event log, which replays to rtmr3")
        else:
            self.examination.fail(
                self.step,
                "app_compose is not the one that was measured",
                Reason.ATTESTATION_MEASUREMENT_MISMATCH,
            )

    def _passed(self, detail: str) -> None:
        self.examination.passed(self.step, detail)

    def _gap(self, detail: str) -> None:
        self.examination.not_checked.append(detail)


def _gpu_nonces(gpus: AttestationAppraisal) -> list[bytes]:
    """Return the request nonce of every device, out of facts that were verified."""
    return [bytes.fromhex(device["nonce"]) for device in _devices(gpus)]


def _devices(gpus: AttestationAppraisal) -> Sequence[Mapping[str, Any]]:
    devices: Sequence[Mapping[str, Any]] = gpus.facts.get("devices", [gpus.facts])
    return devices
