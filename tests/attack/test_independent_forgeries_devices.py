"""GPU reports, reference manifests, event logs and services, forged and spliced by an outsider.

Reports are a genuine one taken apart, changed and signed with own keys under NVIDIA's names.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from typing import Any

import pytest
from independent_keys import JUNE_2025, IntelLookAlike, genuine_quote, issue, p384, raw_signature

from tee_vectors import load_case, read_vector
from verispect.core.errors import Reason
from verispect.evidence.attestation import (
    AttestationAppraisal,
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Expectation,
)
from verispect.evidence.nvidia import GENUINE_ANCHORS
from verispect.evidence.services.appraisal import ServiceAppraisal, appraise_service
from verispect.evidence.technologies import appraise_evidence

EVERY_CLASS = AttestationPolicy(accepted_classes=frozenset(EvidenceClass))
NONCE = bytes.fromhex("931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb")
FIRMWARE_ID, DRIVER, VBIOS = 20, 3, 6
MALFORMED, SIGNATURE = Reason.MALFORMED_EVIDENCE, Reason.ATTESTATION_SIGNATURE_INVALID
ROOT, BINDING = Reason.ATTESTATION_ROOT_UNTRUSTED, Reason.ATTESTATION_BINDING_INVALID
MISMATCH = Reason.ATTESTATION_MEASUREMENT_MISMATCH

DEVICE_ROOT = issue("NVIDIA Device Identity CA", None, ca=True, key=p384())
DEVICE_CA = issue("NVIDIA GH100 Provisioner ICA 1", DEVICE_ROOT, ca=True, key=p384())
DEVICE = issue("GH100 A01 GSP FMC LF", DEVICE_CA, key=p384())
PATH = (DEVICE.pem + DEVICE_CA.pem + DEVICE_ROOT.pem).encode()
RIM_ROOT = issue("NVIDIA CoRIM signing Root CA", None, ca=True, key=p384())
RIM_SIGNER = issue("NVIDIA RIM signer", RIM_ROOT, key=p384())


class Report:
    """A genuine report in its parts."""

    def __init__(self) -> None:
        data = read_vector("nvidia/hopper_550_report.bin")
        self.request, self.head, self.blocks = data[:37], data[37:41], data[41]
        length = int.from_bytes(data[42:45], "little")
        self.record, rest = data[45 : 45 + length], data[45 + length :]
        self.nonce, size = rest[:32], int.from_bytes(rest[32:34], "little")
        opaque, self.fields = rest[34 : 34 + size], []
        while opaque:
            kind, width = struct.unpack_from("<HH", opaque)
            self.fields.append((kind, opaque[4 : 4 + width]))
            opaque = opaque[4 + width :]

    def sign(self, without: tuple[int, ...] = (FIRMWARE_ID,), **parts: Any) -> bytes:
        """Put the parts together, some replaced, and sign them with the forger's device key."""
        fields = [field for field in self.fields if field[0] not in without]
        fields += parts.get("more", [])
        opaque = b"".join(struct.pack("<HH", kind, len(v)) + v for kind, v in fields)
        opaque += parts.get("opaque_end", b"")
        record = parts.get("record", self.record)
        length = parts.get("length", len(record))
        message = (
            parts.get("request", self.request)
            + self.head
            + bytes([parts.get("blocks", self.blocks)])
            + length.to_bytes(3, "little")
            + record
            + parts.get("nonce", self.nonce)
            + parts.get("opaque_length", len(opaque)).to_bytes(2, "little")
            + opaque
        )
        return message + raw_signature(DEVICE.key, message) + parts.get("end", b"")


@pytest.fixture
def report() -> Report:
    return Report()


