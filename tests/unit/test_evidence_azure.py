"""Azure vTPM evidence: the cases, our own machine, and one forgery for every numbered check."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass, field, replace

import pytest

from sev_snp_platform import AT, Platform, development_anchor
from tee_vectors import case_ids, load_case, milliseconds, read_vector
from tpm_keys import MadeQuote, ecc_key, rsa_key, sign
from verispect.core.encoding import sha256, to_base64url
from verispect.core.errors import Error, MalformedError, Reason, UnsupportedError
from verispect.evidence.attestation import (
    AttestationAppraisal,
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Expectation,
    reason_class,
)
from verispect.evidence.azure import AzureEvidence, appraise_azure, read_bundle

DEVELOPMENT = AttestationPolicy(accepted_classes=frozenset({EvidenceClass.DEVELOPMENT}))
USER_DATA = bytes(range(64))
GENUINE_AT = milliseconds("2025-06-01T00:00:00Z")
MALFORMED = Reason.MALFORMED_EVIDENCE


def jwk(key, name: str = "HCLAkPub") -> dict:
    numbers = key.public_key().public_numbers()
    n = numbers.n.to_bytes(key.key_size // 8, "big")
    return {"kid": name, "kty": "RSA", "e": "AQAB", "n": to_base64url(n)}


@dataclass(frozen=True)
class Machine:
    """A machine of ours; `replace` one thing to forge."""

    platform: Platform = field(default_factory=Platform)
    runtime: bytes = b""
    header: dict[int, int] = field(default_factory=dict)
    """32-bit words of the report's header by offset, instead of right ones."""
    binding: bytes | None = None
    quote: MadeQuote = field(default_factory=MadeQuote)
    tail: bytes = bytes(100)

    def runtime_data(self) -> bytes:
        members = {
            "keys": [jwk(rsa_key()), jwk(rsa_key(), "HCLEkPub")],
            "vm-configuration": {"secure-boot": True},
            "user-data": USER_DATA.hex().upper(),
        }
        return self.runtime or json.dumps(members).encode()

    def hcl_report(self) -> bytes:
        runtime = self.runtime_data()
        bound = self.binding or sha256(runtime).ljust(64, b"\0")
        hardware = replace(self.platform, report_data=bound).report()
        size = 20 + len(runtime)
        made = bytearray(b"HCLA" + struct.pack("<7I", 1, 32 + 1184 + size, 2, 0, 0, 0, 0))
        made += hardware + struct.pack("<5I", size, 1, 2, 1, len(runtime)) + runtime + self.tail
        for offset, word in self.header.items():
            struct.pack_into("<I", made, offset, word)
        return bytes(made)

    def evidence(self, **changes) -> AzureEvidence:
        snp = self.platform.evidence()
        whole = AzureEvidence(
            hcl_report=self.hcl_report(),
            quote=self.quote.attest(),
            signature=self.quote.signature("rsassa"),
            pcrs=tuple(b"\x22" * 32 if index == 7 else bytes(32) for index in range(24)),
            certificate=snp.certificate,
            signer=snp.signer,
            root=snp.root,
        )
        return replace(whole, **changes)


def judge(
    evidence: AzureEvidence,
    *,
    expected: Expectation | None = None,
    policy: AttestationPolicy = DEVELOPMENT,
) -> AttestationAppraisal:
    return appraise_azure(
        evidence,
        anchors=(development_anchor(),),
        expected=expected or Expectation(nonce=b"nonce"),
        policy=policy,
        at=AT,
    )


@pytest.mark.parametrize("case_id", case_ids("azure-vtpm"))
def test_a_case_gives_its_result_and_reason(case_id: str) -> None:
    """Every case of the vectors gives its stated result and reason class."""
    case = load_case(case_id)
    appraisal = appraise_azure(
        read_bundle(case["evidence"]["bundle"]),
        expected=Expectation(nonce=bytes.fromhex(case["inputs"]["nonce"])),
        policy=AttestationPolicy(),
        at=milliseconds(case["verify_at"]),
    )
    assert appraisal.verdict == case["expect"]
    assert reason_class(appraisal.reason) == case["reason"]


