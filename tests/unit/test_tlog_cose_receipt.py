"""COSE receipts of the log: inclusion and consistency, and every part that is checked."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tlog_log import ORIGIN, SIGNER, MemoryLog, entries
from verispect.attesters.signer import SoftwareSigner
from verispect.core.encoding import decode, encode
from verispect.core.envelope import STATEMENT_TYPE, open_envelope, signed_bytes
from verispect.core.errors import Error, Reason
from verispect.tlog.cose_receipt import (
    MAX_ATTACHED_RECEIPTS,
    MAX_COSE_RECEIPT_BYTES,
    ConsistencyProof,
    CoseReceipt,
    InclusionProof,
    attach_receipts,
    detach_receipts,
    sign_cose_receipt,
)

sys.path.insert(0, str(Path(__file__).parents[2] / "vectors"))

import material

LOG = MemoryLog(entries(300))
INCLUSION = sign_cose_receipt(
    InclusionProof(300, 7, tuple(LOG.inclusion(7))), LOG.root, origin=ORIGIN, signer=SIGNER
)
OLD = MemoryLog(entries(200))
CONSISTENCY = sign_cose_receipt(
    ConsistencyProof(200, 300, tuple(LOG.consistency(200))), LOG.root, origin=ORIGIN, signer=SIGNER
)
KEY = SIGNER.public_key


def reason_of(call, *arguments, **named):
    with pytest.raises(Error) as caught:
        call(*arguments, **named)
    return caught.value.reason


def included(receipt, leaf=b"entry 7", origin=ORIGIN, key=KEY):
    return receipt.verify_inclusion(leaf, origin=origin, key=key)


def consistent(receipt, old_size=200, old_root=OLD.root, origin=ORIGIN, key=KEY):
    return receipt.verify_consistency(old_size=old_size, old_root=old_root, origin=origin, key=key)


def test_receipts_are_read_and_verified():
    """Both kinds come back as they were and lead to the root that was signed."""
    for receipt in (INCLUSION, CONSISTENCY):
        assert CoseReceipt.parse(receipt.encode()) == receipt
    assert included(CoseReceipt.parse(INCLUSION.encode())) == LOG.root
    assert consistent(CoseReceipt.parse(CONSISTENCY.encode())) == LOG.root
    assert len(INCLUSION.encode()) < 600


def test_a_tree_of_one_leaf_has_a_receipt():
    """The path may be empty."""
    log = MemoryLog([b"only"])
    receipt = sign_cose_receipt(InclusionProof(1, 0, ()), log.root, origin=ORIGIN, signer=SIGNER)
    assert included(CoseReceipt.parse(receipt.encode()), b"only") == log.root


def test_wrong_leaf_log_key_and_kind_are_refused():
    """Each part of the question is checked."""
    assert reason_of(included, INCLUSION, b"entry 8") is Reason.SIGNATURE_INVALID
    assert reason_of(included, INCLUSION, origin="other") is Reason.LOG_UNKNOWN
    other = SoftwareSigner(bytes(32)).public_key
    assert reason_of(included, INCLUSION, key=other) is Reason.LOG_UNKNOWN
    assert reason_of(included, CONSISTENCY) is Reason.INCLUSION_INVALID
    assert reason_of(consistent, INCLUSION) is Reason.CONSISTENCY_INVALID
    assert reason_of(consistent, CONSISTENCY, old_size=199) is Reason.CONSISTENCY_INVALID
    assert reason_of(consistent, CONSISTENCY, old_root=LOG.root) is Reason.CONSISTENCY_INVALID
    assert reason_of(consistent, CONSISTENCY, origin="other") is Reason.LOG_UNKNOWN


def test_the_size_is_signed():
    """A proof for another size than the signed one is refused, whatever root it leads to."""
    moved = replace(INCLUSION, proof=InclusionProof(299, 7, INCLUSION.proof.path))
    assert reason_of(CoseReceipt.parse, moved.encode()) is Reason.MALFORMED_LOG_PROOF


def test_a_signature_over_another_root_is_refused():
    """Proof and signature must meet in one root."""
    other = MemoryLog(entries(300, "other"))
    swapped = sign_cose_receipt(INCLUSION.proof, other.root, origin=ORIGIN, signer=SIGNER)
    assert reason_of(included, swapped) is Reason.SIGNATURE_INVALID
    short = replace(INCLUSION, proof=InclusionProof(300, 7, INCLUSION.proof.path[:-1]))
    assert reason_of(included, short) is Reason.INCLUSION_INVALID


def rebuilt(change):
    """Return the inclusion receipt with its four fields changed, signed where that matters."""
    fields = decode(INCLUSION.encode()[1:])
    change(fields)
    return b"\xd2" + encode(fields)


def set_protected(header):
    def change(fields):
        fields[0] = encode(header)
        fields[3] = SIGNER.sign(signed_bytes(fields[0], LOG.root))

    return change


def set_field(place, value):
    def change(fields):
        fields[place] = value

    return change


HEADER = decode(INCLUSION.protected)
GOOD = INCLUSION.proof


def proofs(value, kind=-1):
    return set_field(1, {396: {kind: value}})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_protected({**HEADER, 1: -7}), Reason.UNSUPPORTED_ALGORITHM),
        (set_protected({**HEADER, 395: 2}), Reason.UNSUPPORTED_ALGORITHM),
        (set_protected({**HEADER, 395: True}), Reason.UNSUPPORTED_ALGORITHM),
        (set_protected({**HEADER, 2: [395]}), Reason.UNSUPPORTED_CRITICAL_FIELD),
        (set_protected({**HEADER, 3: "x"}), Reason.MALFORMED_LOG_PROOF),
        (set_protected({**HEADER, 4: b"short"}), Reason.MALFORMED_LOG_PROOF),
        (set_protected({**HEADER, 15: {1: ORIGIN}}), Reason.MALFORMED_LOG_PROOF),
        (set_protected({**HEADER, 15: {1: ORIGIN, 2: 300}}), Reason.MALFORMED_LOG_PROOF),
        (set_protected({**HEADER, 15: {1: "a\nb", 2: "300"}}), Reason.MALFORMED_LOG_PROOF),
        (set_protected({1: -8, 395: 1}), Reason.MALFORMED_LOG_PROOF),
        (set_protected([]), Reason.MALFORMED_LOG_PROOF),
        (set_field(0, HEADER), Reason.MALFORMED_LOG_PROOF),
        (set_field(2, LOG.root), Reason.MALFORMED_LOG_PROOF),
        (set_field(2, b""), Reason.MALFORMED_LOG_PROOF),
        (set_field(3, bytes(63)), Reason.MALFORMED_LOG_PROOF),
        (set_field(1, {}), Reason.MALFORMED_LOG_PROOF),
        (set_field(1, []), Reason.MALFORMED_LOG_PROOF),
        (set_field(1, {396: {-1: []}}), Reason.MALFORMED_LOG_PROOF),
        (set_field(1, {396: {-2: [], -1: []}}), Reason.MALFORMED_LOG_PROOF),
        (proofs([encode([300, 7, list(GOOD.path)])] * 2), Reason.MALFORMED_LOG_PROOF),
        (proofs([encode([300, 7, list(GOOD.path)])], kind=-3), Reason.MALFORMED_LOG_PROOF),
        (proofs([[300, 7, []]]), Reason.MALFORMED_LOG_PROOF),
        (proofs([encode([300, 7])]), Reason.MALFORMED_LOG_PROOF),
        (proofs([encode([300, 300, []])]), Reason.MALFORMED_LOG_PROOF),
        (proofs([encode([300, -1, []])]), Reason.MALFORMED_LOG_PROOF),
        (proofs([encode([300, True, []])]), Reason.MALFORMED_LOG_PROOF),
        (proofs([encode([300, 7, [b"short"]])]), Reason.MALFORMED_LOG_PROOF),
        (proofs([encode([300, 7, [bytes(32)] * 64])]), Reason.MALFORMED_LOG_PROOF),
        (proofs([encode([300, 300, []])], kind=-2), Reason.MALFORMED_LOG_PROOF),
        (proofs([encode([0, 300, []])], kind=-2), Reason.MALFORMED_LOG_PROOF),
        (proofs([encode([300, 7, []]) + b"\x00"]), Reason.MALFORMED_CBOR),
    ],
)
def test_another_form_is_refused(change, reason):
    """Every header and every field has one form."""
    assert reason_of(CoseReceipt.parse, rebuilt(change)) is reason


def test_bytes_that_are_no_receipt_are_refused():
    """No tag, another array, too much, or something after the end."""
    data = INCLUSION.encode()
    assert reason_of(CoseReceipt.parse, b"") is Reason.MALFORMED_LOG_PROOF
    assert reason_of(CoseReceipt.parse, data[1:]) is Reason.MALFORMED_LOG_PROOF
    assert reason_of(CoseReceipt.parse, b"\xd2\x80") is Reason.MALFORMED_LOG_PROOF
    assert reason_of(CoseReceipt.parse, data + b"\x00") is Reason.MALFORMED_CBOR
    giant = data + bytes(MAX_COSE_RECEIPT_BYTES)
    assert reason_of(CoseReceipt.parse, giant) is Reason.TOO_LARGE


def test_the_fully_specified_algorithm_is_read_too():
    """Algorithm -19 says the same as -8 and is accepted."""
    header = encode({**HEADER, 1: -19})
    receipt = replace(
        INCLUSION, protected=header, signature=SIGNER.sign(signed_bytes(header, LOG.root))
    )
    assert included(CoseReceipt.parse(receipt.encode())) == LOG.root


def test_receipts_travel_with_a_statement():
    """A statement with receipts in its header is split into the same statement and receipts."""
    statement = open_envelope(material.receipt(), content_type=STATEMENT_TYPE)
    data = attach_receipts(statement, [INCLUSION, CONSISTENCY])
    bare, receipts = detach_receipts(data, content_type=STATEMENT_TYPE)
    assert bare.digest() == statement.digest()
    assert receipts == (INCLUSION, CONSISTENCY)
    # It is no receipt of an inference: that has evidence, or nothing, in this place.
    malformed = reason_of(open_envelope, data, content_type=STATEMENT_TYPE)
    assert malformed is Reason.MALFORMED_ENVELOPE


@pytest.mark.parametrize(
    "header",
    [{}, [], {394: []}, {394: [1]}, {394: b""}, {394: [b""], 396: {}}, {394: [b"\xd2\x80"]}],
)
def test_a_statement_with_anything_else_in_its_header_is_refused(header):
    """Receipts and nothing but receipts."""
    fields = decode(material.receipt()[1:], limit=1 << 20)
    fields[1] = header
    with pytest.raises(Error) as caught:
        detach_receipts(b"\xd2" + encode(fields), content_type=STATEMENT_TYPE)
    assert caught.value.reason is Reason.MALFORMED_LOG_PROOF


def test_too_many_receipts_are_refused():
    """The number of receipts has a limit."""
    statement = open_envelope(material.receipt(), content_type=STATEMENT_TYPE)
    data = attach_receipts(statement, [INCLUSION] * (MAX_ATTACHED_RECEIPTS + 1))
    refused = reason_of(detach_receipts, data, content_type=STATEMENT_TYPE)
    assert refused is Reason.MALFORMED_LOG_PROOF
