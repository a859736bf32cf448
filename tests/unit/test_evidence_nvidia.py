"""NVIDIA evidence: every vector's verdict, every step by a forgery that only that step refuses."""

import base64
import dataclasses
import json
import sys

import pytest
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from nvidia_forgery import (
    AT,
    DAY,
    DEVICE_NONCE,
    NONCE,
    NOW,
    anchor,
    bundle,
    certify,
    device_claims,
    driver_rim,
    gpu,
    jwk,
    key_set,
    manifest_keys,
    manifest_text,
    ocsp_response,
    overall_claims,
    pem,
    resource,
    service_keys,
    sign_manifest,
    sign_token,
    switch,
    vbios_rim,
)
from tee_vectors import case_ids, load_case, milliseconds
from verispect.core.encoding import sha256
from verispect.evidence.attestation import (
    AttestationAppraisal,
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Expectation,
    TrustClaim,
    reason_class,
)
from verispect.evidence.certificates import forget_certificates
from verispect.evidence.nvidia import (
    GENUINE_ANCHORS,
    DeviceDocument,
    DeviceEvidence,
    DeviceKind,
    ManifestEvidence,
    ServiceToken,
    appraise_nvidia_document,
    appraise_nvidia_gpu,
    appraise_nvidia_rim,
    appraise_nvidia_token,
    paths,
)
from verispect.evidence.nvidia.spdm import parse_report

DEVELOPMENT = AttestationPolicy(accepted_classes=frozenset({EvidenceClass.DEVELOPMENT}))
EXPECTED = Expectation(nonce=NONCE)


def development_anchors():
    return (
        anchor("nvidia-gpu", gpu().root),
        anchor("nvidia-rim", manifest_keys()[0]),
        anchor("nvidia-nras", service_keys()[1]),
    )


def outcome(appraisal: AttestationAppraisal) -> str:
    word = reason_class(appraisal.reason)
    assert (appraisal.verdict is AttestationVerdict.ACCEPT) == (word == "ok")
    return word


def judge_device(device=None, *, at=AT, expected=EXPECTED, policy=DEVELOPMENT, **changes):
    device = device or gpu()
    evidence = DeviceEvidence(device.report(), device.path)
    return appraise_nvidia_gpu(
        dataclasses.replace(evidence, **changes),
        anchors=development_anchors(),
        expected=expected,
        policy=policy,
        at=at,
    )


def judge_rim(data: bytes, *, at=AT, expected=None, policy=DEVELOPMENT):
    return appraise_nvidia_rim(
        ManifestEvidence(data),
        anchors=development_anchors(),
        expected=expected or Expectation(),
        policy=policy,
        at=at,
    )


def judge_token(token, *, keys=None, at=AT, expected=EXPECTED, policy=DEVELOPMENT, **changes):
    text = token if isinstance(token, bytes) else token.encode()
    return appraise_nvidia_token(
        ServiceToken(text, keys or key_set(), changes.get("issuers", ())),
        anchors=changes.get("anchors", development_anchors()),
        expected=expected,
        policy=policy,
        at=at,
    )


def judge_case(case):
    evidence, nonce = case["evidence"], case["inputs"].get("nonce")
    common = {
        "anchors": GENUINE_ANCHORS,
        "expected": Expectation(nonce=bytes.fromhex(nonce) if nonce else None),
        "policy": AttestationPolicy(),
        "at": milliseconds(case["verify_at"]),
    }
    if "rim" in evidence:
        return appraise_nvidia_rim(ManifestEvidence(evidence["rim"]), **common)
    rims = {name: evidence.get(name) for name in ("driver_rim", "vbios_rim")}
    if "evidence" in evidence:
        return appraise_nvidia_document(DeviceDocument(evidence["evidence"], **rims), **common)
    return appraise_nvidia_gpu(
        DeviceEvidence(evidence["report"], evidence["chain"], **rims), **common
    )


# -- Genuine documents ----------------------------------------------------------------------------


@pytest.mark.parametrize("case_id", case_ids("nvidia-gpu", "nvidia-rim"))
def test_every_vector_has_its_stated_result(case_id):
    """Each case of other people's vectors gives its result, its reason class and its facts."""
    case = load_case(case_id)
    appraisal = judge_case(case)
    assert (appraisal.verdict.value, outcome(appraisal)) == (case["expect"], case["reason"])
    for name, value in case.get("facts", {}).items():
        assert appraisal.facts[name] == value
    if case["expect"] == "accept":
        assert appraisal.evidence_class is EvidenceClass.HARDWARE