def appraise_gpu(report: bytes, path: bytes = PATH, **files: bytes) -> AttestationAppraisal:
    return appraise_evidence(
        "nvidia-gpu",
        {"report": report, "chain": path, **files},
        anchors=[
            DEVICE_ROOT.anchor("nvidia-gpu"), RIM_ROOT.anchor("nvidia-rim"), *GENUINE_ANCHORS,
        ],
        expected=Expectation(nonce=NONCE),
        policy=EVERY_CLASS,
        at=JUNE_2025,
    )  # fmt: skip


def assert_refused(appraisal: AttestationAppraisal, reason: Reason) -> None:
    assert appraisal.verdict is AttestationVerdict.REJECT
    assert not appraisal.acceptable
    assert appraisal.reason is reason


def test_the_device_forger_is_able(report: Report) -> None:
    """A whole report under a trusted root is accepted as development, under NVIDIA's refused."""
    good = appraise_gpu(report.sign())
    assert good.verdict is AttestationVerdict.ACCEPT
    assert good.evidence_class is EvidenceClass.DEVELOPMENT
    files = {"report": report.sign(), "chain": PATH}
    for anchors in (None, [DEVICE_ROOT.anchor("nvidia-rim")], [DEVICE_ROOT.anchor("nvidia-nras")]):
        refused = appraise_evidence(
            "nvidia-gpu", files, anchors=anchors, expected=Expectation(), policy=EVERY_CLASS,
            at=JUNE_2025,
        )  # fmt: skip
        assert_refused(refused, ROOT)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"without": ()}, BINDING),
        ({"blocks": 0}, MALFORMED),
        ({"blocks": 255}, MALFORMED),
        ({"blocks": 63}, MALFORMED),
        ({"length": 1}, MALFORMED),
        ({"length": 0xFFFFFF}, MALFORMED),
        ({"nonce": bytes(32)}, Reason.ATTESTATION_ATTRIBUTES),
        ({"opaque_end": b"\x03"}, MALFORMED),
        ({"opaque_length": 1}, MALFORMED),
        ({"more": [(DRIVER, b"550.90.07\0")]}, MALFORMED),
        ({"without": (FIRMWARE_ID, DRIVER)}, BINDING),
        ({"end": b"\0"}, MALFORMED),
    ],
)
def test_a_well_signed_report_that_lies_about_itself_is_refused(
    report: Report, parts: dict[str, Any], reason: Reason
) -> None:
    """Counts, lengths, repeated fields and another firmware are refused under a good signature."""
    assert_refused(appraise_gpu(report.sign(**parts)), reason)


def test_measurement_blocks_do_not_overlap(report: Report) -> None:
    """A block that claims its neighbour's bytes, or its index, is malformed."""
    record = report.record
    longer = record[:2] + struct.pack("<H", 200) + record[4:]
    assert_refused(appraise_gpu(report.sign(record=longer)), MALFORMED)
    same = bytes([record[0] + 1]) + record[1:]
    assert_refused(appraise_gpu(report.sign(record=same)), MALFORMED)


def test_only_the_signed_nonce_of_the_request_is_fresh(report: Report) -> None:
    """The wanted nonce in the response, or put into the request after signing, is refused."""
    other = report.request[:4] + bytes(32) + report.request[36:]
    answer = report.sign(request=other, nonce=NONCE)
    assert_refused(appraise_gpu(answer), Reason.ATTESTATION_NONCE_MISMATCH)
    assert_refused(appraise_gpu(report.request + answer[37:]), SIGNATURE)


def test_paths_are_not_spliced(report: Report) -> None:
    """Own reports under genuine paths, own leaves above them and longer paths are refused."""
    genuine = read_vector("nvidia/hopper_550_chain.b64")
    first, *others = genuine.split(b"-----BEGIN CERTIFICATE-----")[1:]
    below = b"".join(b"-----BEGIN CERTIFICATE-----" + other for other in others)
    assert first
    for path, reason in (
        (genuine, SIGNATURE),
        (DEVICE.pem.encode() + below, SIGNATURE),
        (DEVICE.pem.encode() + genuine, SIGNATURE),
        (PATH + DEVICE_CA.pem.encode(), ROOT),
        (DEVICE.pem.encode() + PATH, SIGNATURE),
    ):
        assert_refused(appraise_gpu(report.sign(), path), reason)
    assert_refused(appraise_gpu(read_vector("nvidia/hopper_550_report.bin"), PATH), SIGNATURE)


