"""X.509 paths: vendors' own chains hold, and what the caches remember decides nothing."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from nitro_forgery import LEAF, NOW, PATH, ROOT, ZONE, Forger, Link, build, changed
from tee_vectors import read_vector
from verispect.core.encoding import sha256
from verispect.core.errors import Error, MalformedError, Reason, VerificationError
from verispect.evidence.attestation import Anchor, EvidenceClass
from verispect.evidence.certificates import (
    MAX_CERTIFICATE_BYTES,
    MAX_CHAIN_CERTIFICATES,
    check_chain_validity,
    check_end_entity,
    check_validity,
    find_anchor,
    forget_certificates,
    load_certificate,
    spki_digest,
    verify_chain,
    verify_issued_by,
)


def test_a_chain_with_serial_number_zero_and_pss_holds() -> None:
    """AMD's certificates are read without a warning, and their RSA-PSS signatures verify."""
    names = (
        "roots/amd_milan_ark.der",
        "roots/amd_milan_ask.der",
        "snp/certs/milan_v2_debug.vcek.der",
    )
    forget_certificates()
    path = [load_certificate(read_vector(name)) for name in names]
    assert path[-1].serial_number == 0
    verify_chain(path, key_usage_required=False)
    with pytest.raises(VerificationError) as refused:
        verify_chain(path)
    assert refused.value.reason is Reason.ATTESTATION_ROOT_UNTRUSTED


def test_the_chain_of_another_generation_does_not_hold() -> None:
    """The Genoa root did not sign the Milan certificates, whatever the names."""
    ark = load_certificate(read_vector("roots/amd_genoa_ark.der"))
    ask = load_certificate(read_vector("roots/amd_milan_ask.der"))
    with pytest.raises(VerificationError) as refused:
        verify_issued_by(ask, ark)
    assert refused.value.reason is Reason.ATTESTATION_SIGNATURE_INVALID


def test_the_key_digest_is_of_the_subject_public_key_info() -> None:
    """The digest by which roots are pinned is taken over the DER of the key alone."""
    der = read_vector("roots/aws_nitro_root_g1.der")
    parsed = x509.load_der_x509_certificate(der)
    info = parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert info in der
    assert spki_digest(load_certificate(der)) == sha256(info)


def test_an_anchor_is_found_by_key_and_technology() -> None:
    """Neither another key nor another technology finds it."""
    root = load_certificate(build(PATH)[0][ROOT])
    anchor = Anchor("one", root.key_digest, EvidenceClass.HARDWARE, "root")
    assert find_anchor(root, [anchor], "one") is anchor
    assert find_anchor(root, [anchor], "two") is None
    assert find_anchor(load_certificate(build(PATH)[0][ROOT]), [anchor], "one") is None


@pytest.mark.parametrize(
    "der",
    [b"", b"\x30\x03\x02\x01\x00", bytes(MAX_CERTIFICATE_BYTES + 1), b"\x30\x84\xff\xff\xff\xff"],
)
def test_what_is_no_certificate_is_malformed(der: bytes) -> None:
    """Noise and too many bytes are our own error."""
    with pytest.raises(MalformedError):
        load_certificate(der)


def test_bytes_after_a_certificate_are_malformed() -> None:
    """A certificate is all of its bytes."""
    der = read_vector("roots/aws_nitro_root_g1.der")
    with pytest.raises(MalformedError):
        load_certificate(der + b"\x00")


@pytest.mark.parametrize("name", ["roots/aws_nitro_root_g1.der", "roots/amd_milan_ark.der"])
def test_damaged_certificates_give_our_own_errors(name: str) -> None:
    """Cut anywhere, or with a bit changed anywhere, a root is no certificate or not its own."""
    der = read_vector(name)
    good = load_certificate(der)
    verify_issued_by(good, good)
    for length in range(len(der)):
        with pytest.raises(Error):
            load_certificate(der[:length])
    for place in range(len(der)):
        altered = bytearray(der)
        altered[place] ^= 1 << place % 8
        with pytest.raises(Error):
            verify_issued_by(load_certificate(bytes(altered)), good)


def test_a_path_needs_two_certificates_and_has_a_limit() -> None:
    """A root alone vouches for nothing; a path of any length is not walked."""
    root = load_certificate(build(PATH)[0][ROOT])
    for path in ([], [root], [root] * (MAX_CHAIN_CERTIFICATES + 1)):
        with pytest.raises(MalformedError):
            verify_chain(path)


def test_a_critical_extension_counts_unless_the_caller_understands_it() -> None:
    """An extension that nobody looks at refuses; one that the caller names does not."""
    usage = x509.ExtendedKeyUsage([x509.ObjectIdentifier("2.23.133.8.1")])
    links = changed(LEAF, extra=usage)
    leaf = load_certificate(build(links)[0][LEAF])
    with pytest.raises(VerificationError):
        check_end_entity(leaf)
    check_end_entity(leaf, understood=frozenset({usage.oid.dotted_string}))


def test_the_time_in_which_a_path_is_valid_is_that_of_all_certificates() -> None:
    """The latest beginning and the earliest end."""
    path = [load_certificate(der) for der in build(PATH)[0]]
    hour = 3_600_000
    assert check_chain_validity(path, NOW) == (NOW - hour, NOW + hour)


def test_validity_is_checked_anew_for_a_remembered_certificate() -> None:
    """The same certificate is good, then out of date, then not yet valid, then good."""
    leaf = load_certificate(build(PATH)[0][LEAF])
    check_validity(leaf, NOW)
    for at, reason in (
        (NOW * 2, Reason.ATTESTATION_EXPIRED),
        (0, Reason.ATTESTATION_NOT_YET_VALID),
    ):
        with pytest.raises(VerificationError) as refused:
            check_validity(load_certificate(leaf.der), at)
        assert refused.value.reason is reason
    check_validity(load_certificate(leaf.der), NOW)


def test_a_good_signature_that_is_remembered_does_not_vouch_for_another() -> None:
    """After a chain was verified, a certificate of equal names from another key still fails."""
    forger, other = Forger(), Forger()
    mine = [load_certificate(der) for der in forger.path]
    theirs = [load_certificate(der) for der in other.path]
    verify_chain(mine)
    verify_chain(theirs)
    with pytest.raises(VerificationError):
        verify_chain([*mine[:ZONE], *theirs[ZONE:]])


def test_names_in_messages_are_short_and_printable() -> None:
    """Whoever makes a certificate does not write to the terminal of whoever refuses it."""
    links = (*PATH[:LEAF], Link("\x1b[2J" + "x" * 50, ca=False))
    leaf = load_certificate(build(links)[0][LEAF])
    assert leaf.label.isprintable()


def test_a_certificate_with_an_unusual_name_is_malformed_not_an_accident() -> None:
    """An alternative name of a kind that the library does not read is refused like bad bytes."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "unusual")])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    edi_party_name = bytes.fromhex("3006a504a1020c00")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=1))
        .add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), edi_party_name),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(MalformedError):
        load_certificate(certificate.public_bytes(Encoding.DER))
