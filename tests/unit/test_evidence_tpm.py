"""TPM quotes: the cases, and one forgery for every numbered check."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from tee_vectors import case_ids, load_case, milliseconds
from tpm_keys import (
    AK_ATTRIBUTES,
    REGISTERS,
    MadeQuote,
    anchor_of,
    ecc_area,
    ecc_key,
    public_info,
    rsa_area,
    rsa_key,
    sign,
    sized,
)
from verispect.core.encoding import decode, encode, sha256
from verispect.core.errors import MalformedError, Reason, UnsupportedError, VerificationError
from verispect.evidence.attestation import (
    Anchor,
    AttestationAppraisal,
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Expectation,
    reason_class,
)
from verispect.evidence.tpm import (
    GENUINE_ANCHORS,
    TECHNOLOGY,
    TpmEvidence,
    anchor_for_activated_key,
    appraise_tpm,
    evidence_from_files,
    files_of,
    make_credential,
    qualifying_data,
)
from verispect.evidence.tpm.appraise import read_attestation_key
from verispect.evidence.tpm.structures import parse_public

AT = int(datetime(2025, 6, 1, tzinfo=UTC).timestamp() * 1000)
ANY_CLASS = AttestationPolicy(accepted_classes=frozenset(EvidenceClass))
MALFORMED = Reason.MALFORMED_EVIDENCE


def judge(
    evidence: TpmEvidence,
    *,
    anchors: tuple[Anchor, ...] | None = None,
    expected: Expectation | None = None,
    policy: AttestationPolicy = ANY_CLASS,
    at: int = AT,
) -> AttestationAppraisal:
    return appraise_tpm(
        evidence,
        anchors=(anchor_of(ecc_key()),) if anchors is None else anchors,
        expected=expected or Expectation(nonce=b"nonce"),
        policy=policy,
        at=at,
    )


@pytest.mark.parametrize("case_id", case_ids("tpm2-quote"))
def test_a_case_gives_its_result_and_reason(case_id: str) -> None:
    """Every case gives its stated result; `trust: dev` anchors the key as software."""
    case = load_case(case_id)
    anchors: tuple[Anchor, ...] = GENUINE_ANCHORS
    policy = AttestationPolicy()
    if case["policy"].get("trust") == "dev":
        key, _ = read_attestation_key(case["evidence"]["ak"])
        info = key.public_bytes(*_SPKI)
        anchors = (Anchor(TECHNOLOGY, sha256(info), EvidenceClass.SOFTWARE, "anchored"),)
        policy = ANY_CLASS
    appraisal = judge(
        evidence_from_files(case["evidence"]),
        anchors=anchors,
        expected=Expectation(nonce=bytes.fromhex(case["inputs"]["nonce"])),
        policy=policy,
        at=milliseconds(case["verify_at"]),
    )
    assert appraisal.verdict == case["expect"]
    assert reason_class(appraisal.reason) == case["reason"]


@pytest.mark.parametrize("scheme", ["ecdsa", "rsassa", "rsapss"])
def test_every_scheme_of_a_quote_verifies(scheme: str) -> None:
    """ECDSA, RSASSA and RSAPSS quotes verify, over a digest of their own hash."""
    made = MadeQuote(hash_name="sha384" if scheme == "rsapss" else "sha256")
    key = ecc_key() if scheme == "ecdsa" else rsa_key()
    area = ecc_area(key) if scheme == "ecdsa" else rsa_area(key)
    evidence = made.evidence(signature=made.signature(scheme), ak=area)
    appraisal = judge(evidence, anchors=(anchor_of(key),))
    assert appraisal.verdict is AttestationVerdict.ACCEPT, appraisal.checks
    assert appraisal.evidence_class is EvidenceClass.SOFTWARE
    assert appraisal.facts["pcrs"] == {"sha256:0": "00" * 32, "sha256:7": "22" * 32}


def test_a_bare_signature_is_one_with_sha256() -> None:
    """The plain values that tools write verify as well."""
    made = MadeQuote()
    bare = ecc_key().sign(made.attest(), ec.ECDSA(SHA256()))
    appraisal = judge(made.evidence(signature=bare, ak=public_info(ecc_key())))
    assert appraisal.verdict is AttestationVerdict.ACCEPT
    assert any(line.startswith("attributes") for line in appraisal.not_checked)
    rsassa = made.signature("rsassa")[6:]
    evidence = made.evidence(signature=rsassa, ak=public_info(rsa_key()))
    assert judge(evidence, anchors=(anchor_of(rsa_key()),)).verdict is AttestationVerdict.ACCEPT


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (MadeQuote(magic=0xFF544348), MALFORMED),
        (MadeQuote(kind=0x8017), MALFORMED),
        (MadeQuote(safe=2), MALFORMED),
        (MadeQuote(tail=b"\0"), MALFORMED),
        (MadeQuote(selection=struct.pack(">I", 17)), MALFORMED),
        (MadeQuote(selection=struct.pack(">IHB", 1, 0x000B, 9) + bytes(9)), MALFORMED),
        (
            MadeQuote(selection=struct.pack(">I", 2) + struct.pack(">HBB", 0x000B, 1, 1) * 2),
            MALFORMED,
        ),
        (
            MadeQuote(selection=struct.pack(">IHBB", 1, 0x0099, 1, 1)),
            Reason.UNSUPPORTED_ALGORITHM,
        ),
    ],
)
def test_a_signed_structure_out_of_form_is_no_quote(made: MadeQuote, reason: Reason) -> None:
    """Another structure, another type and bytes left over are refused although signed."""
    assert judge(made.evidence()).reason is reason


def test_nothing_is_trusted_without_an_anchor() -> None:
    """No vendor's root is built in, and the anchor's class and technology count."""
    evidence = MadeQuote().evidence()
    untrusted = judge(evidence, anchors=GENUINE_ANCHORS)
    assert untrusted.reason is Reason.ATTESTATION_ROOT_UNTRUSTED
    assert untrusted.evidence_class is None
    other = Anchor("aws-nitro", sha256(public_info(ecc_key())), EvidenceClass.HARDWARE, "other")
    assert judge(evidence, anchors=(other,)).reason is Reason.ATTESTATION_ROOT_UNTRUSTED
    refused = judge(evidence, policy=AttestationPolicy())
    assert refused.reason is Reason.ATTESTATION_CLASS_REFUSED


def test_the_key_signed_the_quote() -> None:
    """Another key's signature, and a scheme that is not the key's, are refused."""
    made = MadeQuote()
    other = made.evidence(signature=made.signature(key=ecc_key("other")))
    assert judge(other).reason is Reason.ATTESTATION_SIGNATURE_INVALID
    crossed = made.evidence(signature=made.signature("rsassa"))
    assert judge(crossed).reason is Reason.ATTESTATION_SIGNATURE_INVALID
    sha1 = struct.pack(">HH", 0x0018, 0x0004) + made.signature()[4:]
    assert judge(made.evidence(signature=sha1)).reason is Reason.UNSUPPORTED_ALGORITHM
    small = rsa_key(1024)
    weak = made.evidence(signature=made.signature("rsassa", small), ak=rsa_area(small))
    assert judge(weak, anchors=(anchor_of(small),)).reason is Reason.UNSUPPORTED_ALGORITHM


@pytest.mark.parametrize(
    "attributes",
    [
        *(AK_ATTRIBUTES & ~(1 << bit) for bit in (1, 4, 5, 16, 18)),
        AK_ATTRIBUTES | 1 << 17,
    ],
)
def test_an_unrestricted_key_proves_nothing(attributes: int) -> None:
    """A key that signs from outside, leaves its TPM or decrypts is refused though anchored."""
    evidence = MadeQuote().evidence(ak=ecc_area(ecc_key(), attributes))
    assert judge(evidence).reason is Reason.ATTESTATION_ATTRIBUTES


def test_freshness_and_the_guests_value_are_compared() -> None:
    """`extraData` is the nonce alone, or commits to value and nonce together."""
    evidence = MadeQuote().evidence()
    for expected in (
        Expectation(nonce=b"other"),
        Expectation(nonce=b"nonce", report_data=b""),
        Expectation(report_data=b"nonce"),
    ):
        assert judge(evidence, expected=expected).reason is Reason.ATTESTATION_NONCE_MISMATCH
    committed = MadeQuote(extra_data=qualifying_data(b"value", b"nonce")).evidence()
    both = Expectation(nonce=b"nonce", report_data=b"value")
    assert judge(committed, expected=both).verdict is AttestationVerdict.ACCEPT
    keyed = judge(evidence, expected=Expectation(public_key=b"key"))
    assert keyed.reason is Reason.ATTESTATION_BINDING_INVALID
    silent = judge(evidence, expected=Expectation())
    assert any(line.startswith("freshness") for line in silent.not_checked)


def test_no_split_of_value_and_nonce_collides() -> None:
    """Moving bytes between nonce and value changes the qualifying data."""
    assert qualifying_data(b"bc", b"a") != qualifying_data(b"c", b"ab")
    assert qualifying_data(b"", b"") == qualifying_data(b"", None)
    assert len(qualifying_data(b"x" * 1000, b"")) == 32


def test_registers_are_those_quoted() -> None:
    """Other, more or fewer values than quoted are refused; none at all is a gap."""
    made = MadeQuote()
    swapped = made.evidence(pcrs=REGISTERS[32:] + REGISTERS[:32])
    assert judge(swapped).reason is Reason.ATTESTATION_BINDING_INVALID
    for pcrs in (REGISTERS[:-1], REGISTERS + bytes(32), b""):
        assert judge(made.evidence(pcrs=pcrs)).reason is MALFORMED
    without = judge(made.evidence(pcrs=None))
    assert any(line.startswith("registers") for line in without.not_checked)


@pytest.mark.parametrize(
    ("measurements", "reason"),
    [
        ({"sha256:7": frozenset({"22" * 32})}, None),
        ({"sha256:7": frozenset({"23" * 32})}, Reason.ATTESTATION_MEASUREMENT_MISMATCH),
        ({"sha256:6": frozenset({"22" * 32})}, Reason.ATTESTATION_MEASUREMENT_MISMATCH),
        ({"sha1:7": frozenset({"22" * 20})}, Reason.ATTESTATION_MEASUREMENT_MISMATCH),
    ],
)
def test_a_required_register_must_be_quoted(
    measurements: dict[str, frozenset[str]], reason: Reason | None
) -> None:
    """A named register outside the selection fails, as does another value."""
    expected = Expectation(nonce=b"nonce", measurements=measurements)
    assert judge(MadeQuote().evidence(), expected=expected).reason is reason
    unread = judge(MadeQuote().evidence(pcrs=None), expected=expected)
    assert unread.reason is Reason.ATTESTATION_MEASUREMENT_MISMATCH


@pytest.mark.parametrize("key", [b"", b"-----BEGIN nothing", b"\x30\x03\x02\x01\x00", bytes(3000)])
def test_a_key_that_is_none_is_malformed(key: bytes) -> None:
    """Bytes that are no key are refused as such."""
    assert judge(MadeQuote().evidence(ak=key)).reason is MALFORMED


def test_what_is_too_large_or_of_another_kind_is_named() -> None:
    """Sizes have limits, and keys, curves, ciphers and names of other kinds are told apart."""
    large = b"-----BEGIN" + bytes(3000)
    assert "too large" in judge(MadeQuote().evidence(ak=large)).checks[-1].detail
    assert "2048" in judge(MadeQuote().evidence(quote=bytes(3000))).checks[-1].detail
    other = Ed25519PrivateKey.generate().public_key().public_bytes(*_SPKI)
    assert judge(MadeQuote().evidence(ak=other)).reason is Reason.UNSUPPORTED_ALGORITHM
    area, storage = ecc_area(ecc_key()), endorsement_area(ecc_key("ek"))
    for spoiled in (
        b"\x00\x08" + area[2:],  # A keyed hash.
        area[:16] + b"\x00\x20" + area[18:],  # Another curve.
        storage[:42] + b"\x00\x26" + storage[44:],  # Camellia.
    ):
        with pytest.raises(UnsupportedError):
            parse_public(spoiled)
    with pytest.raises(UnsupportedError):
        _ = parse_public(area[:2] + b"\x00\x0c" + area[4:]).name
    wide = parse_public(_p384_area(storage))
    with pytest.raises(UnsupportedError):
        make_credential(wide, b"name", secret=b"s", seed=bytes(32))
    selection = MadeQuote(selection=struct.pack(">IHB", 1, 0x000B, 9) + bytes(9))
    assert "no TPM has" in judge(selection.evidence()).checks[-1].detail
    path = (b"junk",) * 11
    unread = judge(MadeQuote().evidence(ak_certificates=path))
    assert any(line.startswith("certificates") for line in unread.not_checked)
    refused = judge(MadeQuote().evidence(ak_certificates=path), anchors=())
    assert "2 to 10" in refused.checks[-1].detail


def _p384_area(storage: bytes) -> bytes:
    """Return the area of a storage key on P-384."""
    numbers = ec.generate_private_key(ec.SECP384R1()).public_key().public_numbers()
    point = b"".join(sized(n.to_bytes(48, "big")) for n in (numbers.x, numbers.y))
    return storage[:50] + b"\x00\x04" + storage[52:54] + point


def test_a_public_area_must_state_its_own_size() -> None:
    """An RSA area of another stated size, or a point off its curve, is malformed."""
    area = bytearray(rsa_area(rsa_key()))
    area[16:18] = struct.pack(">H", 3072)
    with pytest.raises(MalformedError):
        parse_public(bytes(area))
    with pytest.raises(MalformedError):
        parse_public(ecc_area(ecc_key())[:-1] + b"\0")
    assert parse_public(sized(rsa_area(rsa_key()))).raw == rsa_area(rsa_key())


# -- Certificates -----------------------------------------------------------------------------


def certify(subject, issuer, *, ca: bool = False, usage: str = "digital_signature", end=2026):
    name = lambda text: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])  # noqa: E731
    uses = dict.fromkeys(_USES, False) | {"key_cert_sign" if ca else usage: True}
    builder = (
        x509.CertificateBuilder()
        .subject_name(name("root" if ca else "leaf"))
        .issuer_name(name("root"))
        .public_key(subject.public_key())
        .serial_number(5)
        .not_valid_before(datetime(2025, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(end, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), True)
        .add_extension(x509.KeyUsage(**uses), True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("tpm")]), not ca)
    )
    return builder.sign(issuer, SHA256()).public_bytes(Encoding.DER)


_USES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
_SPKI = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_a_certificate_below_an_anchor_vouches_for_the_key() -> None:
    """A path for the key gives the root's class; every fault of a path is refused."""
    root, key = ecc_key("root"), ecc_key()
    anchors = (anchor_of(root, EvidenceClass.HARDWARE),)
    top = certify(root, root, ca=True)
    good = (certify(key, root), top)
    trusted = judge(MadeQuote().evidence(ak_certificates=good), anchors=anchors)
    assert trusted.verdict is AttestationVerdict.ACCEPT, trusted.checks
    assert trusted.evidence_class is EvidenceClass.HARDWARE
    faults = {
        (certify(ecc_key("other"), root), top): Reason.ATTESTATION_BINDING_INVALID,
        (certify(key, ecc_key("other")), top): Reason.ATTESTATION_SIGNATURE_INVALID,
        (certify(key, root, usage="key_agreement"), top): Reason.ATTESTATION_ROOT_UNTRUSTED,
        (certify(key, root), certify(root, root)): Reason.ATTESTATION_SIGNATURE_INVALID,
        (top,): MALFORMED,
        (b"junk", top): MALFORMED,
    }
    for path, reason in faults.items():
        refused = judge(MadeQuote().evidence(ak_certificates=path), anchors=anchors)
        assert refused.reason is reason, refused.checks
    late = judge(MadeQuote().evidence(ak_certificates=good), anchors=anchors, at=AT + 10**11)
    assert late.reason is Reason.ATTESTATION_EXPIRED
    endorsed = judge(MadeQuote().evidence(ek_certificates=good), anchors=anchors)
    assert endorsed.reason is Reason.ATTESTATION_ROOT_UNTRUSTED