# -- Reference manifests --------------------------------------------------------------------------


def genuine_rim() -> bytes:
    return read_vector("nvidia/rim_driver_GH100_550.90.07.xml")


def sign_rim(text: bytes) -> bytes:
    signxml, etree = pytest.importorskip("signxml"), pytest.importorskip("lxml.etree")
    root = etree.fromstring(text)
    for signature in root.findall("{http://www.w3.org/2000/09/xmldsig#}Signature"):
        root.remove(signature)
    signer = signxml.XMLSigner(
        method=signxml.methods.enveloped,
        signature_algorithm="ecdsa-sha384",
        digest_algorithm="sha384",
        c14n_algorithm="http://www.w3.org/TR/2001/REC-xml-c14n-20010315",
    )
    chain = [RIM_SIGNER.certificate, RIM_ROOT.certificate]
    return bytes(etree.tostring(signer.sign(root, key=RIM_SIGNER.key, cert=chain)))


def appraise_rim(rim: bytes, *, own: bool = True) -> AttestationAppraisal:
    anchors = [RIM_ROOT.anchor("nvidia-rim")] if own else []
    return appraise_evidence(
        "nvidia-rim", {"rim": rim}, anchors=[*anchors, *GENUINE_ANCHORS], expected=Expectation(),
        policy=EVERY_CLASS, at=JUNE_2025,
    )  # fmt: skip


def test_the_manifest_forger_is_able(report: Report) -> None:
    """An own manifest is accepted as development where its root is trusted, and nowhere else."""
    rim = sign_rim(genuine_rim())
    assert appraise_rim(rim).evidence_class is EvidenceClass.DEVELOPMENT
    assert_refused(appraise_rim(rim, own=False), ROOT)
    appraisal = appraise_gpu(report.sign(), driver_rim=rim)
    assert appraisal.evidence_class is EvidenceClass.DEVELOPMENT


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"550.90.07"', b'"550.90.08"', SIGNATURE),
        (b'"550.90.07"', b'"550.<!-- -->90.07"', MALFORMED),
        (b"<ns0:Payload", b"<?x y?><ns0:Payload", MALFORMED),
        (b"<Soft", b'<!DOCTYPE a [<!ENTITY x "y">]><Soft', MALFORMED),
        (b'URI=""', b'URI="file:///etc/passwd"', SIGNATURE),
        (b'URI=""', b'URI="#a"', SIGNATURE),
        (b"2000/09/xmldsig#enveloped-signature", b"TR/1999/REC-xslt-19991116", SIGNATURE),
        (b"2001/04/xmldsig-more#ecdsa-sha384", b"2000/09/xmldsig#hmac-sha1",
         Reason.UNSUPPORTED_ALGORITHM),
        (b'name="GH100"', b'name="' + b"A" * (1 << 24) + b'"', MALFORMED),
        (b"<ns0:Payload", b"<a>" * 200 + b"</a>" * 200 + b"<ns0:Payload", MALFORMED),
        (b"<ns0:Payload", b"<x/>" * 9000 + b"<ns0:Payload", MALFORMED),
    ],
)  # fmt: skip
def test_a_genuine_manifest_is_not_rearranged(old: bytes, new: bytes, reason: Reason) -> None:
    """A genuine manifest with text, references, transforms or structure changed is refused."""
    assert old in genuine_rim()
    assert_refused(appraise_rim(genuine_rim().replace(old, new, 1)), reason)


