"""Recorded services as a whole: CPU, binding, GPU and link, each spoilt and spliced in turn.

The CPU's evidence is of our own Intel (development), so that the field can be chosen; the GPU's
is a genuine H100's, whose nonce is known.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from dcap_forge import AT, anchors, forge
from tee_vectors import load_case, read_vector
from verispect.cli.main import main
from verispect.core.encoding import sha256
from verispect.core.errors import Reason
from verispect.evidence.attestation import (
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Expectation,
)
from verispect.evidence.bindings.interface import Bound
from verispect.evidence.bindings.registry import binding_profile
from verispect.evidence.links import LinkKind
from verispect.evidence.nvidia import GENUINE_ANCHORS as NVIDIA_ANCHORS
from verispect.evidence.services.appraisal import ServiceAppraisal, appraise_service

ADDRESS, FINGERPRINT = b"\x11" * 20, b"\x22" * 32
OTHER_NONCE = b"\x33" * 32
POLICY = AttestationPolicy(accepted_classes=frozenset(EvidenceClass))


@pytest.fixture
def nonce() -> bytes:
    """The nonce that the genuine GPU answered."""
    return bytes.fromhex(load_case("nv-hopper-590")["inputs"]["nonce"])


def _gpu_entries() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(read_vector("nvidia/hopper_evidence_590.json"))
    return entries


def _near(nonce: bytes, **changes: Any) -> tuple[dict[str, Any], bytes]:
    """Return a NEAR document and its collateral."""
    members = {"signing_address": ADDRESS, "tls_fingerprint": FINGERPRINT, "nonce": nonce}
    field = changes.pop("field", binding_profile("near/tls-v1").recompute(members, 64))
    evidence = forge(report_data=field)
    entry = {
        "intel_quote": evidence.quote.hex(),
        "nvidia_payload": json.dumps(
            {"nonce": nonce.hex(), "arch": "HOPPER", "evidence_list": _gpu_entries()}
        ),
        "signing_address": "0x" + ADDRESS.hex(),
        "tls_cert_fingerprint": FINGERPRINT.hex(),
        "request_nonce": nonce.hex(),
    }
    return {"model_attestations": [entry | changes]}, evidence.collateral


def _tinfoil(nonce: bytes, gpu: str | None) -> tuple[bytes, bytes]:
    members = {"tls_key_digest": FINGERPRINT, "hpke_key": OTHER_NONCE, "nonce": nonce}
    if gpu is not None:
        members["gpu_evidence_digest"] = sha256(gpu.encode())
    field = binding_profile("tinfoil/3").recompute(members, 64)
    evidence = forge(report_data=field)
    document = {
        "format": "https://tinfoil.sh/predicate/attestation/v3",
        "report_data": {
            "tls_key_fp": FINGERPRINT.hex(),
            "hpke_key": OTHER_NONCE.hex(),
            "nonce": nonce.hex(),
        },
        "cpu": {"platform": "tdx", "report": base64.b64encode(evidence.quote).decode()},
    }
    text = json.dumps(document)
    if gpu is not None:
        text = text[:-1] + f', "gpu": {gpu} }}'
    return text.encode(), evidence.collateral


def _appraise(
    document: Any,
    collateral: bytes,
    *,
    profile: str | None = None,
    nonce: bytes | None = None,
    policy: AttestationPolicy = POLICY,
    instance: int = 0,
) -> ServiceAppraisal:
    return appraise_service(
        document if isinstance(document, bytes) else json.dumps(document).encode(),
        profile=profile,
        instance=instance,
        endorsements={"collateral": collateral},
        anchors=(*anchors(), *NVIDIA_ANCHORS),
        expected=Expectation(nonce=nonce),
        policy=policy,
        at=AT,
    )


def _refused(result: ServiceAppraisal) -> Reason | None:
    assert result.whole.verdict is AttestationVerdict.REJECT
    assert not result.whole.acceptable
    return result.whole.reason


def test_a_good_service_is_accepted_with_everything_it_binds(nonce: bytes) -> None:
    """CPU, GPU, link and binding hold; the class is that of the weaker anchor."""
    result = _appraise(*_near(nonce), nonce=nonce)
    assert result.whole.verdict is AttestationVerdict.ACCEPT
    assert result.whole.evidence_class is EvidenceClass.DEVELOPMENT
    assert result.binding is not None
    assert result.binding.binds == {Bound.SIGNING_KEY, Bound.TLS_KEY, Bound.NONCE}
    assert result.link is not None
    assert result.link.kind is LinkKind.SHARED_NONCE
    assert any("your own connection" in gap for gap in result.whole.not_checked)
    assert any("workload" in gap for gap in result.whole.not_checked)


def test_a_development_cpu_is_refused_by_the_default_policy(nonce: bytes) -> None:
    """A genuine GPU does not lift the CPU."""
    result = _appraise(*_near(nonce), nonce=nonce, policy=AttestationPolicy())
    assert _refused(result) is Reason.ATTESTATION_CLASS_REFUSED


def test_the_recordings_own_nonce_is_no_freshness(nonce: bytes) -> None:
    """Without a nonce of the caller's the whole is accepted with the gap named."""
    result = _appraise(*_near(nonce))
    assert result.whole.verdict is AttestationVerdict.ACCEPT
    assert any("freshness" in gap for gap in result.whole.not_checked)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"request_nonce": OTHER_NONCE.hex()}, Reason.ATTESTATION_NONCE_MISMATCH),
        ({"signing_address": "0x" + "44" * 20}, Reason.ATTESTATION_BINDING_INVALID),
        ({"tls_cert_fingerprint": "44" * 32}, Reason.ATTESTATION_BINDING_INVALID),
        ({"field": bytes(64)}, Reason.ATTESTATION_BINDING_INVALID),
        ({"intel_quote": "00"}, Reason.MALFORMED_EVIDENCE),
        ({"intel_quote": 7}, Reason.UNSUPPORTED_EVIDENCE),
        ({"signing_address": None}, Reason.MALFORMED_EVIDENCE),
        ({"nvidia_payload": "{"}, Reason.MALFORMED_EVIDENCE),
    ],
)
def test_each_spoilt_member_refuses(nonce: bytes, changes: dict[str, Any], reason: Reason) -> None:
    """What stands beside the evidence has to be what the evidence commits to."""
    assert _refused(_appraise(*_near(nonce, **changes), nonce=nonce)) is reason


