"""Attested answers of a gateway whose attester, kept evidence or callers misbehave."""

from __future__ import annotations

import base64
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from own_forging import nitro_document

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
from running_gateway import run_gateway

from tee_vectors import milliseconds, read_vector
from verispect.appraisal.attestation_trust import AttestationTrust
from verispect.appraisal.policy import ATTESTED
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.interface import AttestationEvidence
from verispect.core.encoding import from_base64url
from verispect.core.errors import AttesterError, Reason
from verispect.core.receipt import InferenceReceipt
from verispect.evidence.attested import appraise_field
from verispect.evidence.azure import read_bundle
from verispect.evidence.azure.hcl_report import parse_hcl_report, read_runtime_data
from verispect.gateway import attestation as gateway_attestation
from verispect.testing.echo_model import EchoLanguageModel

CHAT = "/v1/chat/completions"
ASK = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}
WORDS = {"verispect-assurance": "attested-development"}


class Removable:
    """An attester whose device can be taken away."""

    name = "removable"
    technology = "aws-nitro"

    def __init__(self):
        self.present = True
        self.asked = []

    def attest(self, field, nonce):
        self.asked.append((field, nonce))
        if not self.present:
            raise AttesterError("the device is gone", reason=Reason.ATTESTER_UNAVAILABLE)
        body = nitro_document(user_data=field, nonce=nonce)
        return AttestationEvidence("aws-nitro", body, b"")


@pytest.fixture
def attester():
    return Removable()


@pytest.fixture
def gateway(tmp_path, attester):
    with run_gateway(tmp_path, EchoLanguageModel(), attester=attester) as running:
        yield running


def _kinds(answer):
    receipt = InferenceReceipt.parse(from_base64url(answer.json()["verispect"]["receipt"]))
    return [promise.kind for promise in receipt.unverified_statement.evidence]


def test_nothing_leaves_as_attested_once_the_device_is_gone(gateway, attester, monkeypatch):
    """An answer whose evidence is due and cannot be made must be an error, never a weaker yes."""
    with gateway.http() as client:
        good = client.post(CHAT, json=ASK, headers=WORDS)
        assert (good.status_code, _kinds(good)) == (200, ["signature", "aws-nitro"])
        attester.present = False
        monkeypatch.setattr(gateway_attestation, "RENEW_SECONDS", -1)
        one = {**WORDS, "verispect-attestation": "inference"}
        for headers in (WORDS, one):
            refused = client.post(CHAT, json=ASK, headers=headers)
            assert refused.status_code >= 500
            assert "verispect" not in refused.json()
        streamed = client.post(CHAT, json={**ASK, "stream": True}, headers=WORDS)
        assert b"attester-unavailable" in streamed.content
        assert b'"delta"' not in streamed.content
        assert b'"receipt"' not in streamed.content
        assert client.get("/v1/attestation").status_code >= 500
        # What never asked for evidence goes on.
        assert _kinds(client.post(CHAT, json=ASK)) == ["signature"]


@pytest.mark.parametrize(
    ("header", "member", "status"),
    [
        ("attested-development", None, 200),
        (None, "attested-development", 200),
        ("attested-development", "signed", 400),
        ("signed", "attested-development", 400),
        ("Attested-Development", None, 400),
        (None, "ATTESTED-DEVELOPMENT", 400),
        ("attested", None, 400),
        ("attested-software", None, 400),
        ("attested-development+signed", None, 200),
        ("attested-development", "attested-development ", 400),
        ("attested+attested", None, 400),
        (None, "", 400),
        ("hardware", None, 400),
    ],
)
def test_only_the_very_word_asks_for_the_assurance_on_offer(gateway, header, member, status):
    """Another case, a sum, another class and two words that differ must be refused before work."""
    headers = {} if header is None else {"verispect-assurance": header}
    body = ASK if member is None else {**ASK, "assurance": member}
    with gateway.http() as client:
        answer = client.post(CHAT, json=body, headers=headers)
    assert answer.status_code == status, answer.text
    if status == 200:
        assert "aws-nitro" in _kinds(answer)


def test_own_evidence_is_not_had_without_asking_for_assurance(gateway):
    """A wish for evidence beside `signed`, or a misspelt one, must be refused, not passed over."""
    with gateway.http() as client:
        for headers in (
            {"verispect-attestation": "inference"},
            {"verispect-attestation": "session"},
            {**WORDS, "verispect-attestation": "Inference"},
            {**WORDS, "verispect-attestation": ""},
        ):
            assert client.post(CHAT, json=ASK, headers=headers).status_code == 400


