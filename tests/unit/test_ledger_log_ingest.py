"""Receipts of other issuers on their way into the log: what is taken, what is refused, and why."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from log_receipts import (
    ISSUER,
    LOG_SIGNER,
    ORIGIN,
    SIGNED_AT,
    SIGNER,
    a_receipt,
    a_statement,
)
from verispect.attesters.signer import SoftwareSigner
from verispect.core.envelope import STATEMENT_TYPE, sign_envelope, sign_envelopes, signed_bytes
from verispect.core.errors import Error, Reason, StoreError, VerificationError
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.evidence.interface import IssuerKey
from verispect.ledger.log.description import LogDescription
from verispect.ledger.log.embedded import LogFolder
from verispect.ledger.log.examining import MAX_INGESTED_BYTES, BatchTree, Examiner
from verispect.ledger.log.fsck import fsck
from verispect.ledger.log.ingest import Ingest
from verispect.ledger.log.interface import Placed
from verispect.ledger.log.usual import Shape
from verispect.tlog.receipt_leaf import Disclosure, ReceiptLeaf

OTHER = SoftwareSigner(b"o" * 32)
KEY = IssuerKey(ISSUER, SIGNER.public_key, False, 0)


def batch(numbers: range, signer: SoftwareSigner = SIGNER) -> list[bytes]:
    payloads = [(a_statement(number).encode(), f"{number:032x}") for number in numbers]
    signed = sign_envelopes(payloads, content_type=STATEMENT_TYPE, issuer=ISSUER, signer=signer)
    return [envelope.encode() for envelope in signed]


def examiner(*keys: IssuerKey, **options: object) -> Examiner:
    return Examiner(keys or (KEY,), disclose=Disclosure.NOTHING, **options)


def expected(data: bytes) -> tuple[bytes, bytes]:
    receipt = InferenceReceipt.parse(data)
    return receipt.receipt_id, ReceiptLeaf.of(receipt).encode()


# -- examining --------------------------------------------------------------------------------


def test_good_receipts_get_their_own_leaves():
    """Signed alone or in a batch, each receipt's entry is what the parser would make of it."""
    receipts = [*(a_receipt(number) for number in range(1, 70_000, 997)), *batch(range(1, 400))]
    random.Random(3).shuffle(receipts)
    assert examiner().examine(receipts) == [expected(data) for data in receipts]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (IssuerKey(ISSUER, OTHER.public_key, False, 0), Reason.KEY_UNKNOWN),
        (IssuerKey("https://other.example", SIGNER.public_key, False, 0), Reason.ISSUER_MISMATCH),
        (IssuerKey(ISSUER, SIGNER.public_key, True, 0), Reason.DEVELOPMENT_KEY),
        (IssuerKey(ISSUER, SIGNER.public_key, False, SIGNED_AT + 1), Reason.KEY_NOT_YET_VALID),
        (IssuerKey(ISSUER, SIGNER.public_key, False, 0, SIGNED_AT), Reason.KEY_EXPIRED),
        (IssuerKey(ISSUER, SIGNER.public_key, False, 0, None, 1), Reason.KEY_REVOKED),
    ],
)
def test_a_key_that_does_not_count_has_a_reason(key, reason):
    """Also the second time, when the receipt's shape may be known."""
    assert examiner(key).examine([a_receipt(1), a_receipt(2)]) == [reason, reason]


def test_development_keys_are_taken_where_that_is_said():
    """The log of a trial may hold receipts of development keys."""
    development = IssuerKey(ISSUER, SIGNER.public_key, True, 0)
    (taken,) = examiner(development, development_keys=True).examine([a_receipt(1)])
    assert taken == expected(a_receipt(1))


def test_a_forged_signature_is_refused_among_good_ones():
    """Neither a shape nor a batch that is known lends its standing to a forgery."""
    good = [a_receipt(number) for number in range(1, 5)]
    signed = batch(range(10, 20))
    forged = [
        good[0][:-1] + bytes((good[0][-1] ^ 1,)),
        good[1].replace(b"\x02\x02\x03", b"\x02\x05\x03"),
        signed[3][:-1] + bytes((signed[3][-1] ^ 1,)),
        signed[4].replace(signed[4][-200:-100], signed[5][-200:-100]),
        batch(range(10, 20), signer=OTHER)[0],
    ]
    assert all(data not in good + signed for data in forged)
    results = examiner().examine([*good, *signed, *forged, *good, *signed])
    assert results[14:18] == [Reason.SIGNATURE_INVALID] * 4
    assert results[18] is Reason.KEY_UNKNOWN
    assert results[:14] == results[19:] == [expected(data) for data in good + signed]