def test_genuine_gpu_without_manifests_says_what_was_not_checked():
    """Without reference manifests firmware, debug status and revocation are listed as gaps."""
    appraisal = judge_case(load_case("nv-hopper-590"))
    gaps = " ".join(appraisal.not_checked)
    assert "firmware, debug status and secure boot" in gaps
    assert "OCSP" in gaps
    assert "secboot" not in appraisal.facts
    assert appraisal.trust_vector[TrustClaim.EXECUTABLES] == 0


def test_genuine_gpu_with_both_manifests_compares_33_measurements():
    """The full offline appraisal states what a complete match shows."""
    appraisal = judge_case(load_case("nv-hopper-550-full-rim"))
    assert appraisal.facts["measurements_compared"] == 33
    assert appraisal.facts["dbgstat"] == "disabled"
    assert appraisal.facts["driver_version"] == "550.90.07"
    assert appraisal.facts["vbios_version"] == "96.00.9F.00.01"


@pytest.mark.parametrize(
    ("moment", "word"), [("2026-06-02T00:00:00Z", "expired"), ("2024-05-31T00:00:00Z", "not_yet")]
)
def test_genuine_manifests_hold_only_while_their_signer_is_valid(moment, word):
    """The same evidence is refused before and after the time of the manifests' signers."""
    case = load_case("nv-hopper-550-full-rim")
    assert outcome(judge_case({**case, "verify_at": moment})).startswith(word)


def test_genuine_manifest_for_another_driver_is_refused():
    """A good manifest of one driver does not speak for a report of another."""
    case, other = load_case("nv-hopper-590"), load_case("nv-hopper-550-full-rim")
    for name in ("driver_rim", "vbios_rim"):
        evidence = {**case["evidence"], name: other["evidence"][name]}
        assert outcome(judge_case({**case, "evidence": evidence})) == "measurement_mismatch"


def test_genuine_root_is_no_anchor_for_another_technology():
    """The manifests' root does not vouch for devices, nor the devices' root for manifests."""
    case = load_case("nv-hopper-590")
    swapped = tuple(dataclasses.replace(a, technology="nvidia-rim") for a in GENUINE_ANCHORS)
    appraisal = appraise_nvidia_document(
        DeviceDocument(case["evidence"]["evidence"]),
        anchors=swapped,
        expected=Expectation(),
        policy=AttestationPolicy(),
        at=AT,
    )
    assert outcome(appraisal) == "untrusted_root"


# -- Devices --------------------------------------------------------------------------------------


def test_development_device_is_good_under_its_policy_and_refused_by_default():
    """The class comes from the anchor, and the default policy accepts hardware only."""
    assert outcome(judge_device()) == "ok"
    refused = judge_device(policy=AttestationPolicy())
    assert outcome(refused) == "untrusted_root"
    assert refused.evidence_class is EvidenceClass.DEVELOPMENT


def test_report_gives_up_its_parts():
    """Nonces, measurements and the fields that are read come out as they were put in."""
    report = parse_report(gpu().report())
    assert (report.request_nonce, report.response_nonce) == (NONCE, DEVICE_NONCE)
    assert set(report.measurements) == {1, 2, 3, 36}


def test_newer_opaque_data_with_a_header_is_read():
    """The header of newer devices, with its value types, gives the same fields."""
    device = gpu(header=b"NVDAOD\x00\x00\x02\x00\x00\x00")
    assert outcome(judge_device(device)) == "ok"
    unknown = gpu(header=b"NVDAOD\x00\x00\x09\x00\x00\x00")
    assert outcome(judge_device(unknown)) == "unsupported"


def test_device_under_an_unknown_root_is_untrusted():
    """Perfect evidence under a root with the same names is refused by its key."""
    root = certify("DEVELOPMENT ONLY device root")
    intermediate = certify("DEVELOPMENT ONLY device CA", root)
    leaf = certify("DEVELOPMENT ONLY device", intermediate, ca=False, firmware=gpu().firmware)
    device = gpu(root=root, intermediate=intermediate, leaf=leaf)
    assert outcome(judge_device(device)) == "untrusted_root"


def test_path_without_an_issuer_is_malformed():
    """A path of one certificate is no path."""
    assert outcome(judge_device(path=pem(gpu().root))) == "malformed"


