"""Attested receipts from end to end: a real gateway whose key a machine vouches for.

Two machines that are no hardware: an emulated enclave (class development) and a real software TPM
(class software). Each is accepted under the policy that names its class and refused by default.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from swtpm import require_swtpm, running_swtpm

from verispect.appraisal.attestation_trust import AttestationTrust
from verispect.appraisal.policy import ATTESTED, ATTESTED_DEVELOPMENT, ATTESTED_SOFTWARE, SIGNED
from verispect.appraisal.result import VerifiedReceipt
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.tpm import TpmAttester
from verispect.client.session import (
    Exchange,
    GatewayClient,
    now_milliseconds,
    verify_exchange,
)
from verispect.core.claims import Claim, Source
from verispect.core.encoding import from_base64url, to_base64url
from verispect.core.errors import Reason, RequestError, VerificationError
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.evidence.attestation import EvidenceClass
from verispect.evidence.technologies import own_anchors
from verispect.testing.served import ServedGateway
from verispect.testing.tiny_gguf import write_tiny_gguf


def register_model(gateway: ServedGateway) -> None:
    path = gateway.home / "tiny.gguf"
    write_tiny_gguf(path)
    gateway.run("models", "add", "--name", "tiny", "--file", str(path))


def ask(gateway: ServedGateway, assurance: str) -> Exchange:
    with GatewayClient(gateway.url) as client:
        return client.chat(
            "tiny",
            [{"role": "user", "content": "hello"}],
            assurance=assurance,
            options={"max_completion_tokens": 4, "temperature": 0},
        )


def verify(exchange: Exchange, root: TrustedRoot, policy) -> VerifiedReceipt:
    return verify_exchange(exchange, trusted_root=root, policy=policy, now=now_milliseconds())


@pytest.fixture(scope="module")
def enclave_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedGateway]:
    home = tmp_path_factory.mktemp("development")
    gateway = ServedGateway(home, "--attester", f"development:{home / 'enclave'}", "--threads", "1")
    register_model(gateway)
    with gateway:
        yield gateway


@pytest.fixture(scope="module")
def enclave_root(enclave_gateway: ServedGateway) -> TrustedRoot:
    home = enclave_gateway.home
    path = home / "root.json"
    enclave = ("--development-enclave", str(home / "enclave"))
    enclave_gateway.run("keys", "trusted-root", "--out", str(path), *enclave)
    return TrustedRoot.from_json(path.read_bytes())


def test_a_development_receipt_verifies_only_where_it_is_asked_for(enclave_gateway, enclave_root):
    """Accepted under the policy that names development, labelled so, and refused by default."""
    exchange = ask(enclave_gateway, "attested-development")
    verified = verify(exchange, enclave_root, ATTESTED_DEVELOPMENT)
    assert verified.result.evidence_classes == (EvidenceClass.DEVELOPMENT,)
    assert Source.HARDWARE in verified.result.claims[Claim.EXECUTION]
    for policy in (SIGNED, ATTESTED, ATTESTED_SOFTWARE):
        with pytest.raises(VerificationError) as caught:
            verify(exchange, enclave_root, policy)
        assert caught.value.reason is Reason.ATTESTATION_CLASS_REFUSED


def test_the_command_line_labels_development_evidence(enclave_gateway, enclave_root):
    """The table, the JSON and the refusal all name the class."""
    home = enclave_gateway.home
    exchange = ask(enclave_gateway, "attested-development")
    receipt = home / "receipt.cose"
    receipt.write_bytes(exchange.receipt)
    common = ("verify", str(receipt), "--trusted-root", str(home / "root.json"))
    shown = enclave_gateway.run(*common, "--policy", "attested-development")
    assert "hardware (class development)" in shown
    document = json.loads(
        enclave_gateway.run(*common, "--policy", "attested-development", "--json")
    )
    assert document["evidenceClasses"] == ["development"]
    with pytest.raises(AssertionError, match="attestation-class-refused"):
        enclave_gateway.run(*common, "--policy", "attested")


def test_evidence_is_of_one_inference_where_the_caller_wants_it(enclave_gateway, enclave_root):
    """The premium level names evidence of its own, which fits no other receipt."""
    receipts = []
    for _ in range(2):
        response = httpx.post(
            enclave_gateway.url + "/v1/chat/completions",
            json={
                "model": "tiny",
                "messages": [{"role": "user", "content": "hello"}],
                "max_tokens": 2,
            },
            headers={
                "verispect-assurance": "attested-development",
                "verispect-attestation": "inference",
            },
            timeout=60,
        )
        identifier = response.headers["verispect-inference"]
        data = enclave_gateway.receipt(f"{identifier}?evidence=attached")
        receipts.append(InferenceReceipt.parse(data))
    first, second = receipts
    assert first.evidence[0].profile == "verispect/inference-v1"
    assert first.evidence[0].digest() != second.evidence[0].digest()
    from verispect.appraisal.verifier import Verifier

    verifier = Verifier(enclave_root)
    now = now_milliseconds()
    verifier.verify(first, opened={}, policy=ATTESTED_DEVELOPMENT, now=now)
    swapped = replace(first.envelope, evidence=second.envelope.evidence)
    result = verifier.appraise(
        InferenceReceipt.parse(swapped.encode()), opened={}, policy=ATTESTED_DEVELOPMENT, now=now
    )
    assert result.reason is Reason.EVIDENCE_UNBOUND


def test_what_is_not_offered_is_refused_before_any_work(enclave_gateway):
    """A development enclave offers no hardware assurance, and no evidence without one."""
    for assurance in ("attested", "attested-software", "proven", "attestd"):
        with pytest.raises(RequestError, match="attested-development, signed"):
            ask(enclave_gateway, assurance)
    response = httpx.post(
        enclave_gateway.url + "/v1/chat/completions",
        json={"model": "tiny", "messages": [{"role": "user", "content": "hello"}]},
        headers={"verispect-attestation": "inference"},
    )
    assert response.status_code == 400


def test_fresh_evidence_carries_the_nonce(enclave_gateway):
    """`GET /v1/attestation` answers with the caller's nonce inside the document."""
    nonce = bytes(range(16))
    answer = httpx.get(
        enclave_gateway.url + "/v1/attestation", params={"nonce": to_base64url(nonce)}
    )
    document = answer.json()
    assert (document["kind"], document["class"]) == ("aws-nitro", "development")
    assert nonce in from_base64url(document["body"])
    assert httpx.get(enclave_gateway.url + "/v1/attestation?nonce=x").status_code == 400


