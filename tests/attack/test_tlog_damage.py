"""Everything that is read about a log, cut at every byte and changed in every bit."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from tlog_log import COSIGNED_AT, ORIGIN, SIGNER, TRUSTED, WITNESSES, MemoryLog, entries, policy
from verispect.attesters.signer import SoftwareSigner
from verispect.core.claims import Claim, Source
from verispect.core.encoding import decode, sha256
from verispect.core.errors import Error, MalformedError, Reason, UnsupportedError
from verispect.core.statement import PromisedEvidence
from verispect.tlog.checkpoint import Checkpoint, SignedCheckpoint, sign_checkpoint
from verispect.tlog.cose_receipt import CoseReceipt, InclusionProof, sign_cose_receipt
from verispect.tlog.cosignature import cosign
from verispect.tlog.fork import ForkEvidence
from verispect.tlog.leaf import LateEvidenceLeaf, SignedLeaf, decode_leaf
from verispect.tlog.note import NoteSignature, VerifierKey
from verispect.tlog.receipt_leaf import ReceiptLeaf, read_plain
from verispect.tlog.tiles import decode_entries, encode_entries, parse_path
from verispect.tlog.tlog_proof import TlogProof
from verispect.tlog.verdict import Finding, NodeVerdict, Outcome, sign_verdict
from verispect.tlog.witness import AddCheckpointRequest, Cosign, decide

LOG = MemoryLog(entries(50))
LEAF = LOG.entries[7]
PROOF = LOG.proof(7, witnesses=["w1"])
COSE = sign_cose_receipt(
    InclusionProof(50, 7, tuple(LOG.inclusion(7))), LOG.root, origin=ORIGIN, signer=SIGNER
)
OLD = MemoryLog(entries(20))
REQUEST = AddCheckpointRequest(20, tuple(LOG.consistency(20)), LOG.checkpoint())
OTHER = MemoryLog(entries(50, "other"))
FORK = ForkEvidence(
    OLD.checkpoint(),
    OTHER.checkpoint(),
    MemoryLog(OTHER.entries[:20]).root,
    tuple(OTHER.consistency(20)),
)
VERDICT = sign_verdict(
    NodeVerdict(
        sha256(b"receipt"),
        1,
        sha256(b"software"),
        (Finding(Claim.EXECUTION, Outcome.AFFIRMED, Source.REEXECUTED, "exact-replay"),),
    ),
    issuer="node.example",
    signer=SIGNER,
)


def check_proof(data):
    TlogProof.parse(data).verify(LEAF, log=TRUSTED, witnesses=policy(1), now_seconds=COSIGNED_AT)


def check_checkpoint(data):
    TRUSTED.verify(SignedCheckpoint.parse(data))


def check_cose(data):
    CoseReceipt.parse(data).verify_inclusion(LEAF, origin=ORIGIN, key=SIGNER.public_key)


def check_request(data):
    request = AddCheckpointRequest.parse(data)
    decision = decide(request, log=TRUSTED, latest=OLD.checkpoint().unverified)
    if not isinstance(decision, Cosign):
        raise MalformedError("refused", reason=Reason.MALFORMED_LOG_PROOF)


def check_fork(data):
    ForkEvidence.decode(data).verify(TRUSTED)


def check_verdict(data):
    decode_leaf(data).envelope.verify(SIGNER.public_key)


THINGS = {
    "proof": (PROOF.encode(), check_proof),
    "checkpoint": (LOG.checkpoint().encode(), check_checkpoint),
    "cose": (COSE.encode(), check_cose),
    "request": (REQUEST.encode(), check_request),
    "fork": (FORK.encode(), check_fork),
    "verdict": (SignedLeaf.of(VERDICT).encode(), check_verdict),
}


@pytest.mark.parametrize("name", THINGS)
def test_the_undamaged_thing_is_good(name):
    """What is damaged below is accepted when it is whole."""
    data, check = THINGS[name]
    check(data)


@pytest.mark.parametrize("name", THINGS)
def test_every_cut_is_refused(name):
    """Ended at any byte, and with a byte after the end, it is refused with one of our errors."""
    data, check = THINGS[name]
    for end in range(len(data)):
        with pytest.raises(Error):
            check(data[:end])
    for more in (b"\x00", b"\n", b"A", data):
        with pytest.raises(Error):
            check(data + more)


@pytest.mark.parametrize("name", THINGS)
def test_every_changed_bit_is_refused(name):
    """Any one bit changed is refused with one of our errors."""
    data, check = THINGS[name]
    for place, bit in itertools.product(range(len(data)), range(8)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << bit
        with pytest.raises(Error):
            check(bytes(damaged))


def test_an_unsigned_leaf_changed_in_a_bit_is_another_leaf_or_none():
    """What the log alone vouches for is held by its hash: changed, it is no longer the same."""
    leaf = LateEvidenceLeaf(sha256(b"r"), "proof", sha256(b"e"), 1234, 5)
    data = leaf.encode()
    for place, bit in itertools.product(range(len(data)), range(8)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << bit
        try:
            assert decode_leaf(bytes(damaged)) != leaf
        except (MalformedError, UnsupportedError):
            continue


PLAIN = ReceiptLeaf(
    receipt=sha256(b"r"),
    issuer_key=sha256(b"k"),
    sequence=300,
    signed_at=1_790_000_000_000,
    assurance=sha256(b"a"),
    evidence=(PromisedEvidence("signature"),),
    model=sha256(b"m"),
)
DISCLOSED = replace(PLAIN, sequence=7, model_id=sha256(b"i"), usage={"input_tokens": 5})


def outcome(read, data):
    try:
        return read(data)
    except Error as error:
        return error.reason


def by_map(data):
    """The slow way: decode the whole map."""
    fields = decode(data, limit=65_535)
    if type(fields) is not dict or fields.get(1) != 1 or fields.get(2) != 1:
        raise MalformedError("another leaf", reason=Reason.MALFORMED_LEAF)
    return ReceiptLeaf.from_map(fields)


@pytest.mark.parametrize("leaf", [PLAIN, DISCLOSED], ids=["plain", "disclosed"])
def test_the_quick_reader_is_as_strict_as_the_slow_one(leaf):
    """Cut, changed or with other numbers, a receipt leaf is read alike by offsets and by map."""
    data = leaf.encode()
    assert read_plain(data) == by_map(data) == leaf
    damaged = [data[:end] for end in range(len(data))] + [data + b"\x00", data + data]
    for place, value in itertools.product(range(len(data)), (0, 1, 23, 24, 0x7F, 0x80, 0xFF)):
        changed = bytearray(data)
        changed[place] ^= value
        damaged.append(bytes(changed))
    start = data.index(b"\x05", 75) + 1
    end = data.index(b"\x06", start)
    for number in (b"\x00", b"\x17", b"\x18\x17", b"\x18\x18", b"\x19\x00\xff", b"\x19\x01\x00"):
        damaged.append(data[:start] + number + data[end:])
    for number in (0xFFFF, 0x1_0000, 0xFFFF_FFFF, 1 << 32, (1 << 63) - 1, 1 << 63):
        wide = b"\x1b" + number.to_bytes(8, "big")
        damaged.append(data[:start] + wide + data[end:])
    read = [(outcome(read_plain, each), outcome(by_map, each)) for each in damaged]
    # What the quick one leaves alone (`None`) is judged by the map.
    assert all(quick == slow for quick, slow in read if quick is not None)
    assert sum(isinstance(quick, ReceiptLeaf) for quick, _ in read) > 900


def test_random_bytes_and_splices_raise_only_our_errors():
    """Noise, and pieces of two good things stuck together, never escape as another exception."""
    seeded = random.Random(5)
    readers = [
        TlogProof.parse,
        SignedCheckpoint.parse,
        CoseReceipt.parse,
        AddCheckpointRequest.parse,
        ForkEvidence.decode,
        decode_leaf,
        lambda data: decode_entries(data, 3),
        lambda data: parse_path(data.decode("latin-1")),
        lambda data: VerifierKey.parse(data.decode("latin-1")),
    ]
    whole = [data for data, _ in THINGS.values()] + [encode_entries([b"a", b"bc", b"def"])]
    for _ in range(400):
        first, second = seeded.choice(whole), seeded.choice(whole)
        spliced = first[: seeded.randrange(len(first))] + second[seeded.randrange(len(second)) :]
        for data in (spliced, seeded.randbytes(seeded.randrange(200))):
            for read in readers:
                try:
                    read(data)
                except Error:
                    continue


# -- Forgeries ------------------------------------------------------------------------------------


def refused(call, *arguments, **named):
    with pytest.raises(Error) as caught:
        call(*arguments, **named)
    return caught.value.reason


def verify(proof, leaf=LEAF, threshold=2):
    return proof.verify(leaf, log=TRUSTED, witnesses=policy(threshold), now_seconds=COSIGNED_AT)


def test_a_split_view_lacks_the_witnesses_of_the_other_view():
    """The log alone can sign a second tree, but the witnesses' lines of the first do not fit it."""
    honest = LOG.checkpoint(witnesses=["w1", "w2"])
    lines = [each for each in honest.note.signatures if each.name in WITNESSES]
    other = OTHER.checkpoint().with_signatures(lines)
    proof = TlogProof(7, tuple(OTHER.inclusion(7)), other)
    assert refused(verify, proof, OTHER.entries[7]) is Reason.SIGNATURE_INVALID
    bare = replace(proof, checkpoint=OTHER.checkpoint())
    assert refused(verify, bare, OTHER.entries[7]) is Reason.WITNESSES_MISSING