def test_a_signature_covers_the_place_where_it_stands() -> None:
    """The genuine signature moved inside, doubled or wrapped with its document is refused."""
    whole = genuine_rim()
    found = re.search(rb"<ds:Signature .*</ds:Signature>", whole, re.DOTALL)
    assert found is not None
    before, signature, after = whole[: found.start()], found.group(), whole[found.end() :]
    evil = before.replace(b"550.90.07", b"550.90.99")
    wrapped = signature.replace(
        b"</ds:Signature>", b"<ds:Object>" + whole + b"</ds:Object></ds:Signature>"
    )
    inside = before.replace(b"</ns0:Payload>", signature + b"</ns0:Payload>")
    for text in (inside + after, before + signature * 2 + after, evil + wrapped + after):
        assert_refused(appraise_rim(text), SIGNATURE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'alternatives="1"', b'alternatives="0"'),
        (b'alternatives="1"', b'alternatives="2"'),
        (b'alternatives="1"', b'alternatives="-1"'),
        (b'index="1"', b'index="0"'),
        (b'index="1"', b'index="999"'),
        (b'index="1"', 'index="\u0661"'.encode()),
        (b'active="False"', b'active="FALSE"'),
        (b' active="False"', b""),
        (b'size="48"', b'size="0"'),
        (b"<ns0:Payload", b'<ns0:Meta colloquialVersion="1"/><ns0:Payload'),
        (b"<ns0:Meta ", b'<Meta xmlns="urn:x" '),
    ],
)
def test_a_well_signed_manifest_that_reads_two_ways_is_malformed(old: bytes, new: bytes) -> None:
    """Empty, repeated or odd values are malformed even under a good signature."""
    assert old in genuine_rim()
    assert_refused(appraise_rim(sign_rim(genuine_rim().replace(old, new, 1))), MALFORMED)


def test_a_manifest_of_another_version_or_part_is_refused(report: Report) -> None:
    """A manifest for another driver, for the VBIOS, or with nothing active shows nothing."""
    other = sign_rim(genuine_rim().replace(b"550.90.07", b"550.90.08"))
    idle = sign_rim(genuine_rim().replace(b'active="True"', b'active="False"'))
    vbios = read_vector("nvidia/rim_vbios_1010_0200_882_96009F0001.xml")
    for rim in (other, idle, vbios):
        assert_refused(appraise_gpu(report.sign(), driver_rim=rim), MISMATCH)


# -- Services -------------------------------------------------------------------------------------

COMPOSE = b"services: good"


def _event(name: str, payload: bytes) -> dict[str, Any]:
    return {"imr": 3, "event_type": 0x08000001, "event": name, "event_payload": payload.hex()}


def _digest(name: str, payload: bytes) -> bytes:
    return hashlib.sha384(b"\x01\x00\x00\x08:" + name.encode() + b":" + payload).digest()


class Service:
    """A NEAR-like service on an own Intel machine beside a genuine GPU."""

    def __init__(self) -> None:
        self.intel = IntelLookAlike()
        self.nonce = bytes.fromhex(load_case("nv-hopper-590")["inputs"]["nonce"])
        self.gpus = json.loads(read_vector("nvidia/hopper_evidence_590.json"))
        self.entry: dict[str, Any] = {
            "signing_address": "0x" + "11" * 20,
            "tls_cert_fingerprint": "22" * 32,
            "request_nonce": self.nonce.hex(),
            "info": {"tcb_info": {"app_compose": COMPOSE.decode()}},
        }

    def appraise(
        self, *extended: bytes, gpus: Any = None, mine: bytes | None = None, **changes: Any
    ) -> ServiceAppraisal:
        bound = hashlib.sha256(b"\x11" * 20 + b"\x22" * 32).digest() + self.nonce
        register = bytes(48)
        for digest in extended:
            register = hashlib.sha384(register + digest).digest()
        body = bytearray(genuine_quote()[48:632])
        body[472:520], body[520:584] = register, bound
        listed = {"arch": "HOPPER", "evidence_list": self.gpus if gpus is None else gpus}
        entry = self.entry | {
            "intel_quote": self.intel.quote(body=bytes(body)).hex(),
            "nvidia_payload": json.dumps(listed),
        }
        return appraise_service(
            json.dumps({"model_attestations": [entry | changes]}).encode(),
            profile="near/tls-v1",
            endorsements={"collateral": self.intel.collateral()},
            anchors=[
                self.intel.root.anchor("intel-tdx", EvidenceClass.HARDWARE),
                DEVICE_ROOT.anchor("nvidia-gpu"), *GENUINE_ANCHORS,
            ],
            expected=Expectation(nonce=self.nonce if mine is None else mine),
            policy=EVERY_CLASS,
            at=JUNE_2025,
        )  # fmt: skip

    def own_gpu(self, report: Report, *, switch: bool = False) -> dict[str, str]:
        """Return an own device's answer to the service's nonce."""
        request = report.request[:4] + self.nonce + report.request[36:]
        without = (FIRMWARE_ID, DRIVER, VBIOS) if switch else (FIRMWARE_ID,)
        return {
            "arch": "LS10" if switch else "HOPPER",
            "evidence": base64.b64encode(report.sign(without, request=request)).decode(),
            "certificate": base64.b64encode(PATH).decode(),
        }


