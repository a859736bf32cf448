"""COSE Receipts (RFC 9942) of our log: the same proofs, for tools that speak COSE.

A receipt is a COSE_Sign1 by the log's key over the root of its tree, detached, with an inclusion
or a consistency proof (verifiable data structure 1, RFC9162_SHA256) in the unprotected header. The
verifier computes the root from the leaf and the proof, so the signature can only match where the
proof does.

The signed root does not say how many leaves it spans. Our profile signs the size too: the CWT
claims give the log's origin as issuer and the size as subject, and a proof for another size is
refused. What is signed here begins with a byte that no UTF-8 text begins with, so that the log's
one key never signs a note that is a receipt or the reverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from verispect.core.encoding import DIGEST_BYTES, Digest, byte_string, decode, encode
from verispect.core.envelope import SignedEnvelope, open_envelope, signed_bytes
from verispect.core.errors import MalformedError, Reason, UnsupportedError, VerificationError
from verispect.core.keys import SIGNATURE_BYTES, KeyId, PublicKey, Signer
from verispect.tlog.merkle import MAX_TREE_SIZE, leaf_hash
from verispect.tlog.proof import MAX_PROOF_HASHES, consistent_root, inclusion_root

MAX_COSE_RECEIPT_BYTES: Final = 8 * 1024
MAX_ATTACHED_RECEIPTS: Final = 16

RECEIPTS_LABEL: Final = 394
STRUCTURE_LABEL: Final = 395
PROOFS_LABEL: Final = 396

_ALGORITHM, _CRITICAL, _KEY_ID, _CWT_CLAIMS = 1, 2, 4, 15
_ISSUER, _SUBJECT = 1, 2
_EDDSA, _ED25519 = -8, -19
_RFC9162_SHA256: Final = 1
_INCLUSION, _CONSISTENCY = -1, -2
_SIGN1_START: Final = b"\xd2\x84"


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """A leaf's place and its path."""

    size: int
    index: int
    path: Sequence[Digest]


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """The path from an older tree, which is not empty, to a larger one."""

    old_size: int
    size: int
    path: Sequence[Digest]


@dataclass(frozen=True, slots=True)
class CoseReceipt:
    """A parsed receipt of a log, believed by nobody."""

    origin: str
    key_id: KeyId
    proof: InclusionProof | ConsistencyProof
    protected: bytes
    signature: bytes

    def encode(self) -> bytes:
        """Return the tagged COSE_Sign1; `parse` of it gives an equal receipt."""
        match self.proof:
            case InclusionProof(size, index, path):
                proofs = {_INCLUSION: [encode([size, index, list(path)])]}
            case ConsistencyProof(old_size, size, path):
                proofs = {_CONSISTENCY: [encode([old_size, size, list(path)])]}
        unprotected = encode({PROOFS_LABEL: proofs})
        return (
            _SIGN1_START
            + byte_string(self.protected)
            + unprotected
            + b"\xf6"  # The payload is detached.
            + byte_string(self.signature)
        )

    @classmethod
    def parse(cls, data: bytes) -> CoseReceipt:
        """Parse a receipt's bytes. Shape only: nothing is verified.

        Raises:
            MalformedError: `malformed-log-proof`, `malformed-cbor` or `too-large`.
            UnsupportedError: `unsupported-algorithm` or `unsupported-critical-field`.
        """
        if data[:1] != _SIGN1_START[:1]:
            raise _malformed("not a tagged COSE_Sign1")
        fields = decode(data[1:], limit=MAX_COSE_RECEIPT_BYTES)
        if type(fields) is not list or len(fields) != 4:
            raise _malformed("COSE_Sign1 is not an array of four")
        protected, unprotected, payload, signature = fields
        if type(protected) is not bytes or type(signature) is not bytes:
            raise _malformed("protected header and signature must be byte strings")
        if payload is not None or len(signature) != SIGNATURE_BYTES:
            raise _malformed("the payload is attached, or the signature has the wrong length")
        origin, size, key_id = _parse_protected(protected)
        proof = _parse_proof(unprotected)
        if str(proof.size) != size:
            raise _malformed("the proof is for another size than the one that is signed")
        return cls(origin, key_id, proof, protected, signature)

    def verify_inclusion(self, leaf: bytes, *, origin: str, key: PublicKey) -> Digest:
        """Check that `leaf` is in the log and return the root that the log signed.

        Args:
            leaf: the whole leaf, not its hash.
            origin: the log that the caller trusts.
            key: its key.

        Raises:
            VerificationError: `log-unknown`, `inclusion-invalid` or `signature-invalid`.
        """
        if not isinstance(self.proof, InclusionProof):
            raise VerificationError(
                "the receipt is of consistency, not of inclusion", reason=Reason.INCLUSION_INVALID
            )
        proof = self.proof
        root = inclusion_root(leaf_hash(leaf), proof.index, proof.size, proof.path)
        self._verify_root(root, origin, key)
        return root

    def verify_consistency(
        self, *, old_size: int, old_root: bytes, origin: str, key: PublicKey
    ) -> Digest:
        """Check that the log grew from an older tree and return the newer root that it signed.

        Args:
            old_size: the size of the tree that the caller trusts.
            old_root: its root.
            origin: the log that the caller trusts.
            key: its key.

        Raises:
            VerificationError: `log-unknown`, `consistency-invalid` or `signature-invalid`.
        """
        if not isinstance(self.proof, ConsistencyProof) or self.proof.old_size != old_size:
            raise VerificationError(
                "the receipt is not of consistency with that size",
                reason=Reason.CONSISTENCY_INVALID,
            )
        root = consistent_root(old_size, old_root, self.proof.size, self.proof.path)
        self._verify_root(root, origin, key)
        return root

    def _verify_root(self, root: Digest, origin: str, key: PublicKey) -> None:
        if self.origin != origin or self.key_id != key.key_id:
            raise VerificationError("the receipt is another log's", reason=Reason.LOG_UNKNOWN)
        key.verify(signed_bytes(self.protected, root), self.signature)


