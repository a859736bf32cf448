"""The add-checkpoint call of a witness (C2SP tlog-witness): its body, and what to answer.

`decide` is the whole rule by which a witness co-signs, without the network and without the store:
the caller reads the latest checkpoint that it co-signed for the log, decides, stores the new one
and only then signs. Reading and storing MUST be one atomic step: otherwise two calls at once can
roll a witness back.

A witness never co-signs a tree that is smaller than the one before, or that does not begin with
it. Where a log signed two trees of one size, the answer says so: that is evidence to keep
(`verispect.tlog.fork`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from verispect.core.encoding import Digest
from verispect.core.errors import MalformedError, Reason, VerificationError
from verispect.tlog.checkpoint import Checkpoint, SignedCheckpoint, TrustedLog
from verispect.tlog.note import MAX_NOTE_BYTES, NoteSignature
from verispect.tlog.proof import MAX_PROOF_HASHES, verify_consistency
from verispect.tlog.text import hashes_from_lines, size_from_decimal, text_from_bytes, to_base64

MAX_WITNESS_REQUEST_BYTES: Final = MAX_NOTE_BYTES + 8 * 1024

SIZE_MEDIA_TYPE: Final = "text/x.tlog.size"
"""Media type of the answer 409."""

_REASON: Final = Reason.MALFORMED_LOG_PROOF


@dataclass(frozen=True, slots=True)
class AddCheckpointRequest:
    """The body of the call: a checkpoint, and the proof from the one before."""

    old_size: int
    path: Sequence[Digest]
    checkpoint: SignedCheckpoint

    def encode(self) -> bytes:
        """Return the body; `parse` of it gives an equal request."""
        lines = [f"old {self.old_size}", *(to_base64(each) for each in self.path)]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.checkpoint.encode()

    @classmethod
    def parse(cls, data: bytes) -> AddCheckpointRequest:
        """Parse a body. A witness answers 400 where this raises.

        Raises:
            MalformedError: `malformed-log-proof`, `malformed-note`, `malformed-checkpoint` or
                `too-large`.
        """
        text = text_from_bytes(data, limit=MAX_WITNESS_REQUEST_BYTES, reason=_REASON)
        head, blank, rest = text.partition("\n\n")
        first, *lines = head.split("\n")
        if not blank or not first.startswith("old "):
            raise MalformedError("not a request to add a checkpoint", reason=_REASON)
        old_size = size_from_decimal(first.removeprefix("old "), reason=_REASON)
        path = hashes_from_lines(lines, limit=MAX_PROOF_HASHES, reason=_REASON)
        return cls(old_size, tuple(path), SignedCheckpoint.parse(rest.encode()))


@dataclass(frozen=True, slots=True)
class Cosign:
    """Store this checkpoint as the latest, then co-sign it."""

    checkpoint: Checkpoint
    status: int = 200


@dataclass(frozen=True, slots=True)
class Conflict:
    """The log spoke of another size than the latest that was co-signed, or of another root."""

    latest_size: int
    forked: bool
    """The log signed two roots for one size."""
    status: int = 409

    def body(self) -> bytes:
        """Return the body of the answer, of type `SIZE_MEDIA_TYPE`."""
        return f"{self.latest_size}\n".encode()


@dataclass(frozen=True, slots=True)
class Refused:
    """The request is not one to co-sign."""

    status: int
    reason: Reason


Decision = Cosign | Conflict | Refused


def decide(
    request: AddCheckpointRequest, *, log: TrustedLog | None, latest: Checkpoint | None
) -> Decision:
    """Decide whether to co-sign.

    1. The log is known (404) and signed the checkpoint (403).
    2. The old size is not above the new one (400).
    3. The old size is that of the latest checkpoint that was co-signed (409).
    4. At one size the roots are one (409).
    5. The proof shows that the new tree begins with the latest (422).

    Args:
        request: the parsed request.
        log: the log with the checkpoint's origin; `None` where the witness knows none.
        latest: what was co-signed last for this origin; `None` where nothing was.
    """
    # 1. The log.
    if log is None:
        return Refused(404, Reason.LOG_UNKNOWN)
    try:
        checkpoint = log.verify(request.checkpoint)
    except VerificationError as error:
        return Refused(404 if error.reason is Reason.LOG_UNKNOWN else 403, error.reason)
    # 2. Not backwards.
    if request.old_size > checkpoint.size:
        return Refused(400, Reason.CONSISTENCY_INVALID)
    # 3. and 4. From where this witness stands.
    latest_size = 0 if latest is None else latest.size
    forked = (
        latest is not None and latest.size == checkpoint.size and latest.root != checkpoint.root
    )
    if request.old_size != latest_size or forked:
        return Conflict(latest_size, forked)
    # 5. The proof. From the empty tree it is empty and everything is consistent.
    if latest_size:
        assert latest is not None
        try:
            verify_consistency(
                old_size=latest.size,
                old_root=latest.root,
                new_size=checkpoint.size,
                new_root=checkpoint.root,
                path=request.path,
            )
        except VerificationError as error:
            return Refused(422, error.reason)
    elif request.path:
        return Refused(422, Reason.CONSISTENCY_INVALID)
    return Cosign(checkpoint)


def encode_cosignatures(signatures: Sequence[NoteSignature]) -> bytes:
    """Return the body of the answer 200; `note.parse_signature_lines` reads it."""
    return "".join(signature.encode() for signature in signatures).encode()