def test_a_nonce_that_is_echoed_and_not_signed_is_refused(nonce: bytes) -> None:
    """The quote holds another nonce than the one that the document repeats."""
    members = {"signing_address": ADDRESS, "tls_fingerprint": FINGERPRINT, "nonce": OTHER_NONCE}
    field = binding_profile("near/tls-v1").recompute(members, 64)
    result = _appraise(*_near(nonce, field=field), nonce=nonce)
    assert _refused(result) is Reason.ATTESTATION_NONCE_MISMATCH


def test_gpu_evidence_of_another_occasion_is_refused() -> None:
    """CPU evidence for the right nonce, GPU evidence for another: a splice."""
    document, collateral = _near(OTHER_NONCE)
    result = _appraise(document, collateral, nonce=OTHER_NONCE)
    assert _refused(result) is Reason.ATTESTATION_BINDING_INVALID
    assert result.link is None


def test_one_gpu_shown_twice_is_refused(nonce: bytes) -> None:
    """A genuine GPU stands for itself alone."""
    payload = json.dumps({"arch": "HOPPER", "evidence_list": _gpu_entries() * 2})
    result = _appraise(*_near(nonce, nvidia_payload=payload), nonce=nonce)
    assert _refused(result) is Reason.ATTESTATION_BINDING_INVALID


def test_a_service_without_gpu_evidence_says_so(nonce: bytes) -> None:
    """Nothing is linked, and the gap is named."""
    result = _appraise(*_near(nonce, nvidia_payload=""), nonce=nonce)
    assert result.whole.verdict is AttestationVerdict.ACCEPT
    assert result.gpus is None
    assert any("gpu" in gap for gap in result.whole.not_checked)


def test_one_instance_of_several_is_appraised_and_the_others_are_named(nonce: bytes) -> None:
    """Evidence is of one instance; the answer may have come from another."""
    document, collateral = _near(nonce)
    good = document["model_attestations"][0]
    document["model_attestations"] = [good | {"signing_address": "0x" + "44" * 20}, good]
    assert _refused(_appraise(document, collateral, nonce=nonce)) is not None
    result = _appraise(document, collateral, nonce=nonce, instance=1)
    assert result.whole.verdict is AttestationVerdict.ACCEPT
    assert any("other 1 instances" in gap for gap in result.whole.not_checked)
    out = _appraise(document, collateral, nonce=nonce, instance=2)
    assert _refused(out) is Reason.MALFORMED_EVIDENCE


def test_a_hash_in_report_data_links_the_bytes_of_the_gpu_evidence(nonce: bytes) -> None:
    """The digest is taken over the text as delivered, whitespace included."""
    gpu = json.dumps({"evidences": _gpu_entries()}, indent=2)
    document, collateral = _tinfoil(nonce, gpu)
    result = _appraise(document, collateral, nonce=nonce)
    assert result.whole.verdict is AttestationVerdict.ACCEPT
    assert result.link is not None
    assert result.link.kind is LinkKind.HASH_IN_REPORT_DATA
    spliced = document.replace(gpu.encode(), json.dumps(json.loads(gpu)).encode())
    reason = _refused(_appraise(spliced, collateral, nonce=nonce))
    assert reason is Reason.ATTESTATION_BINDING_INVALID


