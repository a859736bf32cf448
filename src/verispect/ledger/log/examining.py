"""Examines receipts of others before they get a place in the log: form, key, signature.

Pure of input and output, so that it runs in worker processes. It says of each receipt either its
entry or the reason why it has none; it believes nothing else that a receipt says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from verispect.core.batch import batch_leaf, batch_message, split_batch_signature
from verispect.core.encoding import DIGEST_BYTES, Digest
from verispect.core.envelope import signed_bytes
from verispect.core.errors import Error, Reason, VerificationError
from verispect.core.keys import SIGNATURE_BYTES, KeyId, PublicKey
from verispect.core.receipt import InferenceReceipt
from verispect.evidence.interface import IssuerKey
from verispect.ledger.log.usual import Fitted, Shape
from verispect.tlog.merkle import node_hash
from verispect.tlog.receipt_leaf import Disclosure, ReceiptLeaf

MAX_INGESTED_BYTES: Final = 64 * 1024
"""Of one receipt: larger evidence is delivered beside it."""

_MAX_SHAPES: Final = 16
_MAX_TREES: Final = 64

Examined = tuple[Digest, bytes] | Reason
"""A receipt's digest and leaf, or why it is refused."""


class Examiner:
    """Examines receipts of the issuers whose keys the log accepts.

    Args:
        issuers: the keys.
        disclose: what leaves show in the clear, by the log's description.
        development_keys: whether receipts of development keys are taken.
    """

    def __init__(
        self, issuers: Iterable[IssuerKey], *, disclose: Disclosure, development_keys: bool = False
    ) -> None:
        self._issuers: dict[KeyId, IssuerKey] = {each.key.key_id: each for each in issuers}
        self._disclose = disclose
        self._development_keys = development_keys
        self._shapes: list[Shape] = []
        self._trees: dict[bytes, BatchTree] = {}

    def examine(self, receipts: Sequence[bytes]) -> list[Examined]:
        """Return for each receipt its entry, or why it has none."""
        return [self._examine(data) for data in receipts]

    def _examine(self, data: bytes) -> Examined:
        if len(data) > MAX_INGESTED_BYTES:
            return Reason.TOO_LARGE
        try:
            read = self._read(data)
            issuer = self._issuers.get(read.key_id)
            if issuer is None:
                return Reason.KEY_UNKNOWN
            self._verify(read, issuer.key)
        except Error as error:
            return error.reason
        refused = self._refuse(read, issuer)
        return (read.receipt, read.leaf) if refused is None else refused

    def _read(self, data: bytes) -> Fitted:
        for place, shape in enumerate(self._shapes):
            fitted = shape.fit(data)
            if fitted is not None:
                if place:
                    self._shapes.insert(0, self._shapes.pop(place))
                return fitted
        receipt = InferenceReceipt.parse(data)
        envelope = receipt.envelope
        leaf = ReceiptLeaf.of(receipt, disclose=self._disclose)
        # A shape of an unknown issuer would only push out those that are needed.
        known = envelope.key_id in self._issuers
        shape_of = Shape.of(data, receipt, self._disclose) if known else None
        if shape_of is not None:
            self._shapes = [shape_of, *self._shapes[: _MAX_SHAPES - 1]]
        return Fitted(
            leaf.receipt,
            leaf.encode(),
            signed_bytes(envelope.protected, envelope.payload),
            envelope.signature,
            envelope.key_id,
            envelope.issuer,
            leaf.signed_at,
        )

    def _verify(self, read: Fitted, key: PublicKey) -> None:
        if len(read.signature) == SIGNATURE_BYTES:
            key.verify(read.message, read.signature)
            return
        name = key.raw + read.signature[: SIGNATURE_BYTES + 2]
        tree = self._trees.get(name)
        if tree is None:
            tree = BatchTree(key)
            if len(self._trees) >= _MAX_TREES:
                del self._trees[next(iter(self._trees))]
            self._trees[name] = tree
        tree.verify(read.message, read.signature)

    def _refuse(self, read: Fitted, issuer: IssuerKey) -> Reason | None:
        if issuer.issuer != read.issuer:
            return Reason.ISSUER_MISMATCH
        if issuer.development and not self._development_keys:
            return Reason.DEVELOPMENT_KEY
        if read.signed_at < issuer.not_before:
            return Reason.KEY_NOT_YET_VALID
        if issuer.not_after is not None and read.signed_at >= issuer.not_after:
            return Reason.KEY_EXPIRED
        return None if issuer.revoked_at is None else Reason.KEY_REVOKED


class BatchTree:
    """One signed batch: nodes that are known to lead to its root are not climbed again.

    Args:
        key: the issuer's; every signature that is given to one object claims the same batch.
    """

    __slots__ = ("_key", "_known")

    def __init__(self, key: PublicKey) -> None:
        self._key = key
        self._known: dict[tuple[int, int, Digest], bytes] = {}
        """The rest of the path from a node, by its place, the last place of its row, its hash."""

    def verify(self, message: bytes, signature: bytes) -> None:
        """Check a batch signature, exactly as `core.batch` does.

        Raises:
            VerificationError: `signature-invalid`.
        """
        single, count, index, path = split_batch_signature(signature)
        place, last, node = index, count - 1, Digest(batch_leaf(message))
        rest = SIGNATURE_BYTES + 4
        climbed = []
        for sibling in path:
            here = (place, last, node)
            if self._known.get(here) == signature[rest:]:
                break
            climbed.append((here, signature[rest:]))
            if last == 0:
                raise _invalid("the path of a batch signature is too long")
            if place & 1 or place == last:
                node = node_hash(sibling, node)
                while not place & 1 and place:
                    place >>= 1
                    last >>= 1
            else:
                node = node_hash(node, sibling)
            place >>= 1
            last >>= 1
            rest += DIGEST_BYTES
        else:
            if last != 0:
                raise _invalid("the path of a batch signature is too short")
            root = (0, 0, node)
            if self._known.get(root) != b"":
                self._key.verify(batch_message(count, node), single)
                self._known[root] = b""
        self._known.update(climbed)


def _invalid(what: str) -> VerificationError:
    return VerificationError(what, reason=Reason.SIGNATURE_INVALID)