@pytest.mark.parametrize("layout", ["azure/snp_v0.json", "azure/snp_v2.json"])
def test_a_genuine_machine_is_hardware(layout: str) -> None:
    """Both layouts of genuine bundles are of class hardware, and the paravisor is named."""
    appraisal = appraise_azure(
        read_bundle(read_vector(layout)),
        expected=Expectation(),
        policy=AttestationPolicy(),
        at=GENUINE_AT,
    )
    assert appraisal.verdict is AttestationVerdict.ACCEPT
    assert appraisal.evidence_class is EvidenceClass.HARDWARE
    assert len(appraisal.facts["pcrs"]) == 24
    assert appraisal.facts["configuration"]["secure-boot"] is True
    assert any(line.startswith("paravisor") for line in appraisal.not_checked)


def test_a_report_and_a_quote_of_two_machines_are_not_one() -> None:
    """The quote of one genuine machine beside the report of another is refused."""
    first, second = (read_bundle(read_vector(f"azure/snp_{v}.json")) for v in ("v0", "v2"))
    spliced = replace(first, quote=second.quote, signature=second.signature, pcrs=second.pcrs)
    appraisal = appraise_azure(
        spliced, expected=Expectation(), policy=AttestationPolicy(), at=GENUINE_AT
    )
    assert appraisal.reason is Reason.ATTESTATION_SIGNATURE_INVALID
    other_chip = replace(first, certificate=second.certificate)
    appraisal = appraise_azure(
        other_chip, expected=Expectation(), policy=AttestationPolicy(), at=GENUINE_AT
    )
    assert appraisal.reason is Reason.ATTESTATION_SIGNATURE_INVALID


def test_a_machine_of_ours_is_development() -> None:
    """Our own machine verifies under our root only, as development and not more."""
    evidence = Machine().evidence()
    appraisal = judge(evidence)
    assert appraisal.verdict is AttestationVerdict.ACCEPT, appraisal.checks
    assert appraisal.evidence_class is EvidenceClass.DEVELOPMENT
    assert appraisal.facts["user_data"] == USER_DATA.hex()
    assert judge(evidence, policy=AttestationPolicy()).reason is Reason.ATTESTATION_CLASS_REFUSED
    default = appraise_azure(
        evidence, expected=Expectation(nonce=b"nonce"), policy=DEVELOPMENT, at=AT
    )
    assert default.reason is Reason.ATTESTATION_ROOT_UNTRUSTED


RUNTIME = 32 + 1184


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (Machine(header={0: 0x41424344}), MALFORMED),
        (Machine(header={4: 3}), Reason.UNSUPPORTED_VERSION),
        (Machine(header={8: 1}), MALFORMED),
        (Machine(header={16: 1}), MALFORMED),
        (Machine(header={20: 1}), MALFORMED),
        (Machine(header={RUNTIME: 21}), MALFORMED),
        (Machine(header={RUNTIME + 4: 2}), Reason.UNSUPPORTED_VERSION),
        (Machine(header={RUNTIME + 8: 1}), Reason.UNSUPPORTED_EVIDENCE),
        (Machine(header={RUNTIME + 12: 2}), Reason.UNSUPPORTED_ALGORITHM),
        (Machine(header={RUNTIME + 16: 5}), MALFORMED),
        (Machine(tail=b"\1"), MALFORMED),
        (Machine(tail=bytes(20000)), MALFORMED),
        (Machine(runtime=b"{}"), MALFORMED),
        (Machine(runtime=b"[1]"), MALFORMED),
        (Machine(runtime=b'{"keys":[],"keys":[]}'), MALFORMED),
        (Machine(runtime=json.dumps({"keys": [jwk(rsa_key())] * 2}).encode()), MALFORMED),
        (Machine(runtime=b'{"keys":[{"kid":"HCLAkPub","kty":"EC"}]}'), MALFORMED),
        (
            Machine(runtime=b'{"keys":[{"kid":"HCLAkPub","kty":"RSA","n":"AQAB","e":"A"}]}'),
            MALFORMED,
        ),
        (
            Machine(runtime=json.dumps({"keys": [jwk(rsa_key())], "user-data": "00"}).encode()),
            MALFORMED,
        ),
        (
            Machine(
                runtime=json.dumps({"keys": [jwk(rsa_key())], "vm-configuration": []}).encode()
            ),
            MALFORMED,
        ),
    ],
)
def test_a_report_out_of_form_is_refused(machine: Machine, reason: Reason) -> None:
    """A header, a length or runtime data out of form is refused."""
    assert judge(machine.evidence()).reason is reason