def sign_cose_receipt(
    proof: InclusionProof | ConsistencyProof, root: Digest, *, origin: str, signer: Signer
) -> CoseReceipt:
    """Sign a receipt as the log.

    Args:
        proof: a proof that leads to `root`.
        root: the root of the tree with the proof's (newer) size.
        origin: the log's origin.
        signer: holder of the log's private key.
    """
    key_id = signer.public_key.key_id
    protected = encode(
        {
            _ALGORITHM: _EDDSA,
            _KEY_ID: key_id,
            _CWT_CLAIMS: {_ISSUER: origin, _SUBJECT: str(proof.size)},
            STRUCTURE_LABEL: _RFC9162_SHA256,
        }
    )
    signature = signer.sign(signed_bytes(protected, root))
    return CoseReceipt(origin, key_id, proof, protected, signature)


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_LOG_PROOF)


def _parse_protected(protected: bytes) -> tuple[str, str, KeyId]:
    """Return origin, signed size and key identifier."""
    header = decode(protected, limit=1024)
    if type(header) is not dict:
        raise _malformed("protected header is not a map")
    if _CRITICAL in header:
        raise UnsupportedError(
            "no critical header parameter is known", reason=Reason.UNSUPPORTED_CRITICAL_FIELD
        )
    if header.keys() != {_ALGORITHM, _KEY_ID, _CWT_CLAIMS, STRUCTURE_LABEL}:
        raise _malformed("a protected header parameter is missing or unknown")
    structure = header[STRUCTURE_LABEL]
    known = type(structure) is int and structure == _RFC9162_SHA256  # True equals 1.
    if header[_ALGORITHM] not in (_EDDSA, _ED25519) or not known:
        raise UnsupportedError(
            "expected algorithm -8 or -19 and verifiable data structure 1",
            reason=Reason.UNSUPPORTED_ALGORITHM,
        )
    key_id, claims = header[_KEY_ID], header[_CWT_CLAIMS]
    if type(key_id) is not bytes or len(key_id) != DIGEST_BYTES:
        raise _malformed("key identifier is not a thumbprint of 32 bytes")
    if type(claims) is not dict or claims.keys() != {_ISSUER, _SUBJECT}:
        raise _malformed("CWT claims are not issuer and subject")
    origin, size = claims[_ISSUER], claims[_SUBJECT]
    if type(origin) is not str or not origin.isprintable() or type(size) is not str:
        raise _malformed("a CWT claim is not printable text")
    return origin, size, KeyId(key_id)


