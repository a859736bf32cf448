"""The development enclave: the form of genuine documents, a CA of one's own, refused by default."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cbor2
import pytest
from cryptography import x509

from nitro_forgery import parts
from tee_vectors import read_vector
from verispect.attesters.development_enclave import (
    CA_FILE,
    DevelopmentEnclave,
    DevelopmentEnclaveAttester,
    EnclaveMeasurements,
    encode_document,
    encode_payload,
)
from verispect.core.errors import MalformedError, Reason, RequestError, StoreError
from verispect.evidence.attestation import (
    AttestationAppraisal,
    AttestationPolicy,
    EvidenceClass,
    Expectation,
)
from verispect.evidence.nitro.appraise import GENUINE_ANCHORS, NitroEvidence, appraise_nitro

NOW = 1_790_000_000_123
HOUR = 3_600_000
MEASURED = EnclaveMeasurements(b"image", b"kernel", b"application", role="role/of-the-machine")
DEVELOPMENT = AttestationPolicy(accepted_classes=frozenset({EvidenceClass.DEVELOPMENT}))


@pytest.fixture
def enclave(tmp_path: Path) -> DevelopmentEnclave:
    return DevelopmentEnclave.create(tmp_path / "enclave", NOW, measurements=MEASURED)


def attest(enclave: DevelopmentEnclave, now: int = NOW) -> bytes:
    return enclave.attest(user_data=b"data", nonce=b"nonce", public_key=b"key", now=now)


def appraise(document: bytes, **changes) -> AttestationAppraisal:
    arguments = {"expected": Expectation(), "policy": DEVELOPMENT, "at": NOW} | changes
    return appraise_nitro(NitroEvidence(document), **arguments)


def test_its_document_is_accepted_under_an_explicit_development_policy(
    enclave: DevelopmentEnclave,
) -> None:
    """With the anchor named and the class accepted, everything matches and says development."""
    result = appraise(
        attest(enclave),
        anchors=[*GENUINE_ANCHORS, enclave.anchor()],
        expected=Expectation(
            nonce=b"nonce",
            report_data=b"data",
            public_key=b"key",
            measurements={name: frozenset({v}) for name, v in enclave.registers().items()},
        ),
    )
    assert result.reason is None
    assert result.evidence_class is EvidenceClass.DEVELOPMENT
    assert result.facts["module_id"] == enclave.module_id


def test_its_document_is_refused_by_default(enclave: DevelopmentEnclave) -> None:
    """Without the anchor the root is unknown; with it the default policy refuses the class."""
    document = attest(enclave)
    unknown = appraise(document, anchors=GENUINE_ANCHORS)
    assert unknown.reason is Reason.ATTESTATION_ROOT_UNTRUSTED
    refused = appraise(document, anchors=[enclave.anchor()], policy=AttestationPolicy())
    assert refused.reason is Reason.ATTESTATION_CLASS_REFUSED


def test_the_encoder_writes_genuine_documents_byte_for_byte() -> None:
    """A genuine document, taken apart by another library, comes out of the encoder unchanged."""
    document = read_vector("nitro/dstack_a.cose")
    payload, signature = parts(document)
    assert encode_payload(cbor2.loads(payload)) == payload
    assert encode_document(payload, signature) == document


def test_its_documents_have_the_order_and_shape_of_genuine_ones(
    enclave: DevelopmentEnclave,
) -> None:
    """Keys, registers, digest and number of certificates are those of the device."""
    genuine = cbor2.loads(parts(read_vector("nitro/dstack_a.cose"))[0])
    payload, _ = parts(attest(enclave))
    made = cbor2.loads(payload)
    assert payload[0] == 0xBF
    assert list(made) == list(genuine)
    assert list(made["pcrs"]) == list(genuine["pcrs"])
    assert made["digest"] == genuine["digest"]
    assert len(made["cabundle"]) == len(genuine["cabundle"])
    assert len(made["module_id"]) == len(genuine["module_id"])


def _extensions(certificate: x509.Certificate) -> dict:
    skipped = (x509.CRLDistributionPoints, x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier)
    return {
        extension.oid: (extension.critical, extension.value)
        for extension in certificate.extensions
        if not isinstance(extension.value, skipped)
    }


def test_its_certificates_have_the_extensions_and_lives_of_genuine_ones(
    enclave: DevelopmentEnclave,
) -> None:
    """Constraints and usages are equal at each place; the leaf lives three hours and seconds."""
    pair = []
    for document in (attest(enclave), read_vector("nitro/dstack_a.cose")):
        payload = cbor2.loads(parts(document)[0])
        ders = [*payload["cabundle"], payload["certificate"]]
        pair.append([x509.load_der_x509_certificate(der) for der in ders])
    for made, genuine in zip(*pair, strict=True):
        assert _extensions(made) == _extensions(genuine)
    made, genuine = pair[0][-1], pair[1][-1]
    assert (
        made.not_valid_after_utc - made.not_valid_before_utc
        == genuine.not_valid_after_utc - genuine.not_valid_before_utc
    )


def test_every_certificate_says_development_only_and_none_names_a_vendor(
    enclave: DevelopmentEnclave,
) -> None:
    """Issuer and subject of each carry the mark; nothing of AWS or Amazon is in the document."""
    document = attest(enclave)
    payload = cbor2.loads(parts(document)[0])
    for der in [*payload["cabundle"], payload["certificate"]]:
        certificate = x509.load_der_x509_certificate(der)
        for name in (certificate.subject, certificate.issuer):
            text = name.rfc4514_string()
            assert "DEVELOPMENT ONLY" in text
            assert not any(word in text.lower() for word in ("aws", "amazon", "nitro"))
    assert b"amazon" not in document.lower()


def test_registers_are_computed_as_the_device_computes_them(enclave: DevelopmentEnclave) -> None:
    """A register is a zero register extended once by the digest of what was measured."""
    registers = enclave.registers()
    measured = hashlib.sha384(b"image").digest()
    assert registers["pcr0"] == hashlib.sha384(bytes(48) + measured).hexdigest()
    role = hashlib.sha384(bytes(48) + b"role/of-the-machine").hexdigest()
    assert registers["pcr3"] == role
    instance = hashlib.sha384(bytes(48) + enclave.instance_id.encode()).hexdigest()
    assert registers["pcr4"] == instance
    assert len(registers) == 16


def test_other_software_has_other_registers(tmp_path: Path) -> None:
    """What runs decides the registers; without a word about it, this package's files do."""
    DevelopmentEnclave.create(tmp_path, NOW)
    this = DevelopmentEnclave.load(tmp_path).registers()
    assert this == DevelopmentEnclave.load(tmp_path).registers()
    other = DevelopmentEnclave.load(tmp_path, measurements=MEASURED).registers()
    assert {name for name in this if this[name] != other[name]} == {"pcr0", "pcr1", "pcr2", "pcr3"}