def test_device_certificate_of_another_issuer_is_refused():
    """The genuine root at the end of a path vouches for nothing it did not sign."""
    stranger = certify("DEVELOPMENT ONLY device CA")
    leaf = certify("DEVELOPMENT ONLY device", stranger, ca=False)
    assert outcome(judge_device(gpu(leaf=leaf))) == "bad_signature"


def test_device_that_issues_a_device_is_refused():
    """A device's key may not vouch for another device, whatever it signs."""
    device = gpu()
    child = certify("forged", device.leaf, ca=False, firmware=device.firmware)
    forged = gpu(leaf=child)
    path = pem(child, device.leaf, device.intermediate, device.root)
    assert outcome(judge_device(forged, path=path)) == "untrusted_root"


@pytest.mark.parametrize(
    ("starts", "ends", "word"),
    [(-9, -1, "expired"), (1, 9, "not_yet_valid")],
)
def test_device_certificate_is_judged_at_the_given_time(starts, ends, word):
    """Validity is asked at the time of judgement."""
    device = gpu()
    leaf = certify(
        "DEVELOPMENT ONLY device",
        device.intermediate,
        ca=False,
        firmware=device.firmware,
        starts=NOW + starts * DAY,
        ends=NOW + ends * DAY,
    )
    assert outcome(judge_device(gpu(leaf=leaf))) == word


def test_report_signed_by_another_key_is_refused():
    """A report that another device signed does not pass under this device's path."""
    device = gpu()
    other = certify("other", device.intermediate, ca=False, firmware=device.firmware)
    assert outcome(judge_device(device, path=gpu(leaf=other).path)) == "bad_signature"


def test_firmware_identity_must_be_the_certificates():
    """Firmware other than the certificate's is refused, and so is a certificate that names none."""
    device = gpu()
    device.opaque = [(kind, bytes(48) if kind == 20 else v) for kind, v in device.opaque]
    assert outcome(judge_device(device)) == "bad_binding"
    bare = certify("bare", device.intermediate, ca=False)
    assert outcome(judge_device(gpu(leaf=bare))) == "bad_binding"


def test_nonce_must_be_the_expected_one():
    """Another nonce is refused; without an expected one, freshness is a gap."""
    assert outcome(judge_device(gpu(nonce=bytes(32)))) == "nonce_mismatch"
    appraisal = judge_device(expected=Expectation())
    assert outcome(appraisal) == "ok"
    assert any("freshness" in gap for gap in appraisal.not_checked)


def test_device_nonce_must_be_there():
    """A response without a nonce of the device's is refused."""
    assert outcome(judge_device(gpu(device_nonce=bytes(32)))) == "attributes"


def test_what_the_format_cannot_hold_is_refused_where_it_is_expected():
    """Expected report data or a key never passes unnoticed on evidence without such fields."""
    data = Expectation(nonce=NONCE, report_data=b"x")
    assert outcome(judge_device(expected=data)) == "nonce_mismatch"
    key = Expectation(nonce=NONCE, public_key=b"x")
    assert outcome(judge_device(expected=key)) == "bad_binding"


@pytest.mark.parametrize("name", ["spdm_2", "spdm_9", "other"])
def test_registers_that_the_caller_names_must_have_an_accepted_value(name):
    """A register with another value, or none, is refused."""
    value = gpu().measurements[2].hex()
    accepted = {"spdm_2": frozenset({value})}
    assert outcome(judge_device(expected=Expectation(NONCE, measurements=accepted))) == "ok"
    refused = {name: frozenset({value if name != "spdm_2" else "00"})}
    expected = Expectation(NONCE, measurements=refused)
    assert outcome(judge_device(expected=expected)) == "measurement_mismatch"


def test_switch_is_what_it_signed_to_be():
    """An NVSwitch has a VBIOS manifest only, and cannot be shown as a GPU, nor a GPU as one."""
    rim = vbios_rim(switch())
    appraisal = judge_device(switch(), kind=DeviceKind.SWITCH, vbios_rim=rim)
    assert outcome(appraisal) == "ok"
    assert appraisal.technology == "nvidia-switch"
    assert appraisal.facts["secboot"] is True
    assert outcome(judge_device(switch())) == "bad_binding"
    assert outcome(judge_device(gpu(), kind=DeviceKind.SWITCH)) == "bad_binding"
    driver = judge_device(switch(), kind=DeviceKind.SWITCH, driver_rim=driver_rim(gpu()))
    assert outcome(driver) == "measurement_mismatch"