def test_the_hardware_vouches_for_the_runtime_data() -> None:
    """A field that is not the digest, or is followed by anything, binds nothing."""
    stranger = Machine(binding=bytes(64))
    assert judge(stranger.evidence()).reason is Reason.ATTESTATION_BINDING_INVALID
    tail = Machine(binding=sha256(Machine().runtime_data()) + b"\1".rjust(32, b"\0"))
    assert judge(tail.evidence()).reason is Reason.ATTESTATION_BINDING_INVALID


def test_the_hardware_is_judged_by_its_own_rules() -> None:
    """A debug guest, a floor and a missing certificate are decided as for a bare report."""
    debug = Machine(platform=Platform(policy=0xB0000))
    assert judge(debug.evidence()).reason is Reason.ATTESTATION_DEBUG
    below = judge(Machine().evidence(), policy=replace(DEVELOPMENT, minimum_tcb={"snp": 99}))
    assert below.verdict is AttestationVerdict.POLICY
    assert below.tcb_status == "OutOfDate"
    assert judge(Machine().evidence(certificate=None)).reason is MALFORMED


def test_the_runtime_datas_key_signed_the_quote() -> None:
    """A quote by another key, or in another scheme, is refused."""
    made = MadeQuote()
    by_other = Machine().evidence(signature=sign(made.attest(), "rsassa", rsa_key(3072)))
    assert judge(by_other).reason is Reason.ATTESTATION_SIGNATURE_INVALID
    pss = Machine().evidence(signature=made.signature("rsapss"))
    assert judge(pss).reason is Reason.UNSUPPORTED_ALGORITHM
    curve = Machine().evidence(signature=made.signature(key=ecc_key()))
    assert judge(curve).reason is Reason.UNSUPPORTED_ALGORITHM


@pytest.mark.parametrize(
    ("expected", "reason"),
    [
        (Expectation(nonce=b"nonce", report_data=USER_DATA), None),
        (Expectation(nonce=b"other"), Reason.ATTESTATION_NONCE_MISMATCH),
        (Expectation(report_data=bytes(64)), Reason.ATTESTATION_NONCE_MISMATCH),
        (Expectation(report_data=USER_DATA[:32]), Reason.ATTESTATION_NONCE_MISMATCH),
        (Expectation(public_key=b"k"), Reason.ATTESTATION_BINDING_INVALID),
        (Expectation(measurements={"sha256:7": frozenset({"22" * 32})}), None),
        (
            Expectation(measurements={"sha256:7": frozenset({"00" * 32})}),
            Reason.ATTESTATION_MEASUREMENT_MISMATCH,
        ),
        (
            Expectation(measurements={"sha256:1": frozenset({"00" * 32})}),
            Reason.ATTESTATION_MEASUREMENT_MISMATCH,
        ),
        (Expectation(measurements={"measurement": frozenset({"11" * 48})}), None),
        (
            Expectation(measurements={"measurement": frozenset({"00" * 48})}),
            Reason.ATTESTATION_MEASUREMENT_MISMATCH,
        ),
    ],
)
def test_what_is_expected_is_compared(expected: Expectation, reason: Reason | None) -> None:
    """Nonce, user data, registers that were quoted and the hardware's registers are compared."""
    assert judge(Machine().evidence(), expected=expected).reason is reason


def test_registers_are_those_quoted() -> None:
    """Another value, or too few, is refused; none at all is a gap."""
    evidence = Machine().evidence()
    altered = (b"\1" * 32, *evidence.pcrs[1:])
    assert judge(replace(evidence, pcrs=altered)).reason is Reason.ATTESTATION_BINDING_INVALID
    assert judge(replace(evidence, pcrs=evidence.pcrs[:7])).reason is MALFORMED
    assert judge(replace(evidence, pcrs=(bytes(32),) * 25)).reason is MALFORMED
    unread = judge(replace(evidence, pcrs=()))
    assert any(line.startswith("registers") for line in unread.not_checked)