def test_a_loaded_enclave_has_the_anchor_and_identity_of_the_created_one(tmp_path: Path) -> None:
    """The CA outlives the process; documents before and after verify under one anchor."""
    created = DevelopmentEnclave.create(tmp_path, NOW, measurements=MEASURED)
    loaded = DevelopmentEnclave.load(tmp_path, measurements=MEASURED)
    assert loaded.anchor() == created.anchor()
    for enclave in (created, loaded):
        assert appraise(attest(enclave), anchors=[created.anchor()]).reason is None


def test_two_installations_do_not_trust_each_other(tmp_path: Path) -> None:
    """Each installation has a CA of its own."""
    one = DevelopmentEnclave.create(tmp_path / "one", NOW, measurements=MEASURED)
    two = DevelopmentEnclave.create(tmp_path / "two", NOW, measurements=MEASURED)
    result = appraise(attest(one), anchors=[two.anchor()])
    assert result.reason is Reason.ATTESTATION_ROOT_UNTRUSTED


def test_documents_verify_days_later_because_the_chain_is_renewed(
    enclave: DevelopmentEnclave,
) -> None:
    """A document verifies when it is made, for ten minutes after, and not the next day."""
    attest(enclave)
    for hours in (1, 2.9, 5, 24, 24 * 30):
        later = NOW + int(hours * HOUR)
        document = attest(enclave, later)
        assert appraise(document, anchors=[enclave.anchor()], at=later).reason is None
        assert appraise(document, anchors=[enclave.anchor()], at=later + 600_000).reason is None
        stale = appraise(document, anchors=[enclave.anchor()], at=later + 24 * HOUR)
        assert stale.reason is Reason.ATTESTATION_EXPIRED


def test_the_key_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    """The file has mode 0600, and one that others may read is refused."""
    DevelopmentEnclave.create(tmp_path, NOW)
    path = tmp_path / CA_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(StoreError):
        DevelopmentEnclave.load(tmp_path)


def test_a_ca_is_never_written_over(tmp_path: Path) -> None:
    """A second creation in one directory is refused and changes nothing."""
    anchor = DevelopmentEnclave.create(tmp_path, NOW).anchor()
    with pytest.raises(StoreError):
        DevelopmentEnclave.create(tmp_path, NOW)
    assert DevelopmentEnclave.load(tmp_path).anchor() == anchor


def test_a_missing_or_damaged_ca_is_refused(tmp_path: Path) -> None:
    """No file, noise, half a file and another's certificate are our own errors."""
    with pytest.raises(StoreError):
        DevelopmentEnclave.load(tmp_path)
    DevelopmentEnclave.create(tmp_path / "one", NOW)
    DevelopmentEnclave.create(tmp_path / "two", NOW)
    path = tmp_path / "one" / CA_FILE
    key, certificate = (part.encode() for part in path.read_text().split("-----BEGIN CERT"))
    other = (tmp_path / "two" / CA_FILE).read_text().split("-----BEGIN CERT")[1].encode()
    for content in (b"", b"noise", key, b"-----BEGIN CERT" + certificate, bytes(20_000)):
        path.write_bytes(content)
        with pytest.raises(MalformedError):
            DevelopmentEnclave.load(tmp_path / "one")
    path.write_bytes(key + b"-----BEGIN CERT" + other)
    with pytest.raises(MalformedError):
        DevelopmentEnclave.load(tmp_path / "one")


@pytest.mark.parametrize("field", ["user_data", "nonce", "public_key"])
def test_fields_have_the_limit_of_the_format(enclave: DevelopmentEnclave, field: str) -> None:
    """1,024 bytes fit, one more is refused before anything is signed."""
    fields = {"user_data": None, "nonce": None, "public_key": None}
    document = enclave.attest(**fields | {field: bytes(1024)}, now=NOW)
    assert appraise(document, anchors=[enclave.anchor()]).facts[field] == "00" * 1024
    with pytest.raises(RequestError):
        enclave.attest(**fields | {field: bytes(1025)}, now=NOW)


def test_as_an_attester_it_binds_the_report_data(enclave: DevelopmentEnclave) -> None:
    """`report_data` stands in the user data, the given nonce and key in their fields."""
    attester = DevelopmentEnclaveAttester(enclave, clock=lambda: NOW, public_key=b"key")
    evidence = attester.attest(b"bound", b"fresh")
    assert evidence.kind == attester.technology == "aws-nitro"
    result = appraise(
        evidence.body,
        anchors=[enclave.anchor()],
        expected=Expectation(nonce=b"fresh", report_data=b"bound", public_key=b"key"),
    )
    assert result.reason is None
