"""Proof files (C2SP tlog-proof): all that is needed to check, offline, that a leaf is in a log.

A file holds the leaf's index, its inclusion proof and the checkpoint with its cosignatures. The
extra data is nobody's word: it is carried and never believed. `TlogProof.verify` is given the
leaf, the log and the witnesses that the caller trusts, and the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from verispect.core.encoding import Digest
from verispect.core.errors import MalformedError, Reason
from verispect.tlog.checkpoint import Checkpoint, SignedCheckpoint, TrustedLog
from verispect.tlog.cosignature import Cosignature, WitnessPolicy
from verispect.tlog.merkle import leaf_hash
from verispect.tlog.note import MAX_NOTE_BYTES
from verispect.tlog.proof import MAX_PROOF_HASHES, verify_inclusion
from verispect.tlog.text import (
    from_base64,
    hashes_from_lines,
    size_from_decimal,
    text_from_bytes,
    to_base64,
)

MAX_EXTRA_BYTES: Final = 64 * 1024
MAX_TLOG_PROOF_BYTES: Final = MAX_NOTE_BYTES + 128 * 1024

_MAGIC: Final = "c2sp.org/tlog-proof@v1"
_REASON: Final = Reason.MALFORMED_LOG_PROOF


@dataclass(frozen=True, slots=True)
class VerifiedInclusion:
    """What a verified proof says: this leaf is in this log."""

    checkpoint: Checkpoint
    index: int
    cosignatures: Sequence[Cosignature]


@dataclass(frozen=True, slots=True)
class TlogProof:
    """A parsed proof file, believed by nobody."""

    index: int
    path: Sequence[Digest]
    """From the leaf's sibling up."""
    checkpoint: SignedCheckpoint
    unauthenticated_extra: bytes | None = None
    """Data for the application, which nobody signed."""

    def encode(self) -> bytes:
        """Return the bytes; `parse` of them gives an equal proof."""
        lines = [_MAGIC]
        if self.unauthenticated_extra is not None:
            lines.append(f"extra {to_base64(self.unauthenticated_extra)}")
        lines.append(f"index {self.index}")
        lines += [to_base64(each) for each in self.path]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.checkpoint.encode()

    @classmethod
    def parse(cls, data: bytes) -> TlogProof:
        """Parse a proof file. Shape only: nothing is verified.

        Raises:
            MalformedError: `malformed-log-proof`, `malformed-note`, `malformed-checkpoint` or
                `too-large`.
        """
        text = text_from_bytes(data, limit=MAX_TLOG_PROOF_BYTES, reason=_REASON)
        # No line of the proof is empty, so the first empty line is where the checkpoint begins.
        head, blank, rest = text.partition("\n\n")
        lines = head.split("\n")
        if not blank or lines.pop(0) != _MAGIC:
            raise MalformedError("not a proof file of version 1", reason=_REASON)
        extra = None
        if lines and lines[0].startswith("extra "):
            extra = from_base64(lines.pop(0).removeprefix("extra "), reason=_REASON)
            if len(extra) > MAX_EXTRA_BYTES:
                raise MalformedError("the extra data is too large", reason=Reason.TOO_LARGE)
        if not lines or not lines[0].startswith("index "):
            raise MalformedError("there is no index", reason=_REASON)
        index = size_from_decimal(lines.pop(0).removeprefix("index "), reason=_REASON)
        path = hashes_from_lines(lines, limit=MAX_PROOF_HASHES, reason=_REASON)
        return cls(index, tuple(path), SignedCheckpoint.parse(rest.encode()), extra)

    def verify(
        self, leaf: bytes, *, log: TrustedLog, witnesses: WitnessPolicy, now_seconds: int
    ) -> VerifiedInclusion:
        """Check that `leaf` is in the log, as its checkpoint and the witnesses say.

        1. The checkpoint is the log's and signed by it.
        2. Enough witnesses co-signed it.
        3. The leaf hashes, at the index and along the path, to its root.

        Args:
            leaf: the whole leaf, not its hash.
            log: the log that the caller trusts.
            witnesses: how many of which must have co-signed.
            now_seconds: the time of judging, in seconds since the epoch.

        Raises:
            VerificationError: `log-unknown`, `key-unknown`, `signature-invalid`,
                `witnesses-missing` or `inclusion-invalid`.
        """
        # 1. The log.
        checkpoint = log.verify(self.checkpoint)
        # 2. The witnesses.
        cosignatures = witnesses.verify(self.checkpoint, now_seconds=now_seconds)
        # 3. The tree.
        verify_inclusion(
            leaf_hash(leaf),
            index=self.index,
            size=checkpoint.size,
            path=self.path,
            root=checkpoint.root,
        )
        return VerifiedInclusion(checkpoint, self.index, cosignatures)