def test_one_witness_cannot_stand_in_for_two():
    """Its line under the other's name and hash, or under many names, does not count twice."""
    signed = LOG.checkpoint(witnesses=["w1"])
    (line,) = [each for each in signed.note.signatures if each.name == "w1"]
    second = policy(2).witnesses[1]
    for copied in (
        NoteSignature("w2", second.key_hash, line.signature),
        cosign(signed.unverified, name="w2", seconds=COSIGNED_AT, signer=WITNESSES["w1"]),
        NoteSignature("w1", second.key_hash, line.signature),
    ):
        proof = replace(PROOF, checkpoint=signed.with_signatures([copied]))
        assert refused(verify, proof) in (Reason.SIGNATURE_INVALID, Reason.WITNESSES_MISSING)


def test_an_operator_that_invents_witnesses_has_none():
    """Keys that the caller did not choose count for nothing, however many there are."""
    signed = LOG.checkpoint()
    invented = [
        cosign(
            signed.unverified, name=f"w{number}", seconds=COSIGNED_AT,
            signer=SoftwareSigner(sha256(bytes((number,)))),
        )
        for number in range(20)
    ]  # fmt: skip
    proof = replace(PROOF, checkpoint=signed.with_signatures(invented))
    assert refused(verify, proof, threshold=1) is Reason.WITNESSES_MISSING


