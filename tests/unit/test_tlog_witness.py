"""A witness's decision, and evidence of a fork."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tlog_log import ORIGIN, SIGNER, TRUSTED, MemoryLog, entries, policy
from verispect.attesters.signer import SoftwareSigner
from verispect.core.encoding import decode, encode
from verispect.core.errors import Error, Reason
from verispect.tlog.checkpoint import Checkpoint, TrustedLog, sign_checkpoint
from verispect.tlog.cosignature import cosign, verify_cosignature
from verispect.tlog.fork import MAX_FORK_BYTES, ForkEvidence
from verispect.tlog.merkle import EMPTY_ROOT
from verispect.tlog.note import NoteSignature, parse_signature_lines
from verispect.tlog.witness import (
    AddCheckpointRequest,
    Conflict,
    Cosign,
    Refused,
    decide,
    encode_cosignatures,
)

OLD = MemoryLog(entries(200))
NEW = MemoryLog(entries(300))
FORKED = MemoryLog([*entries(199), b"something else", *entries(100, "more")])
LATEST = OLD.checkpoint().unverified
REQUEST = AddCheckpointRequest(200, tuple(NEW.consistency(200)), NEW.checkpoint())


def reason_of(call, *arguments, **named):
    with pytest.raises(Error) as caught:
        call(*arguments, **named)
    return caught.value.reason


def ask(request, *, log=TRUSTED, latest=LATEST):
    return decide(request, log=log, latest=latest)


def test_a_request_is_read_as_it_was_written():
    """The body has the lines of the specification."""
    data = REQUEST.encode()
    assert AddCheckpointRequest.parse(data) == REQUEST
    assert data.startswith(b"old 200\n")
    first = AddCheckpointRequest(0, (), NEW.checkpoint())
    assert AddCheckpointRequest.parse(first.encode()) == first
    assert first.encode() == b"old 0\n\n" + NEW.checkpoint().encode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"old 200", b"old 0200"),
        (b"old 200", b"old -1"),
        (b"old 200", b"200"),
        (b"old 200\n", b""),
        (b"old 200\n", b"old 200\nAAAA\n"),
        (b"old 200\n", b"old 200\n" + (b"A" * 43 + b"=\n") * 64),
        (b"\n\nlog", b"\nlog"),
    ],
)
def test_another_body_is_refused(old, new):
    """A witness answers 400 to what is no request."""
    with pytest.raises(Error) as caught:
        AddCheckpointRequest.parse(REQUEST.encode().replace(old, new))
    assert caught.value.reason.value.startswith("malformed-")


def test_a_consistent_checkpoint_is_cosigned():
    """From the latest, from the same one again, and from nothing."""
    decision = ask(REQUEST)
    assert decision == Cosign(NEW.checkpoint().unverified)
    assert decision.status == 200
    again = AddCheckpointRequest(300, (), NEW.checkpoint())
    assert ask(again, latest=NEW.checkpoint().unverified) == decision
    first = AddCheckpointRequest(0, (), NEW.checkpoint())
    assert ask(first, latest=None) == decision
    empty = sign_checkpoint(Checkpoint(ORIGIN, 0, EMPTY_ROOT), signer=SIGNER)
    assert isinstance(ask(AddCheckpointRequest(0, (), empty), latest=None), Cosign)


def test_an_unknown_log_is_not_found_and_a_stranger_forbidden():
    """404 for a log that the witness does not know, 403 for a signature that is not the log's."""
    assert ask(REQUEST, log=None) == Refused(404, Reason.LOG_UNKNOWN)
    elsewhere = TrustedLog("other.example", TRUSTED.keys)
    assert ask(REQUEST, log=elsewhere) == Refused(404, Reason.LOG_UNKNOWN)
    stranger = sign_checkpoint(NEW.checkpoint().unverified, signer=SoftwareSigner(bytes(32)))
    assert ask(replace(REQUEST, checkpoint=stranger)) == Refused(403, Reason.KEY_UNKNOWN)
    line = NoteSignature(ORIGIN, TRUSTED.keys[0].key_hash, bytes(64))
    forged = NEW.checkpoint().with_signatures([line])
    assert ask(replace(REQUEST, checkpoint=forged)) == Refused(403, Reason.SIGNATURE_INVALID)


def test_an_old_size_above_the_new_one_is_bad():
    """400 for a tree that is said to shrink."""
    backwards = AddCheckpointRequest(301, (), NEW.checkpoint())
    assert ask(backwards) == Refused(400, Reason.CONSISTENCY_INVALID)


def test_a_request_from_elsewhere_is_told_where_the_witness_stands():
    """409 with the latest size, which the client then starts from."""
    for old_size, latest in ((0, LATEST), (199, LATEST), (200, None), (200, REQUEST)):
        latest = NEW.checkpoint().unverified if latest is REQUEST else latest
        decision = ask(replace(REQUEST, old_size=old_size), latest=latest)
        assert isinstance(decision, Conflict)
        assert decision.status == 409
        assert not decision.forked
        assert decision.body() == f"{latest.size if latest else 0}\n".encode()


def test_a_witness_never_rolls_back():
    """An older checkpoint, honestly signed, is a conflict once a newer one was co-signed."""
    older = AddCheckpointRequest(200, (), OLD.checkpoint())
    assert ask(older, latest=NEW.checkpoint().unverified) == Conflict(300, forked=False)