def test_what_is_too_large_or_no_receipt_is_refused():
    """Evidence beyond the limit is delivered beside the receipt, and noise is noise."""
    envelope = InferenceReceipt.parse(a_receipt(1)).envelope
    row = EvidenceEntry("proof", "p", 0, bytes(MAX_INGESTED_BYTES), b"").to_row()
    large = replace(envelope, evidence=(row,)).encode()
    results = examiner().examine([large, b"", b"\xd2\x84", a_receipt(1)[:-1]])
    assert results[0] is Reason.TOO_LARGE
    assert all(isinstance(each, Reason) for each in results)


def test_a_receipt_with_evidence_has_the_leaf_of_its_statement():
    """Evidence beside the statement changes nothing of the entry."""
    row = EvidenceEntry("proof", "p", 0, b"body", b"").to_row()
    bare = a_receipt(1)
    with_evidence = replace(InferenceReceipt.parse(bare).envelope, evidence=(row,)).encode()
    assert examiner().examine([bare, with_evidence]) == [expected(bare)] * 2


# -- the quick reader never differs from the parser ---------------------------------------------


def _variants(data: bytes, seed: int) -> list[bytes]:
    """Return damaged copies: flipped, cut, lengthened, and with numbers in longer forms."""
    numbers = random.Random(seed)
    made = []
    for _ in range(40):
        at = numbers.randrange(len(data))
        changed = bytearray(data)
        changed[at] = numbers.randrange(256)
        made.append(bytes(changed))
        made.append(data[:at] + data[at + numbers.randrange(1, 4) :])
        made.append(data[:at] + numbers.randbytes(numbers.randrange(1, 4)) + data[at:])
    for short, long in ((b"\x02\x07", b"\x02\x18\x07"), (b"\x18\x1f", b"\x19\x00\x1f")):
        made.append(data.replace(short, long))
    return made


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 2**40), st.integers(0, 2**32), st.booleans())
def test_what_fits_a_shape_is_what_the_parser_reads(sequence, seed, in_batch):
    """Whatever the damage: what the shape accepts the parser accepts too, with the same leaf."""
    data = batch(range(7, 12))[seed % 5] if in_batch else a_receipt(7)
    receipt = InferenceReceipt.parse(data)
    shape = Shape.of(data, receipt, Disclosure.MODEL)
    assert shape is not None
    others = [] if in_batch else [a_receipt(sequence), a_receipt(7, signed_at=351 + seed)]
    for other in (data, *others):
        assert shape.fit(other) is not None
    for variant in (*others, *_variants(data, seed)):
        fitted = shape.fit(variant)
        if fitted is not None:
            parsed = InferenceReceipt.parse(variant)
            leaf = ReceiptLeaf.of(parsed, disclose=Disclosure.MODEL)
            assert (fitted.receipt, fitted.leaf) == (parsed.receipt_id, leaf.encode())
            assert fitted.signature == parsed.envelope.signature
            assert fitted.key_id == parsed.envelope.key_id
            assert fitted.issuer == parsed.envelope.issuer
            assert fitted.signed_at == parsed.unverified_statement.signed_at
            with_message = SIGNER.public_key
            try:
                parsed.envelope.verify(with_message)
                good = True
            except VerificationError:
                good = False
            tree = BatchTree(with_message)
            try:
                if in_batch:
                    tree.verify(fitted.message, fitted.signature)
                else:
                    with_message.verify(fitted.message, fitted.signature)
                assert good
            except Error:
                assert not good


def test_every_byte_of_a_receipt_is_either_fixed_or_read_alike():
    """Each single byte with each of some other values: the shape never accepts more."""
    data = a_receipt(7)
    shape = Shape.of(data, InferenceReceipt.parse(data), Disclosure.NOTHING)
    assert shape is not None
    accepted = 0
    for at in range(len(data)):
        for value in {0, 1, 0x17, 0x18, 0x20, 0x5F, 0x80, 0xFF, data[at] ^ 1}:
            changed = data[:at] + bytes((value,)) + data[at + 1 :]
            fitted = shape.fit(changed)
            if fitted is not None:
                accepted += 1
                assert (fitted.receipt, fitted.leaf) == expected(changed)
    assert accepted > 300


