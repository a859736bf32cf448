"""Evidence that a log forked: two trees that it signed, of which neither begins with the other.

The evidence needs nobody's word. It holds both checkpoints, the root that the first leaves of the
larger tree really have, and the consistency proof that shows it: where that root is not the one
that the log signed for the smaller tree, there are two histories. For two trees of one size the
two signed roots suffice, and the proof is empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from verispect.core.encoding import DIGEST_BYTES, Digest, decode, encode
from verispect.core.errors import MalformedError, Reason, UnsupportedError, VerificationError
from verispect.tlog.checkpoint import SignedCheckpoint, TrustedLog
from verispect.tlog.proof import MAX_PROOF_HASHES, verify_consistency

FORK_VERSION: Final = 1
MAX_FORK_BYTES: Final = 48 * 1024
"""So that it fits in a leaf, with the signature of whoever reports it."""


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_LOG_PROOF)


@dataclass(frozen=True, slots=True)
class ForkEvidence:
    """Two checkpoints and what of the larger tree contradicts the smaller, believed by nobody."""

    smaller: SignedCheckpoint
    larger: SignedCheckpoint
    root_in_larger: Digest
    """The root of as many leaves of the larger tree as the smaller one has."""
    path: Sequence[Digest]
    """The consistency proof from `root_in_larger` to the larger tree."""

    def encode(self) -> bytes:
        """Return the deterministic CBOR form; `decode` of it gives equal evidence.

        Raises:
            MalformedError: `too-large` where the checkpoints carry too many signatures.
        """
        data = encode(
            [
                FORK_VERSION,
                self.smaller.encode(),
                self.larger.encode(),
                self.root_in_larger,
                list(self.path),
            ]
        )
        if len(data) > MAX_FORK_BYTES:
            raise MalformedError("the evidence is too large", reason=Reason.TOO_LARGE)
        return data

    @classmethod
    def decode(cls, data: bytes) -> ForkEvidence:
        """Read the form that `encode` makes.

        Raises:
            MalformedError: `malformed-log-proof`, `malformed-cbor`, `malformed-note`,
                `malformed-checkpoint` or `too-large`.
            UnsupportedError: `unsupported-version`.
        """
        fields = decode(data, limit=MAX_FORK_BYTES)
        if type(fields) is not list or len(fields) != 5:
            raise _malformed("not fork evidence")
        version, smaller, larger, root, path = fields
        if type(version) is not int or version != FORK_VERSION:
            raise UnsupportedError(
                f"expected fork evidence of version {FORK_VERSION}",
                reason=Reason.UNSUPPORTED_VERSION,
            )
        if type(smaller) is not bytes or type(larger) is not bytes or type(path) is not list:
            raise _malformed("a field of fork evidence has another type")
        if len(path) > MAX_PROOF_HASHES:
            raise _malformed(f"expected at most {MAX_PROOF_HASHES} hashes")
        if any(type(each) is not bytes or len(each) != DIGEST_BYTES for each in (root, *path)):
            raise _malformed(f"a hash is not {DIGEST_BYTES} bytes")
        return cls(
            SignedCheckpoint.parse(smaller),
            SignedCheckpoint.parse(larger),
            Digest(root),
            tuple(path),
        )

    def verify(self, log: TrustedLog) -> None:
        """Check that the log forked. Returns where it did.

        1. The log signed both checkpoints.
        2. The given root is that of the larger tree's first leaves.
        3. It is not the one that the log signed.

        Args:
            log: the log that is accused.

        Raises:
            VerificationError: `log-unknown`, `key-unknown` or `signature-invalid` where the log
                did not sign both; `consistency-invalid` where the evidence shows no fork.
        """
        # 1. Both are the log's.
        smaller, larger = log.verify(self.smaller), log.verify(self.larger)
        # 2. What the larger tree begins with.
        verify_consistency(
            old_size=smaller.size,
            old_root=self.root_in_larger,
            new_size=larger.size,
            new_root=larger.root,
            path=self.path,
        )
        # 3. Not what was signed.
        if self.root_in_larger == smaller.root:
            raise VerificationError(
                "the larger tree begins with the smaller one", reason=Reason.CONSISTENCY_INVALID
            )