# -- Documents ------------------------------------------------------------------------------------


def document(*devices, **top):
    entries = [
        {
            "arch": "HOPPER",
            "nonce": "00",
            "evidence": base64.b64encode(device.report()).decode(),
            "certificate": base64.b64encode(device.path).decode(),
        }
        for device in devices
    ]
    return json.dumps({"evidence_list": entries, **top} if top else entries).encode()


def judge_document(data, **common):
    return appraise_nvidia_document(
        DeviceDocument(data),
        anchors=development_anchors(),
        expected=common.get("expected", EXPECTED),
        policy=DEVELOPMENT,
        at=AT,
    )


def second_gpu(**changes):
    device = gpu()
    leaf = certify("second", device.intermediate, ca=False, firmware=device.firmware)
    return gpu(leaf=leaf, **changes)


def test_document_of_several_devices_needs_all_of_them_good():
    """One refused device refuses the list; facts stand in order."""
    good = judge_document(document(gpu(), second_gpu()))
    assert outcome(good) == "ok"
    assert len(good.facts["devices"]) == 2
    assert outcome(judge_document(document(gpu(), second_gpu(nonce=bytes(32))))) == "nonce_mismatch"
    assert outcome(judge_document(document(second_gpu(nonce=bytes(32)), gpu()))) == "nonce_mismatch"


def test_document_that_shows_one_device_twice_is_refused():
    """One genuine GPU is not two."""
    assert outcome(judge_document(document(gpu(), gpu()))) == "bad_binding"


def test_document_forms_of_services_are_read():
    """A list within an object, with one architecture for all, is read as well."""
    assert outcome(judge_document(document(gpu(), arch="BLACKWELL", nonce="ff"))) == "ok"


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"[]", "malformed"),
        (b"{}", "malformed"),
        (b"[1]", "malformed"),
        (b'[{"evidence": "AA"}]', "malformed"),
        (b'[{"arch": "UNHEARD"}]', "unsupported"),
        (b'[{"arch": 1}]', "malformed"),
        (json.dumps([{"arch": "UNHEARD"}] * 65).encode(), "malformed"),
        (b"[" * 100_000, "malformed"),
        (b'[{"arch":"HOPPER","arch":"LS10"}]', "malformed"),
    ],
)
def test_document_of_another_form_is_refused(data, word):
    """What is no document of evidence is refused with its own reason."""
    assert outcome(judge_document(data)) == word


def test_nonce_in_the_document_counts_for_nothing():
    """A nonce echoed in JSON that the device did not sign does not make evidence fresh."""
    entry = json.loads(document(gpu(nonce=bytes(32))))[0]
    data = json.dumps([{**entry, "nonce": NONCE.hex()}]).encode()
    assert outcome(judge_document(data)) == "nonce_mismatch"


# -- Manifests ------------------------------------------------------------------------------------


def judge_full(device=None, *, driver=None, vbios=None, **changes):
    device = device or gpu()
    return judge_device(
        device,
        driver_rim=driver or driver_rim(device),
        vbios_rim=vbios or vbios_rim(device),
        **changes,
    )


def test_full_match_states_boot_and_debug():
    """Only a match of both manifests states secure boot and debug status."""
    appraisal = judge_full()
    assert outcome(appraisal) == "ok"
    assert appraisal.facts["measurements_compared"] == 3
    assert appraisal.facts["secboot"] is True
    partial = judge_device(driver_rim=driver_rim(gpu()))
    assert outcome(partial) == "ok"
    assert "secboot" not in partial.facts
    assert any("vbios-rim" in gap for gap in partial.not_checked)


def test_measurement_outside_the_alternatives_is_refused():
    """A measurement with none of its values, and one that the report lacks, are refused."""
    changed = gpu()
    changed.measurements = {**changed.measurements, 2: bytes(48)}
    assert outcome(judge_full(changed, vbios=vbios_rim(gpu()))) == "measurement_mismatch"
    lacking = gpu()
    lacking.measurements = {n: v for n, v in lacking.measurements.items() if n != 2}
    assert outcome(judge_full(lacking, vbios=vbios_rim(gpu()))) == "measurement_mismatch"