def test_an_unusual_receipt_has_no_shape():
    """What differs from receipt to receipt in other places goes to the parser each time."""
    envelope = sign_envelope(
        a_statement(7).encode(),
        content_type=STATEMENT_TYPE,
        issuer=ISSUER,
        subject="not hexadecimal",
        signer=SIGNER,
    )
    receipt = InferenceReceipt(envelope)
    assert Shape.of(envelope.encode(), receipt, Disclosure.NOTHING) is None
    usual = InferenceReceipt.parse(a_receipt(7))
    assert Shape.of(a_receipt(7), usual, Disclosure.USAGE) is None


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 64, 100])
def test_a_batch_is_climbed_as_the_verifier_climbs_it(count):
    """In any order, with forgeries between, the shared tree says what each receipt says alone."""
    numbers = random.Random(count)
    tree = BatchTree(SIGNER.public_key)
    signed = [InferenceReceipt.parse(data).envelope for data in batch(range(1, count + 1))]
    for _ in range(4 * count):
        envelope = numbers.choice(signed)
        signature = bytearray(envelope.signature)
        if numbers.random() < 0.5 and len(signature) > 66:
            signature[numbers.randrange(66, len(signature))] ^= 1 << numbers.randrange(8)
        shown = replace(envelope, signature=bytes(signature))
        message = signed_bytes(shown.protected, shown.payload)
        outcomes = []
        for check in (
            lambda shown=shown: shown.verify(SIGNER.public_key),
            lambda shown=shown, message=message: tree.verify(message, shown.signature),
        ):
            try:
                check()
                outcomes.append(None)
            except VerificationError as error:
                outcomes.append(error.reason)
        assert outcomes[0] == outcomes[1]


# -- all of it ------------------------------------------------------------------------------------


def test_receipts_reach_the_log_once_and_refusals_have_reasons(tmp_path):
    """Worker processes examine, one commit orders; what comes twice keeps its place."""
    log = LogFolder.create(tmp_path / "log", LogDescription(ORIGIN), signer=LOG_SIGNER)
    singles = [a_receipt(number) for number in range(1, 1500)]
    signed = batch(range(2000, 2300))
    forged = singles[5][:-1] + bytes((singles[5][-1] ^ 1,))
    state = log.open_state()
    with Ingest(state, [KEY], workers=2) as way:
        first = way.submit([*singles, forged, *signed])
        again = way.submit([signed[7], forged, singles[3], b"noise"])
    places = [each for each in first if isinstance(each, Placed)]
    assert [place.leaf_index for place in places] == list(range(1799))
    assert first[1499] is Reason.SIGNATURE_INVALID
    assert again[0] == Placed(1499 + 7, is_new=False)
    assert again[1] is Reason.SIGNATURE_INVALID
    assert again[2] == Placed(3, is_new=False)
    assert again[3] is Reason.MALFORMED_ENVELOPE
    runner = log.runner(LOG_SIGNER)
    runner.start()
    runner.stop()
    assert fsck(log.tiles, log.trusted, state=state).difference is None
    proofs = log.open_proofs()
    for data in (singles[0], singles[1400], signed[-1]):
        receipt = InferenceReceipt.parse(data)
        assert proofs.receipt(receipt.receipt_id) == data
        assert proofs.leaf(proofs.index_of(receipt.receipt_id)) == expected(data)[1]
    state.close()


def test_a_worker_that_dies_is_our_error(tmp_path):
    """The receipts can be given again to a new ingest; none is half taken."""
    log = LogFolder.create(tmp_path / "log", LogDescription(ORIGIN), signer=LOG_SIGNER)
    state = log.open_state()
    with Ingest(state, [KEY], workers=1) as way:
        way.submit([a_receipt(1)])
        for process in list(way._pool._processes.values()):
            os.kill(process.pid, signal.SIGKILL)
        # Until the pool has noticed, a worker that is gone may just not answer.
        with pytest.raises(StoreError):
            way.submit([a_receipt(2)] * 5000)
    with Ingest(state, [KEY], workers=1) as way:
        assert way.submit([a_receipt(1), a_receipt(3)])[0] == Placed(0, is_new=False)
    state.close()