def test_the_whole_is_of_the_class_of_its_weakest_part(report: Report) -> None:
    """A development GPU beside a hardware CPU makes a development service and nothing better."""
    service = Service()
    del service.entry["info"]
    honest = service.appraise().whole
    assert honest.verdict is AttestationVerdict.ACCEPT
    assert honest.evidence_class is EvidenceClass.HARDWARE
    weak = service.appraise(gpus=[service.own_gpu(report)]).whole
    assert weak.verdict is AttestationVerdict.ACCEPT
    assert weak.evidence_class is EvidenceClass.DEVELOPMENT


def test_gpus_of_others_are_spliced_into_no_service(report: Report) -> None:
    """A GPU with another nonce, one GPU twice, and a switch for a GPU are refused as no link."""
    service = Service()
    stale = json.loads(json.dumps(service.own_gpu(report)))
    stale["evidence"] = base64.b64encode(report.sign()).decode()
    switch = service.own_gpu(report, switch=True)
    for gpus in ([stale], [*service.gpus, *service.gpus], [switch]):
        assert_refused(service.appraise(gpus=gpus).whole, BINDING)


def test_what_a_service_says_beside_its_quote_is_not_signed() -> None:
    """Another key, another fingerprint and a nonce that is only repeated in JSON are refused."""
    service = Service()
    mine = b"\x55" * 32
    for changes, reason in (
        ({"signing_address": "0x" + "33" * 20}, BINDING),
        ({"tls_cert_fingerprint": "33" * 32}, BINDING),
        ({"mine": mine}, Reason.ATTESTATION_NONCE_MISMATCH),
        ({"mine": mine, "request_nonce": mine.hex()}, Reason.ATTESTATION_NONCE_MISMATCH),
        ({"signing_address": "MzMz"}, MALFORMED),
        ({"intel_quote": "ab"}, MALFORMED),
    ):
        assert_refused(service.appraise(**changes).whole, reason)


def test_a_relabelled_event_hides_nothing() -> None:
    """A log that tells the real workload under another type puts no second one in its place."""
    service = Service()
    bad, good = hashlib.sha256(b"bad").digest(), hashlib.sha256(COMPOSE).digest()
    extended = (_digest("compose-hash", bad), _digest("compose-hash", good))
    honest = [_event("compose-hash", bad), _event("compose-hash", good)]
    assert_refused(service.appraise(*extended, event_log=honest).whole, MISMATCH)
    hidden = [{"imr": 3, "event_type": 1, "event": "", "digest": extended[0].hex()}, honest[1]]
    found = service.appraise(*extended, event_log=hidden).whole
    assert any(gap.startswith("workload: the event log") for gap in found.not_checked)
    assert not any("the one of the event log" in check.detail for check in found.checks)