def test_video_decoder_is_not_compared_while_it_is_off():
    """The one measurement that may differ is listed, and only while the device says so."""
    good = gpu()
    off = gpu()
    off.measurements = {**off.measurements, 36: bytes(48)}
    assert outcome(judge_full(off, driver=driver_rim(good))) == "measurement_mismatch"
    off.opaque = [(kind, b"\x55" if kind == 11 else value) for kind, value in off.opaque]
    appraisal = judge_full(off, driver=driver_rim(good))
    assert outcome(appraisal) == "ok"
    assert any("video decoder" in gap for gap in appraisal.not_checked)


def test_index_active_in_both_manifests_is_refused():
    """Two manifests may not both speak for one measurement, even where they agree."""
    device = gpu()
    both = sign_manifest(manifest_text("96.00.9F.01.07", [resource(0, [device.measurements[1]])]))
    assert outcome(judge_full(device, vbios=both)) == "measurement_mismatch"


def test_manifests_without_an_active_measurement_are_refused():
    """Manifests that compare nothing are no match."""
    idle = [resource(0, [bytes(48)], active=False)]
    driver = sign_manifest(manifest_text("990.10.01", idle))
    vbios = sign_manifest(manifest_text("96.00.9F.01.07", idle))
    assert outcome(judge_full(driver=driver, vbios=vbios)) == "measurement_mismatch"


@pytest.mark.parametrize("name", ["driver_rim", "vbios_rim"])
def test_manifest_of_another_version_is_refused(name):
    """Good reference values of another version are not this device's."""
    make = {"driver_rim": driver_rim, "vbios_rim": vbios_rim}[name]
    appraisal = judge_device(**{name: make(gpu(), "1.2.3")})
    assert outcome(appraisal) == "measurement_mismatch"


def test_manifest_alone_is_appraised():
    """A manifest alone states its version; what it cannot hold must not be expected of it."""
    appraisal = judge_rim(driver_rim(gpu()))
    assert outcome(appraisal) == "ok"
    assert appraisal.facts["version"] == "990.10.01"
    assert outcome(judge_rim(driver_rim(gpu()), expected=EXPECTED)) == "bad_binding"
    assert outcome(judge_rim(driver_rim(gpu()), policy=AttestationPolicy())) == "untrusted_root"


def test_without_the_extra_a_manifest_is_never_good(monkeypatch):
    """Where XML signatures cannot be verified, the step is a gap with a hint, and never passed."""
    driver, vbios = driver_rim(gpu()), vbios_rim(gpu())
    monkeypatch.setitem(sys.modules, "signxml", None)
    appraisal = judge_full(driver=driver, vbios=vbios)
    assert any("verispect[gpu-rim]" in gap for gap in appraisal.not_checked)
    assert "secboot" not in appraisal.facts
    assert appraisal.trust_vector[TrustClaim.EXECUTABLES] == 0
    assert outcome(judge_rim(driver)) == "unsupported"


# -- Revocation -----------------------------------------------------------------------------------


def test_stored_ocsp_responses_are_verified():
    """Good responses close the gap; without them a policy that requires them refuses."""
    device = gpu()
    good = ocsp_response(device.intermediate, device.root)
    strict = dataclasses.replace(DEVELOPMENT, require_revocation=True)
    appraisal = judge_device(ocsp=(good,), policy=strict)
    assert outcome(appraisal) == "ok"
    assert not any("OCSP" in gap for gap in appraisal.not_checked)
    assert outcome(judge_device(policy=strict)) != "ok"


@pytest.mark.parametrize("status", [ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN])
def test_certificate_that_is_not_good_is_refused(status):
    """Revoked, on hold and unknown are refusals, also beside a good response."""
    device = gpu()
    bad = ocsp_response(device.intermediate, device.root, status=status)
    good = ocsp_response(device.intermediate, device.root)
    assert outcome(judge_device(ocsp=(bad,))) == "revoked"
    assert outcome(judge_device(ocsp=(good, bad))) == "revoked"


@pytest.mark.parametrize(("days", "word"), [(-9, "expired"), (1, "not_yet_valid")])
def test_ocsp_response_is_judged_at_the_given_time(days, word):
    """A response out of its time is refused rather than ignored."""
    device = gpu()
    response = ocsp_response(device.intermediate, device.root, updated=NOW + days * DAY)
    assert outcome(judge_device(ocsp=(response,))) == word