def test_odd_nonces_are_refused_and_no_nonce_leaves_a_file(gateway, attester, tmp_path):
    """Doubled, huge and odd nonces must be refused, and good ones must not fill the disk."""
    good = base64.urlsafe_b64encode(b"n" * 64).decode().rstrip("=")
    with gateway.http() as client:
        for query in (
            f"nonce={good}&nonce={good}",
            "nonce=" + "A" * 4000,
            "nonce=" + "A" * 88,
            "nonce=AA",
            "nonce=",
            "nonce=%00%00%00%00%00%00%00%00%00%00%00",
        ):
            assert client.get(f"/v1/attestation?{query}").status_code in (400, 414), query
        assert not attester.asked
        for _ in range(3):
            assert client.get(f"/v1/attestation?nonce={good}").status_code == 200
    assert not list((tmp_path / "evidence").iterdir())


def test_a_callers_nonce_never_makes_the_field_of_a_session(gateway, attester):
    """A nonce that is a field or a whole binding must give another field: it is hashed in."""
    with gateway.http() as client:
        client.get("/v1/attestation")
        session = attester.asked[0][0]
        for nonce in (session, session[:32], b"verispect/key-v1\0"):
            text = base64.urlsafe_b64encode(nonce).decode().rstrip("=")
            assert client.get(f"/v1/attestation?nonce={text}").status_code == 200
    fields = [field for field, _ in attester.asked]
    assert len(set(fields)) == len(fields) == 4


def test_damaged_evidence_on_disk_is_not_handed_out(gateway, tmp_path):
    """Kept evidence with a byte changed, cut or exchanged must not be attached to a receipt."""
    with gateway.http() as client:
        inference = client.post(CHAT, json=ASK, headers=WORDS).json()["verispect"]["inference"]
        path = f"/v1/receipts/{inference}?evidence=attached"
        whole = InferenceReceipt.parse(client.get(path).content)
        assert [entry.kind for entry in whole.evidence] == ["aws-nitro"]
        file = next((tmp_path / "evidence").glob("*.cbor"))
        data = file.read_bytes()
        middle = len(data) // 2
        for damaged in (data[:-9], b"", data[:middle] + b"\xff" + data[middle + 1 :], b"\x80"):
            file.write_bytes(damaged)
            answer = client.get(path)
            assert answer.status_code >= 500
            assert data[100:200] not in answer.content
        file.unlink()
        assert not InferenceReceipt.parse(client.get(path).content).evidence


def test_a_receipt_without_evidence_stays_one_when_it_is_asked_for(gateway):
    """Attaching evidence to a signed receipt must add nothing, and leave its bytes as they were."""
    with gateway.http() as client:
        client.post(CHAT, json=ASK, headers=WORDS)
        inference = client.post(CHAT, json=ASK).json()["verispect"]["inference"]
        bare = client.get(f"/v1/receipts/{inference}").content
        for query in ("attached", "Attached", "all", "../x"):
            assert client.get(f"/v1/receipts/{inference}?evidence={query}").content == bare


def test_a_vtpm_quote_that_does_not_speak_of_the_key_is_refused():
    """Genuine registers of an earlier start beside a new key must be refused on a receipt.

    Report and quote are two things: the report names the key, and only the quote the registers.
    """
    bundle = read_vector("azure/snp_v2.json")
    report = parse_hcl_report(read_bundle(bundle).hcl_report)
    field = read_runtime_data(report.runtime_data).user_data
    measurement = report.hardware_report[0x90:0xC0].hex()
    pcr = read_bundle(bundle).pcrs[4].hex()
    known = {"measurement": frozenset({measurement}), "sha256:4": frozenset({pcr})}
    root = TrustedRoot(
        [], attestation=AttestationTrust(("azure-vtpm",), measurements={"azure-vtpm": known})
    )
    appraisal = appraise_field(
        "azure-vtpm",
        {"bundle": bundle},
        field,
        anchors=root,
        policy=replace(ATTESTED.attestation, maximum_age_seconds=None),
        at=milliseconds("2025-06-01T00:00:00Z"),
    )
    assert appraisal.reason is Reason.ATTESTATION_NONCE_MISMATCH
    assert "qualifying data" in next(c.detail for c in appraisal.checks if c.reason)