def test_text_hidden_after_a_blank_line_is_not_signed_text():
    """A second checkpoint smuggled in front of, or behind, the signed one is refused."""
    honest = LOG.checkpoint(witnesses=["w1", "w2"]).encode()
    false = Checkpoint(ORIGIN, 50, OTHER.root).text().encode()
    for data in (false + b"\n" + honest, honest + b"\n" + false, honest + b"\n" + honest):
        with pytest.raises(Error):
            check_checkpoint(data)


def test_a_path_from_another_tree_or_leaf_does_not_fit():
    """Swapped between leaves, trees or sizes, no path is good."""
    for path in (LOG.inclusion(6), OTHER.inclusion(7), OLD.inclusion(7), []):
        proof = replace(LOG.proof(7), path=tuple(path))
        assert refused(verify, proof) is Reason.INCLUSION_INVALID


def test_a_receipt_of_an_older_tree_is_no_receipt_of_a_newer_one():
    """A COSE receipt's proof, moved to a signature over another tree, is refused."""
    older = sign_cose_receipt(
        InclusionProof(20, 7, tuple(OLD.inclusion(7))), OLD.root, origin=ORIGIN, signer=SIGNER
    )
    for mixed in (
        replace(COSE, proof=older.proof),
        replace(COSE, signature=older.signature),
        replace(COSE, protected=older.protected),
        replace(older, signature=COSE.signature),
    ):
        with pytest.raises(Error):
            check_cose(mixed.encode())


def test_a_notes_signature_is_no_receipts():
    """The log's signature over a checkpoint never serves as one over a root."""
    line = sign_checkpoint(LOG.checkpoint().unverified, signer=SIGNER).note.signatures[0]
    assert refused(check_cose, replace(COSE, signature=line.signature).encode()) is (
        Reason.SIGNATURE_INVALID
    )