def _parse_proof(unprotected: Any) -> InclusionProof | ConsistencyProof:
    proofs = unprotected.get(PROOFS_LABEL) if type(unprotected) is dict else None
    if type(proofs) is not dict or len(unprotected) != 1 or len(proofs) != 1:
        raise _malformed("the unprotected header is not one kind of proof")
    ((kind, entries),) = proofs.items()
    if kind not in (_INCLUSION, _CONSISTENCY) or type(entries) is not list or len(entries) != 1:
        raise _malformed("expected one inclusion or one consistency proof")
    if type(entries[0]) is not bytes:
        raise _malformed("a proof is not a byte string")
    first, second, path = _parse_fields(entries[0])
    if kind == _INCLUSION:
        if second >= first:
            raise _malformed("the index is not in the tree")
        return InclusionProof(first, second, path)
    if not 0 < first < second:
        raise _malformed("the newer tree is not larger")
    return ConsistencyProof(first, second, path)


def _parse_fields(data: bytes) -> tuple[int, int, tuple[Digest, ...]]:
    """Read the two numbers and the path of a proof of either kind."""
    fields = decode(data, limit=MAX_COSE_RECEIPT_BYTES)
    if type(fields) is not list or len(fields) != 3:
        raise _malformed("a proof is not an array of three")
    first, second, path = fields
    for number in (first, second):
        if type(number) is not int or not 0 <= number <= MAX_TREE_SIZE:
            raise _malformed("a size or an index is out of range")
    if type(path) is not list or len(path) > MAX_PROOF_HASHES:
        raise _malformed(f"a path is not at most {MAX_PROOF_HASHES} hashes")
    if any(type(each) is not bytes or len(each) != DIGEST_BYTES for each in path):
        raise _malformed(f"a path holds something other than hashes of {DIGEST_BYTES} bytes")
    return first, second, tuple(path)


# -- Transparent statements ---------------------------------------------------------------------


def attach_receipts(statement: SignedEnvelope, receipts: Sequence[CoseReceipt]) -> bytes:
    """Return the statement as a Transparent Statement (RFC 9943): with receipts, label 394.

    The evidence of the envelope is left out: what carries receipts is the signed statement alone.

    Args:
        statement: the signed statement.
        receipts: receipts of inclusion; the statement's signature does not cover them.
    """
    header = encode({RECEIPTS_LABEL: [receipt.encode() for receipt in receipts]})
    return (
        _SIGN1_START
        + byte_string(statement.protected)
        + header
        + byte_string(statement.payload)
        + byte_string(statement.signature)
    )


def detach_receipts(
    data: bytes, *, content_type: str
) -> tuple[SignedEnvelope, tuple[CoseReceipt, ...]]:
    """Split a Transparent Statement into the statement and its receipts, neither verified.

    Raises:
        MalformedError: `malformed-log-proof`, and as `open_envelope` and `CoseReceipt.parse`.
        UnsupportedError: as these.
    """
    limit = MAX_COSE_RECEIPT_BYTES * (MAX_ATTACHED_RECEIPTS + 2)
    fields = decode(data[1:], limit=limit) if data[:1] == _SIGN1_START[:1] else None
    if type(fields) is not list or len(fields) != 4:
        raise _malformed("not a tagged COSE_Sign1")
    protected, unprotected, payload, signature = fields
    receipts = unprotected.get(RECEIPTS_LABEL) if type(unprotected) is dict else None
    if type(receipts) is not list or len(unprotected) != 1:
        raise _malformed("the unprotected header holds something other than receipts")
    if not 0 < len(receipts) <= MAX_ATTACHED_RECEIPTS:
        raise _malformed(f"expected 1 to {MAX_ATTACHED_RECEIPTS} receipts")
    if any(type(each) is not bytes for each in receipts):
        raise _malformed("a receipt is not a byte string")
    bare = _SIGN1_START[:1] + encode([protected, {}, payload, signature])
    statement = replace(open_envelope(bare, content_type=content_type), evidence=())
    return statement, tuple(CoseReceipt.parse(each) for each in receipts)