def test_two_roots_of_one_size_are_a_fork():
    """409, and the witness knows that it holds evidence."""
    other = MemoryLog([*entries(199), b"something else"])
    request = AddCheckpointRequest(200, (), other.checkpoint())
    assert ask(request) == Conflict(200, forked=True)
    # Whatever old size it pretends.
    assert ask(replace(request, old_size=0)) == Conflict(200, forked=True)


def test_a_proof_that_does_not_hold_is_refused():
    """422 for a forked tree, a missing or damaged proof, and a proof from nothing."""
    unprocessable = Refused(422, Reason.CONSISTENCY_INVALID)
    forked = AddCheckpointRequest(200, tuple(FORKED.consistency(200)), FORKED.checkpoint())
    assert ask(forked) == unprocessable
    assert ask(replace(REQUEST, path=())) == unprocessable
    assert ask(replace(REQUEST, path=REQUEST.path[:-1])) == unprocessable
    assert ask(replace(REQUEST, path=(*REQUEST.path, bytes(32)))) == unprocessable
    proven = AddCheckpointRequest(0, REQUEST.path, NEW.checkpoint())
    assert ask(proven, latest=None) == unprocessable
    same = AddCheckpointRequest(300, REQUEST.path, NEW.checkpoint())
    assert ask(same, latest=NEW.checkpoint().unverified) == unprocessable


def test_the_answer_is_signature_lines():
    """What a witness answers is read back and verifies over the checkpoint."""
    decision = ask(REQUEST)
    signer = SoftwareSigner(bytes(32))
    line = cosign(decision.checkpoint, name="w9", seconds=7, signer=signer)
    (read,) = parse_signature_lines(encode_cosignatures([line]).decode())
    assert read == line
    key = policy(0).witnesses[0]
    assert reason_of(verify_cosignature, NEW.checkpoint().note.text, read, key)


# -- Fork evidence --------------------------------------------------------------------------------


def evidence(smaller=OLD, larger=FORKED):
    size = smaller.size
    root = MemoryLog(larger.entries[:size]).root
    return ForkEvidence(
        smaller.checkpoint(), larger.checkpoint(), root, tuple(larger.consistency(size))
    )


@pytest.mark.parametrize("size", [1, 2, 3, 128, 199, 200, 255, 256, 299, 300])
def test_a_fork_is_proven_at_any_size(size):
    """Two histories that differ in the first leaf are shown at every size of the smaller one."""
    smaller, larger = MemoryLog(entries(size)), MemoryLog(entries(300, "other"))
    shown = ForkEvidence.decode(evidence(smaller, larger).encode())
    assert shown == evidence(smaller, larger)
    shown.verify(TRUSTED)


def test_what_is_no_fork_is_refused():
    """An honest log cannot be accused: not by its own growth, not by a false root or path."""
    invalid = Reason.CONSISTENCY_INVALID
    assert reason_of(evidence(OLD, NEW).verify, TRUSTED) is invalid
    assert reason_of(evidence(OLD, OLD).verify, TRUSTED) is invalid
    honest = evidence(OLD, NEW)
    assert reason_of(replace(honest, root_in_larger=bytes(32)).verify, TRUSTED) is invalid
    assert reason_of(replace(honest, path=()).verify, TRUSTED) is invalid
    swapped = replace(honest, smaller=honest.larger, larger=honest.smaller)
    assert reason_of(swapped.verify, TRUSTED) is invalid


def test_a_fork_that_the_log_did_not_sign_is_refused():
    """Both checkpoints must be the log's."""
    shown = evidence()
    stranger = sign_checkpoint(shown.larger.unverified, signer=SoftwareSigner(bytes(32)))
    assert reason_of(replace(shown, larger=stranger).verify, TRUSTED) is Reason.KEY_UNKNOWN
    elsewhere = TrustedLog("other.example", TRUSTED.keys)
    assert reason_of(shown.verify, elsewhere) is Reason.LOG_UNKNOWN


def test_fork_evidence_of_another_form_is_refused():
    """Version, types, lengths and sizes are checked."""
    fields = decode(evidence().encode())
    for place, value, reason in (
        (0, 2, Reason.UNSUPPORTED_VERSION),
        (0, True, Reason.UNSUPPORTED_VERSION),
        (1, b"", Reason.MALFORMED_NOTE),
        (2, "text", Reason.MALFORMED_LOG_PROOF),
        (3, b"short", Reason.MALFORMED_LOG_PROOF),
        (4, [bytes(32)] * 64, Reason.MALFORMED_LOG_PROOF),
        (4, [1], Reason.MALFORMED_LOG_PROOF),
        (4, None, Reason.MALFORMED_LOG_PROOF),
    ):
        changed = list(fields)
        changed[place] = value
        assert reason_of(ForkEvidence.decode, encode(changed)) is reason, (place, value)
    assert reason_of(ForkEvidence.decode, encode(fields[:4])) is Reason.MALFORMED_LOG_PROOF
    assert reason_of(ForkEvidence.decode, bytes(MAX_FORK_BYTES + 1)) is Reason.TOO_LARGE


def test_evidence_with_too_many_signatures_must_be_bared_first():
    """What does not fit in a leaf is refused, and fits with the log's own signatures only."""
    junk = [NoteSignature(f"junk{number}", b"hash", bytes(600)) for number in range(60)]
    shown = evidence()
    heavy = replace(shown, smaller=shown.smaller.with_signatures(junk))
    assert reason_of(heavy.encode) is Reason.TOO_LARGE
    bare = replace(heavy, smaller=TRUSTED.bare(heavy.smaller))
    assert bare.encode() == shown.encode()
