"""Our receipts in front of a COSE library that is not ours: same answer, same key identifier."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from scitt_cose import CoseError, parse_signed_statement, verify_sign1

from verispect.core.envelope import STATEMENT_TYPE, STREAM_TYPE
from verispect.core.receipt import InferenceReceipt
from verispect.core.stream import sign_interim

sys.path.insert(0, str(Path(__file__).parents[2] / "vectors"))

import material


def pem(key):
    public = Ed25519PublicKey.from_public_bytes(key.public_key.raw)
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


# The header parameters that RFC 9943 wants: algorithm, content type, key identifier, CWT claims.
UNDERSTOOD = frozenset({1, 2, 3, 4, 15})


def test_another_library_verifies_a_receipt():
    """A SCITT library verifies a receipt and reads issuer, subject and content type from it."""
    data = material.receipt()
    parsed = parse_signed_statement(data, public_key_pem=pem(material.GOOD))
    assert parsed["signature_verified"] is True
    assert parsed["issuer"] == material.ISSUER
    assert parsed["subject"] == material.SUBJECT
    assert parsed["content_type"] == STATEMENT_TYPE
    assert parsed["alg"] == "EdDSA"
    assert parsed["payload"] == material.statement().encode()


def test_another_library_verifies_an_interim_signature():
    """What is signed during a stream is a COSE_Sign1 like any other."""
    binding = material.statement().stream
    envelope = sign_interim(
        binding, issuer=material.ISSUER, subject=material.SUBJECT, signer=material.GOOD
    )
    verified = verify_sign1(
        envelope.encode(), public_key_pem=pem(material.GOOD), understood_labels=UNDERSTOOD
    )
    assert verified.protected[3] == STREAM_TYPE
    assert cbor2.loads(verified.payload) == [binding.chunks, binding.head]


def test_another_library_refuses_every_changed_byte():
    """A byte changed anywhere, or another key, is refused there as it is here."""
    data = material.receipt()
    key = pem(material.GOOD)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x01
        with pytest.raises(CoseError):
            verify_sign1(bytes(changed), public_key_pem=key, understood_labels=UNDERSTOOD)
    with pytest.raises(CoseError):
        verify_sign1(data, public_key_pem=pem(material.OTHER), understood_labels=UNDERSTOOD)


def test_key_identifier_is_recomputed_elsewhere():
    """The key identifier in a receipt is the COSE key thumbprint that anyone computes."""
    header = cbor2.loads(cbor2.loads(material.receipt()).value[0])
    public = Ed25519PublicKey.from_public_bytes(material.GOOD.public_key.raw)
    cose_key = {1: 1, -1: 6, -2: public.public_bytes(Encoding.Raw, PublicFormat.Raw)}
    thumbprint = hashlib.sha256(cbor2.dumps(cose_key, canonical=True)).digest()
    assert header[4] == thumbprint


def test_a_receipt_verifies_with_thirty_lines_and_no_package_of_ours():
    """A CBOR library and an Ed25519 library are all that the format asks for."""
    data = material.receipt()
    protected, _, payload, signature = cbor2.loads(data).value
    signed = cbor2.dumps(["Signature1", protected, b"", payload])
    Ed25519PublicKey.from_public_bytes(material.GOOD.public_key.raw).verify(signature, signed)
    statement = cbor2.loads(payload)
    ours = InferenceReceipt.parse(data).unverified_statement
    assert (statement[2], statement[7], statement[8][1]) == (
        ours.sequence,
        ours.requested_model,
        ours.model.model_id,
    )