def td_machine(td_report: bytes) -> bytes:
    """Return an HCL report over a TDX machine's own report."""
    runtime = Machine().runtime_data()
    size = 20 + len(runtime)
    head = b"HCLA" + struct.pack("<7I", 1, 32 + 1184 + size, 2, 0, 0, 0, 0)
    return head + td_report + struct.pack("<5I", size, 1, 4, 1, len(runtime)) + runtime


def test_a_tdx_quote_of_another_machine_is_refused() -> None:
    """A genuine TDX quote whose field is not the digest of the runtime data binds nothing."""
    evidence = AzureEvidence(
        hcl_report=td_machine(bytes(1184)),
        quote=MadeQuote().attest(),
        signature=MadeQuote().signature("rsassa"),
        td_quote=read_vector("dcap/quotes/tdx_v4_phala_uptodate.bin"),
        collateral=read_vector("dcap/collateral/b0c06f_2025-06.json"),
    )
    appraisal = appraise_azure(
        evidence,
        expected=Expectation(nonce=b"nonce"),
        policy=AttestationPolicy(),
        at=milliseconds("2025-06-26T21:55:59Z"),
    )
    assert appraisal.reason is Reason.ATTESTATION_BINDING_INVALID, appraisal.checks
    assert appraisal.evidence_class is EvidenceClass.HARDWARE
    assert "another TDREPORT" in appraisal.checks[-1].detail
    field = bytes.fromhex(appraisal.facts["hardware"]["report_data"])
    same = td_machine(bytes(128) + field + bytes(1184 - 192))
    appraisal = appraise_azure(
        replace(evidence, hcl_report=same),
        expected=Expectation(nonce=b"nonce"),
        policy=AttestationPolicy(),
        at=milliseconds("2025-06-26T21:55:59Z"),
    )
    assert appraisal.reason is Reason.ATTESTATION_BINDING_INVALID
    assert "runtime data" in appraisal.checks[-1].detail
    without = judge(replace(evidence, collateral=None))
    assert without.reason is MALFORMED
    padded = replace(evidence, hcl_report=td_machine(bytes(1183) + b"\1"))
    assert judge(padded).reason is MALFORMED


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"version": 3}, UnsupportedError),
        ({"version": True}, UnsupportedError),
        ({"hcl_report": "a+b/"}, MalformedError),
        ({"hcl_report": 5}, MalformedError),
        ({"tpm_quote": []}, MalformedError),
        ({"tpm_quote": {"message": "zz"}}, MalformedError),
        ({"tpm_quote": {"message": "00", "signature": "00", "pcrs": 5}}, MalformedError),
        (
            {"tpm_quote": {"message": "00", "signature": "00", "pcrs": ["00" * 32] * 25}},
            MalformedError,
        ),
        ({"tpm_quote": {"message": "00", "signature": "00", "pcrs": ["00"]}}, MalformedError),
        ({"td_quote": "AAAA"}, Error),
    ],
)
def test_a_bundle_out_of_form_is_refused(change: dict, error: type[Error]) -> None:
    """Another version, another alphabet or a member of another type is refused."""
    bundle = json.loads(read_vector("azure/snp_v2.json"))
    with pytest.raises(error):
        read_bundle(json.dumps({**bundle, **change}).encode())


def test_the_layouts_carry_the_same_evidence() -> None:
    """One machine in three layouts reads as the same evidence."""
    evidence = read_bundle(read_vector("azure/snp_v2.json"))
    certificate = base64.encodebytes(evidence.certificate or b"").decode()
    quote = {
        "message": list(evidence.quote),
        "signature": list(evidence.signature),
        "pcrs": [list(value) for value in evidence.pcrs],
    }
    pem = f"-----BEGIN CERTIFICATE-----\n{certificate}-----END CERTIFICATE-----\n"
    zero = {"quote": quote, "report": list(evidence.hcl_report), "vcek": pem}
    assert read_bundle(json.dumps(zero).encode()) == evidence
    one = json.loads(read_vector("azure/snp_v2.json")) | {"version": 1}
    assert read_bundle(json.dumps(one).encode()) == evidence
    for spoiled in (
        {"report": [256]},
        {"report": [True]},
        {"vcek": pem * 2},
        {"vcek": "no"},
        {"vcek": 5},
    ):
        with pytest.raises(MalformedError):
            read_bundle(json.dumps(zero | spoiled).encode())