def test_ocsp_responder_must_be_certified_for_it():
    """A stranger, a device or a CA below may not speak for the issuer."""
    device = gpu()
    purposes = (ExtendedKeyUsageOID.OCSP_SIGNING,)
    for responder, word in (
        (certify("stranger", ca=False), "bad_signature"),
        (certify("no purpose", device.root, ca=False), "untrusted_root"),
        (certify("CA", device.root, purposes=purposes), "untrusted_root"),
        (certify("late", device.root, ca=False, purposes=purposes, ends=NOW - DAY), "expired"),
    ):
        response = ocsp_response(device.intermediate, device.root, responder=responder)
        assert outcome(judge_device(ocsp=(response,))) == word
    assert outcome(judge_device(ocsp=(b"\x30\x00",))) == "malformed"


def test_response_about_another_certificate_closes_no_gap():
    """A good answer about something else leaves the gap."""
    device = gpu()
    other = ocsp_response(certify("other", device.root), device.root)
    assert any("OCSP" in gap for gap in judge_device(ocsp=(other,)).not_checked)


# -- Tokens ---------------------------------------------------------------------------------------


def test_bundle_of_the_service_is_good():
    """A positive bundle under the pinned key is good, and says whose word it is."""
    appraisal = judge_token(bundle())
    assert outcome(appraisal) == "ok"
    assert appraisal.facts["devices"]["GPU-0"]["dbgstat"] == "disabled"
    assert any("service's word" in gap for gap in appraisal.not_checked)
    assert outcome(judge_token(bundle(), policy=AttestationPolicy())) == "untrusted_root"