EK_ATTRIBUTES = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 17


def endorsement_area(key, attributes: int = EK_ATTRIBUTES) -> bytes:
    numbers = key.public_key().public_numbers()
    x, y = (sized(n.to_bytes(32, "big")) for n in (numbers.x, numbers.y))
    head = struct.pack(">HHI", 0x0023, 0x000B, attributes) + sized(bytes(32))
    return head + struct.pack(">HHHHHH", 6, 128, 0x0043, 0x0010, 0x0003, 0x0010) + x + y


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"returned": b"other"}, Reason.ATTESTATION_BINDING_INVALID),
        ({"secret": b"", "returned": b""}, Reason.ATTESTATION_BINDING_INVALID),
        ({"attestation_key": AK_ATTRIBUTES & ~(1 << 16)}, Reason.ATTESTATION_ATTRIBUTES),
        ({"endorsement_key": EK_ATTRIBUTES & ~(1 << 1)}, Reason.ATTESTATION_ATTRIBUTES),
        ({"endorsement_key": EK_ATTRIBUTES | 1 << 18}, Reason.ATTESTATION_ATTRIBUTES),
        ({"path_of": "other"}, Reason.ATTESTATION_BINDING_INVALID),
        ({"usage": "digital_signature"}, Reason.ATTESTATION_ROOT_UNTRUSTED),
        ({"root": "other"}, Reason.ATTESTATION_ROOT_UNTRUSTED),
        ({"end": 2025.5}, Reason.ATTESTATION_EXPIRED),
    ],
)
def test_activation_makes_an_anchor_of_its_roots_class(change: dict, reason: Reason | None) -> None:
    """An anchor is made where secret, attributes, certificate and root all hold."""
    root, key = ecc_key("root"), ecc_key("ek")
    leaf = certify(
        ecc_key(change.get("path_of", "ek")), root, usage=change.get("usage", "key_agreement")
    )
    arguments = {
        "attestation_key": parse_public(
            ecc_area(ecc_key(), change.get("attestation_key", AK_ATTRIBUTES))
        ),
        "endorsement_key": parse_public(
            endorsement_area(key, change.get("endorsement_key", EK_ATTRIBUTES))
        ),
        "endorsement_path": (leaf, certify(root, root, ca=True)),
        "secret": change.get("secret", b"secret"),
        "returned": change.get("returned", b"secret"),
        "anchors": (anchor_of(ecc_key(change.get("root", "root")), EvidenceClass.DEVELOPMENT),),
        "at": AT + 10**11 if "end" in change else AT,
    }
    if reason is None:
        anchor = anchor_for_activated_key(**arguments)
        assert anchor.evidence_class is EvidenceClass.DEVELOPMENT
        assert judge(MadeQuote().evidence(), anchors=(anchor,)).verdict is AttestationVerdict.ACCEPT
        return
    with pytest.raises(VerificationError) as refused:
        anchor_for_activated_key(**arguments)
    assert refused.value.reason is reason