def test_a_server_that_cannot_attest_does_not_start(tmp_path: Path):
    """Without the device there is no server: never a warning, never a weaker mode."""
    for choice in ("nitro", "tdx", "sev-snp", "tpm:swtpm:host=127.0.0.1,port=1", "sgx"):
        gateway = ServedGateway(tmp_path, "--attester", choice)
        with pytest.raises(AssertionError, match="attester-unavailable"):
            gateway.start()


def test_a_software_tpm_vouches_for_the_signing_key(tmp_path: Path):
    """A real TPM quote on a receipt: class software, by policy only, refused by default."""
    require_swtpm()
    with running_swtpm(tmp_path / "tpm") as tpm:
        gateway = ServedGateway(
            tmp_path, "--attester", f"software-tpm:{tpm.tcti}", "--threads", "1"
        )
        register_model(gateway)
        with gateway:
            exchange = ask(gateway, "attested-software")
            root = gateway.trusted_root()
        attester = TpmAttester(tmp_path / "state" / "tpm", tcti=tpm.tcti)
        key = attester.attestation_key()
    receipt = InferenceReceipt.parse(exchange.receipt)
    (entry,) = receipt.evidence
    assert entry.kind == "tpm2-quote"
    trust = AttestationTrust(
        anchors=own_anchors("tpm2-quote", {"ak": key.raw}),
        measurements={"tpm2-quote": quoted_registers(entry.body)},
    )
    trusting = TrustedRoot(root.issuer_keys, root.models, attestation=trust)
    verified = verify(exchange, trusting, ATTESTED_SOFTWARE)
    assert verified.result.evidence_classes == (EvidenceClass.SOFTWARE,)
    for policy, trusted in ((ATTESTED, trusting), (SIGNED, trusting), (ATTESTED_SOFTWARE, root)):
        with pytest.raises(VerificationError):
            verify(exchange, trusted, policy)
    others = {name: frozenset({"11" * 32}) for name in trust.measurements["tpm2-quote"]}
    elsewhere = replace(trust, measurements={"tpm2-quote": others})
    changed = replace(entry, body=entry.body[:-1] + bytes([entry.body[-1] ^ 1]))
    faults = (
        (exchange, TrustedRoot(root.issuer_keys, root.models, attestation=elsewhere)),
        (with_entries(exchange, changed), trusting),
        (with_entries(exchange), trusting),
    )
    reasons = []
    for shown, trusted in faults:
        with pytest.raises(VerificationError) as caught:
            verify(shown, trusted, ATTESTED_SOFTWARE)
        reasons.append(caught.value.reason)
    assert reasons == [
        Reason.ATTESTATION_MEASUREMENT_MISMATCH,
        Reason.EVIDENCE_UNBOUND,
        Reason.POLICY_UNMET,
    ]


def with_entries(exchange: Exchange, *entries: EvidenceEntry) -> Exchange:
    """Put other evidence beside the signed statement."""
    envelope = InferenceReceipt.parse(exchange.receipt).envelope
    rows = tuple(entry.to_row() for entry in entries)
    return replace(exchange, receipt=replace(envelope, evidence=rows).encode())


def quoted_registers(body: bytes) -> dict[str, frozenset[str]]:
    """Take the registers that were quoted as the reference values of this test."""
    from verispect.core.encoding import decode
    from verispect.evidence.tpm.quote import read_registers
    from verispect.evidence.tpm.structures import parse_quote

    files = decode(body)
    registers = read_registers(parse_quote(files["msg"]), files["pcrs"])
    return {name: frozenset({value.hex()}) for name, value in registers.items()}
