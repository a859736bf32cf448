"""Proof files: read, written, and verified against a log and its witnesses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tlog_log import COSIGNED_AT, ORIGIN, TRUSTED, MemoryLog, entries, policy
from verispect.core.errors import Error, Reason
from verispect.tlog.checkpoint import TrustedLog
from verispect.tlog.note import VerifierKey
from verispect.tlog.tlog_proof import MAX_EXTRA_BYTES, MAX_TLOG_PROOF_BYTES, TlogProof

LOG = MemoryLog(entries(300))
PROOF = LOG.proof(123)
DATA = PROOF.encode()


def reason_of(call, *arguments, **named):
    with pytest.raises(Error) as caught:
        call(*arguments, **named)
    return caught.value.reason


def verify(proof, leaf=LOG.entries[123], *, log=TRUSTED, witnesses=2, now=COSIGNED_AT):
    return proof.verify(leaf, log=log, witnesses=policy(witnesses), now_seconds=now)


def test_a_proof_file_has_the_lines_of_the_specification():
    """The magic, the index, the path, a blank line, the checkpoint."""
    lines = DATA.decode().split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert lines[1] == "index 123"
    blank = lines.index("")
    assert blank - 2 == len(PROOF.path) == 9
    assert lines[blank + 1 : blank + 3] == [ORIGIN, "300"]


def test_a_proof_is_read_and_verified():
    """Log, witnesses and place are checked; the result says which."""
    proof = TlogProof.parse(DATA)
    assert proof == PROOF
    verified = verify(proof)
    assert verified.index == 123
    assert verified.checkpoint.size == 300
    assert [each.witness.name for each in verified.cosignatures] == ["w1", "w2"]


@pytest.mark.parametrize("count", [1, 2, 256, 257])
def test_first_and_last_leaf_of_any_tree_are_proven(count):
    """Also the tree of one leaf, whose path is empty."""
    log = MemoryLog(entries(count))
    for index in {0, count - 1}:
        proof = TlogProof.parse(log.proof(index).encode())
        assert verify(proof, log.entries[index]).index == index


def test_extra_data_is_carried_and_believed_by_nobody():
    """Extra data comes back; changing it changes no answer."""
    for extra in (b"", b"context", bytes(MAX_EXTRA_BYTES)):
        proof = TlogProof.parse(replace(PROOF, unauthenticated_extra=extra).encode())
        assert proof.unauthenticated_extra == extra
        assert verify(proof).index == 123
    assert TlogProof.parse(DATA).unauthenticated_extra is None
    larger = replace(PROOF, unauthenticated_extra=bytes(MAX_EXTRA_BYTES + 1)).encode()
    assert reason_of(TlogProof.parse, larger) is Reason.TOO_LARGE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"tlog-proof@v1", b"tlog-proof@v2"),
        (b"index 123", b"index 0123"),
        (b"index 123", b"index -1"),
        (b"index 123", b"index"),
        (b"index 123\n", b""),
        (b"index 123", b"extra \nindex  123"),
        (b"index 123", b"extra a\nindex 123"),
        (b"index 123", b"extra YQ==\nextra YQ==\nindex 123"),
        (b"index 123", b"index 123\nextra YQ=="),
        (b"index 123", b"index 123\nindex 123"),
        (b"index 123\n", b"index 123\n" + b"A" * 43 + b"=\n" + (b"A" * 43 + b"=\n") * 63),
        (b"index 123\n", b"index 123\nYQ==\n"),
        (b"index 123\n", b"index 123\n\n"),
        (b"\n\nlog", b"\nlog"),
        (b"c2sp", b"\nc2sp"),
        (b"\n", b"\r\n"),
    ],
)
def test_another_form_is_refused(old, new):
    """Each line has one form and one place."""
    assert old in DATA
    with pytest.raises(Error) as caught:
        TlogProof.parse(DATA.replace(old, new))
    assert caught.value.reason.value.startswith("malformed-")


def test_files_that_are_not_proofs_are_refused():
    """Nothing, a checkpoint alone and a giant are no proofs."""
    assert reason_of(TlogProof.parse, b"") is Reason.MALFORMED_LOG_PROOF
    assert reason_of(TlogProof.parse, LOG.checkpoint().encode()) is Reason.MALFORMED_LOG_PROOF
    giant = b"\n" * (MAX_TLOG_PROOF_BYTES + 1)
    assert reason_of(TlogProof.parse, giant) is Reason.TOO_LARGE


def test_what_is_not_in_the_log_is_refused():
    """Another leaf, place, path or tree does not verify."""
    invalid = Reason.INCLUSION_INVALID
    assert reason_of(verify, PROOF, b"entry 124") is invalid
    assert reason_of(verify, PROOF, b"") is invalid
    assert reason_of(verify, replace(PROOF, index=124)) is invalid
    assert reason_of(verify, replace(PROOF, index=300)) is invalid
    assert reason_of(verify, replace(PROOF, path=PROOF.path[:-1])) is invalid
    assert reason_of(verify, replace(PROOF, path=LOG.proof(124).path)) is invalid
    other = MemoryLog(entries(300, "other")).checkpoint(witnesses=["w1", "w2"])
    assert reason_of(verify, replace(PROOF, checkpoint=other)) is invalid


def test_a_node_is_never_taken_for_a_leaf():
    """The two hashes below a node, given as a leaf with the shorter path, are refused."""
    hashes = LOG.hashes()
    node = hashes[0] + hashes[1]
    proof = replace(LOG.proof(0), path=LOG.proof(0).path[1:])
    assert reason_of(verify, proof, node) is Reason.INCLUSION_INVALID
    assert reason_of(verify, proof, b"\x01" + node) is Reason.INCLUSION_INVALID


def test_a_stranger_log_and_missing_witnesses_are_refused():
    """The log and the witnesses are the caller's, never the file's."""
    elsewhere = TrustedLog("other.example", TRUSTED.keys)
    assert reason_of(verify, PROOF, log=elsewhere) is Reason.LOG_UNKNOWN
    stranger = TrustedLog(ORIGIN, (VerifierKey(ORIGIN, policy(0).witnesses[0].key),))
    assert reason_of(verify, PROOF, log=stranger) is Reason.KEY_UNKNOWN
    unwitnessed = LOG.proof(123, witnesses=["w2"])
    assert reason_of(verify, unwitnessed) is Reason.WITNESSES_MISSING
    assert len(verify(unwitnessed, witnesses=1).cosignatures) == 1
    assert reason_of(verify, PROOF, now=0) is Reason.WITNESSES_MISSING