def test_a_credential_needs_a_storage_key_and_full_randomness() -> None:
    """A signing key, a short seed and a long secret are refused."""
    storage = parse_public(endorsement_area(ecc_key("ek")))
    first = make_credential(storage, b"name", secret=b"s", seed=bytes(32))
    assert make_credential(storage, b"name", secret=b"s", seed=bytes(32)) == first
    assert make_credential(storage, b"other", secret=b"s", seed=bytes(32)) != first
    with pytest.raises(UnsupportedError):
        make_credential(parse_public(ecc_area(ecc_key())), b"name", secret=b"s", seed=bytes(32))
    for secret, seed in ((b"s", bytes(31)), (b"", bytes(32)), (bytes(33), bytes(32))):
        with pytest.raises(MalformedError):
            make_credential(storage, b"name", secret=secret, seed=seed)


def test_named_files_carry_all_of_a_quote() -> None:
    """Evidence survives being written as named files and read back."""
    root = ecc_key("root")
    path = (certify(ecc_key(), root), certify(root, root, ca=True))
    evidence = MadeQuote().evidence(ak_certificates=path, ek_certificates=path[:1])
    body, endorsements = files_of(evidence)
    files = {**decode(encode(body)), **decode(encode(endorsements))}
    assert evidence_from_files(files) == evidence
    for name in ("msg", "sig", "ak"):
        with pytest.raises(MalformedError):
            evidence_from_files({key: value for key, value in files.items() if key != name})
    with pytest.raises(MalformedError):
        evidence_from_files({**files, "ek_cert": b"-----BEGIN CERTIFICATE-----\nAAAA\n"})


def test_a_forged_structure_signed_by_the_key_itself_is_no_quote() -> None:
    """What an unrestricted key would sign from outside is told apart by its first bytes."""
    outside = b"\xff\x54\x43\x47\x80\x14" + MadeQuote().attest()[6:]
    evidence = MadeQuote().evidence(quote=outside, signature=sign(outside))
    assert judge(evidence).reason is MALFORMED
