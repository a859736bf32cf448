"""Cosignatures of witnesses (C2SP tlog-cosignature, Ed25519), and how many of them suffice.

A cosignature says: as of this second, the largest consistent tree that I saw of this log has this
size and root. The signed bytes begin with a line of their own, so that a cosignature is never
taken for a log's signature or the reverse, and a witness's key hash is computed under a type of
its own. The witness's name is not signed: one key under two names would count twice, and is
refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from verispect.core.errors import MalformedError, Reason, VerificationError
from verispect.core.keys import SIGNATURE_BYTES, Signer
from verispect.tlog.checkpoint import Checkpoint, SignedCheckpoint
from verispect.tlog.note import NoteSignature, SignatureType, VerifierKey, check_distinct

MAX_WITNESSES: Final = 64
MAX_COSIGNATURE_SECONDS: Final = (1 << 63) - 1
MAX_CLOCK_SKEW_SECONDS: Final = 60
"""How far ahead of the caller's time a witness's clock may be."""

_TIME_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A verified cosignature."""

    witness: VerifierKey
    cosigned_at_seconds: int
    """Seconds since the epoch, by the witness's clock."""


def witness_key(name: str, signer: Signer) -> VerifierKey:
    """Return the key under which `signer` co-signs as the witness `name`.

    Raises:
        MalformedError: `malformed-key`.
    """
    return VerifierKey(name, signer.public_key, SignatureType.COSIGNATURE)


def _message(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def cosign(checkpoint: Checkpoint, *, name: str, seconds: int, signer: Signer) -> NoteSignature:
    """Co-sign a checkpoint that the caller found consistent with all it saw of the log.

    Args:
        checkpoint: the checkpoint.
        name: the witness's name.
        seconds: the time, in seconds since the epoch.
        signer: holder of the witness's private key.

    Raises:
        MalformedError: `malformed-key`.
        ValueError: for a time out of range.
    """
    if not 0 <= seconds <= MAX_COSIGNATURE_SECONDS:
        raise ValueError("the time of a cosignature is out of range")
    signature = signer.sign(_message(checkpoint.text(), seconds))
    stamped = seconds.to_bytes(_TIME_BYTES, "big") + signature
    return NoteSignature(name, witness_key(name, signer).key_hash, stamped)


def verify_cosignature(text: str, signature: NoteSignature, key: VerifierKey) -> Cosignature:
    """Check one cosignature over the text of a checkpoint.

    Args:
        text: the text of the checkpoint's note.
        signature: the line.
        key: the witness's key.

    Raises:
        VerificationError: `key-unknown` where the line is not this witness's, `signature-invalid`.
    """
    if key.type is not SignatureType.COSIGNATURE or not key.matches(signature):
        raise VerificationError("the line is not this witness's", reason=Reason.KEY_UNKNOWN)
    data = signature.signature
    seconds = int.from_bytes(data[:_TIME_BYTES], "big")
    if len(data) != _TIME_BYTES + SIGNATURE_BYTES or seconds > MAX_COSIGNATURE_SECONDS:
        raise VerificationError("not a timestamped signature", reason=Reason.SIGNATURE_INVALID)
    key.key.verify(_message(text, seconds), data[_TIME_BYTES:])
    return Cosignature(key, seconds)


@dataclass(frozen=True, slots=True)
class WitnessPolicy:
    """How many of which witnesses must have co-signed: k of n.

    Args:
        threshold: how many; zero says in so many words that none is required.
        witnesses: the keys that count, each of type `COSIGNATURE`.

    Raises:
        MalformedError: `malformed-policy` where it cannot be met, or a key is not a witness's;
            `malformed-key` where one key stands twice.
    """

    threshold: int
    witnesses: Sequence[VerifierKey]

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= len(self.witnesses) <= MAX_WITNESSES:
            raise MalformedError(
                f"expected 0 to {len(self.witnesses)} of at most {MAX_WITNESSES} witnesses",
                reason=Reason.MALFORMED_POLICY,
            )
        if any(key.type is not SignatureType.COSIGNATURE for key in self.witnesses):
            raise MalformedError("a key is not a witness's", reason=Reason.MALFORMED_POLICY)
        check_distinct(self.witnesses)

    def verify(self, signed: SignedCheckpoint, *, now_seconds: int) -> list[Cosignature]:
        """Return the cosignatures that count, one per witness: its latest.

        Those of other witnesses are ignored. One from the future does not count.

        Args:
            signed: the checkpoint.
            now_seconds: the time of judging, in seconds since the epoch.

        Raises:
            VerificationError: `signature-invalid` where a line under a trusted witness's name and
                hash does not verify, `witnesses-missing` where too few co-signed.
        """
        counted = []
        for key in self.witnesses:
            found = [
                verify_cosignature(signed.note.text, signature, key)
                for signature in signed.note.signatures
                if key.matches(signature)
            ]
            latest = max(
                (
                    each
                    for each in found
                    if each.cosigned_at_seconds <= now_seconds + MAX_CLOCK_SKEW_SECONDS
                ),
                key=lambda each: each.cosigned_at_seconds,
                default=None,
            )
            if latest is not None:
                counted.append(latest)
        if len(counted) < self.threshold:
            raise VerificationError(
                f"expected {self.threshold} witnesses, got {len(counted)}",
                reason=Reason.WITNESSES_MISSING,
            )
        return counted