def test_single_tokens_are_good_and_say_what_was_not_shown():
    """An overall token alone leaves its devices as a gap; a device's token stands for itself."""
    overall = overall_claims({"GPU-0": sign_token(device_claims())})
    appraisal = judge_token(sign_token(overall))
    assert outcome(appraisal) == "ok"
    assert any("single devices" in gap for gap in appraisal.not_checked)
    assert outcome(judge_token(sign_token(device_claims()))) == "ok"
    neither = {k: v for k, v in device_claims().items() if k != "measres"}
    assert outcome(judge_token(sign_token(neither))) == "negative_result"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"measres": "fail"}, "negative_result"),
        ({"measres": None}, "negative_result"),
        ({"secboot": False}, "attributes"),
        ({"dbgstat": "enabled"}, "debug"),
        ({"dbgstat": None}, "debug"),
        ({"x-nvidia-gpu-attestation-report-nonce-match": False}, "negative_result"),
        ({"x-nvidia-gpu-driver-rim-version-match": "true"}, "negative_result"),
        ({"eat_nonce": "00" * 32}, "bad_binding"),
        ({"eat_nonce": 7}, "malformed"),
        ({"iss": "https://elsewhere.example"}, "attributes"),
        ({"exp": AT // 1000}, "expired"),
        ({"nbf": AT // 1000 + 1}, "not_yet_valid"),
        ({"iat": AT // 1000 + 1}, "not_yet_valid"),
        ({"exp": 1.5}, "malformed"),
    ],
)
def test_device_token_with_a_bad_claim_is_refused(changes, word):
    """A good signature over a bad claim is a refusal of its own kind."""
    devices = {"GPU-0": sign_token(device_claims(**changes))}
    assert outcome(judge_token(bundle(devices))) == word


@pytest.mark.parametrize("result", [False, None, "true", 1])
def test_overall_result_must_be_true(result):
    """Anything but true is negative, whatever the signature."""
    devices = {"GPU-0": sign_token(device_claims())}
    overall = overall_claims(devices, **{"x-nvidia-overall-att-result": result})
    assert outcome(judge_token(bundle(devices, overall))) == "negative_result"


def test_debugging_is_a_decision_of_the_policy():
    """A debugged device is good only where the policy says so, and then contraindicated."""
    devices = {"GPU-0": sign_token(device_claims(dbgstat="enabled"))}
    policy = dataclasses.replace(DEVELOPMENT, allow_debug=True)
    appraisal = judge_token(bundle(devices), policy=policy)
    assert outcome(appraisal) == "ok"
    assert appraisal.trust_vector[TrustClaim.CONFIGURATION] == 96


def test_token_is_as_fresh_as_the_caller_asks():
    """Another nonce and a token older than the policy allows are refused."""
    assert outcome(judge_token(bundle(), expected=Expectation(bytes(32)))) == "nonce_mismatch"
    policy = dataclasses.replace(DEVELOPMENT, maximum_age_seconds=59)
    assert outcome(judge_token(bundle(), policy=policy)) == "not_fresh"
    registers = Expectation(NONCE, measurements={"spdm_1": frozenset({"00"})})
    assert outcome(judge_token(bundle(), expected=registers)) == "measurement_mismatch"


def test_key_set_that_ends_below_the_anchor_needs_the_stored_issuer():
    """A stored root closes the path only if its own key is the anchor."""
    root, intermediate, _ = service_keys()
    anchors = (anchor("nvidia-nras", root),)
    assert outcome(judge_token(bundle(), anchors=anchors)) == "untrusted_root"
    stored = judge_token(bundle(), anchors=anchors, issuers=(root.der,))
    assert outcome(stored) == "ok"
    stranger = certify("DEVELOPMENT ONLY service root")
    refused = judge_token(bundle(), anchors=anchors, issuers=(stranger.der, intermediate.der))
    assert outcome(refused) == "untrusted_root"


def test_signing_certificate_of_the_service_is_judged_at_the_given_time():
    """The service's short-lived key is refused once its certificate has expired."""
    root, intermediate, _ = service_keys()
    late = certify("late", intermediate, ca=False, ends=NOW - DAY)
    keys = key_set(jwk((root, intermediate, late)))
    token = sign_token(device_claims(), private=late.private)
    assert outcome(judge_token(token, keys=keys)) == "expired"


def test_device_certificate_must_be_for_signing_data():
    """A CA's certificate does not stand for a device, even under the right root."""
    device = gpu()
    for settings in ({"ca": True}, {"ca": False, "may_sign_certificates": True}):
        leaf = certify("wrong", device.intermediate, firmware=device.firmware, **settings)
        assert outcome(judge_device(gpu(leaf=leaf))) == "untrusted_root"


def test_manifests_of_a_lower_class_lower_the_class():
    """A device under a vendor's root with values of a development root is development evidence."""
    device = gpu()
    anchors = (
        dataclasses.replace(
            anchor("nvidia-gpu", device.root), evidence_class=EvidenceClass.HARDWARE
        ),
        anchor("nvidia-rim", manifest_keys()[0]),
    )
    rim = driver_rim(device)
    for data, word in ((None, "ok"), (rim, "untrusted_root")):
        appraisal = appraise_nvidia_gpu(
            DeviceEvidence(device.report(), device.path, driver_rim=data),
            anchors=anchors,
            expected=EXPECTED,
            policy=AttestationPolicy(),
            at=AT,
        )
        assert outcome(appraisal) == word


def test_revoked_signer_of_a_manifest_is_refused():
    """Stored responses count for the manifests' certificates as well."""
    _, intermediate, signer = manifest_keys()
    bad = ocsp_response(signer, intermediate, status=ocsp.OCSPCertStatus.REVOKED)
    assert outcome(judge_full(ocsp=(bad,))) == "revoked"
    good = ocsp_response(signer, intermediate)
    assert outcome(judge_full(ocsp=(good,))) == "ok"


def test_pinned_intermediate_is_pinned_with_its_dates(monkeypatch):
    """Where nothing signs the pinned certificate, only the one that is known may stand for it."""
    intermediate = service_keys()[1]
    known = {intermediate.key_digest: sha256(intermediate.der)}
    monkeypatch.setattr(paths, "GENUINE_INTERMEDIATES", known)
    assert outcome(judge_token(bundle())) == "ok"
    known[intermediate.key_digest] = sha256(b"the same key with later dates")
    assert outcome(judge_token(bundle())) == "bad_signature"


def test_root_must_carry_its_own_signature():
    """A root with the pinned key and other dates, signed by somebody else, is refused."""
    root, stranger = gpu().root, certify("DEVELOPMENT ONLY device root")
    public = type("Public", (), {"public_key": root.private.public_key})()
    forged = certify("DEVELOPMENT ONLY device root", stranger, private=public)
    assert forged.key_digest == root.key_digest
    assert outcome(judge_device(gpu(root=forged))) == "bad_signature"


def test_caches_never_change_a_verdict():
    """The same evidence has the same answer with and without remembered certificates."""
    moments = (AT, AT - 60 * 24 * 3600 * 1000, AT + 60 * 24 * 3600 * 1000, AT)
    warm = [judge_full(at=at).to_json()["reasonClass"] for at in moments]
    cold = []
    for at in moments:
        forget_certificates()
        cold.append(judge_full(at=at).to_json()["reasonClass"])
    assert warm == cold == ["ok", "not_yet_valid", "expired", "ok"]