def test_gpu_evidence_cannot_be_taken_away_or_put_in(nonce: bytes) -> None:
    """A field that commits to GPU evidence does not fit a document without it."""
    gpu = json.dumps({"evidences": _gpu_entries()})
    with_gpu, collateral = _tinfoil(nonce, gpu)
    without = with_gpu.replace(f', "gpu": {gpu} '.encode(), b"")
    assert _refused(_appraise(without, collateral, nonce=nonce)) is not None
    bare, bare_collateral = _tinfoil(nonce, None)
    put_in = bare[:-1] + f', "gpu": {gpu} }}'.encode()
    assert _refused(_appraise(put_in, bare_collateral, nonce=nonce)) is not None


def test_a_chutes_gpu_answers_the_derived_nonce_and_no_other(nonce: bytes) -> None:
    """A GPU that was asked with the caller's plain nonce is not linked to this CPU."""
    key = base64.b64encode(b"k" * 32).decode()
    members = {"nonce": nonce, "e2e_public_key": key.encode()}
    field = binding_profile("chutes/1").recompute(members, 64) + bytes(32)
    evidence = forge(report_data=field)
    entry = {
        "quote": base64.b64encode(evidence.quote).decode(),
        "gpu_evidence": [],
        "instance_id": "i",
        "e2e_pubkey": key,
    }
    result = _appraise({"evidence": [entry]}, evidence.collateral, nonce=nonce)
    assert result.whole.verdict is AttestationVerdict.ACCEPT
    assert result.profile == "chutes/1"
    spliced = entry | {"gpu_evidence": _gpu_entries()}
    reason = _refused(_appraise({"evidence": [spliced]}, evidence.collateral, nonce=nonce))
    assert reason is Reason.ATTESTATION_BINDING_INVALID


@pytest.mark.parametrize(
    "profile", ["nanogpt/1", "phala/1", "venice/1", "near/tls-v1", "tinfoil/3"]
)
def test_a_document_is_never_searched_for_something_that_fits(profile: str) -> None:
    """A document of no known shape is unsupported, whatever profile is asked for."""
    result = _appraise({"attestation": {}}, b"", profile=profile, nonce=bytes(32))
    assert _refused(result) is Reason.UNSUPPORTED_EVIDENCE


def test_a_shape_that_several_services_share_needs_a_name(nonce: bytes) -> None:
    """The profile is named, not guessed."""
    members = {"signing_address": ADDRESS, "nonce": nonce}
    field = binding_profile("nanogpt/1").recompute(members, 64)
    evidence = forge(report_data=field)
    document = {
        "intel_quote": evidence.quote.hex(),
        "signing_address": "0x" + ADDRESS.hex(),
        "request_nonce": nonce.hex(),
    }
    unnamed = _appraise(document, evidence.collateral, nonce=nonce)
    assert _refused(unnamed) is Reason.UNSUPPORTED_EVIDENCE
    for profile in ("nanogpt/1", "phala/1"):
        result = _appraise(document, evidence.collateral, profile=profile, nonce=nonce)
        assert result.whole.verdict is AttestationVerdict.ACCEPT


def test_a_tcb_status_of_the_cpu_is_the_decision_of_the_whole(nonce: bytes) -> None:
    """Genuine and out of date is policy for the service as well."""
    members = {"signing_address": ADDRESS, "tls_fingerprint": FINGERPRINT, "nonce": nonce}
    field = binding_profile("near/tls-v1").recompute(members, 64)
    evidence = forge(report_data=field, status="OutOfDate")
    document, _ = _near(nonce)
    document["model_attestations"][0]["intel_quote"] = evidence.quote.hex()
    result = _appraise(document, evidence.collateral, nonce=nonce)
    assert result.whole.verdict is AttestationVerdict.POLICY
    assert result.whole.reason is Reason.TCB_OUT_OF_DATE
    assert not result.whole.acceptable


def test_a_damaged_recording_is_always_answered(nonce: bytes) -> None:
    """Truncated anywhere, the document is a refusal and never an error."""
    document, collateral = _near(nonce, nvidia_payload="")
    data = json.dumps(document).encode()
    for length in range(0, len(data), 97):
        assert _refused(_appraise(data[:length], collateral, nonce=nonce)) is not None


def test_the_command_line_shows_every_part(
    nonce: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`verispect appraise --kind service` prints the parts, the whole and the binding."""
    document, collateral = _near(nonce)
    (tmp_path / "service.json").write_text(json.dumps(document))
    (tmp_path / "collateral.json").write_bytes(collateral)
    arguments = ["appraise", str(tmp_path / "service.json"), "--kind", "service"]
    arguments += ["--endorsements", f"collateral={tmp_path / 'collateral.json'}"]
    arguments += ["--nonce", nonce.hex(), "--at", "2026-03-01T00:00:00Z"]
    assert main([*arguments, "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["reasonClass"] == "untrusted_root"
    assert shown["cpu"]["technology"] == "intel-tdx"
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "FAIL: refused" in captured.err
    assert "intel-tdx: reject" in captured.out
