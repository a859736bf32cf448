"""Answers what anyone may ask of a log: is this in it, since when, did it only grow.

Every answer is made from tiles and from a checkpoint that the log signed earlier, so this module
holds no key. It refuses to prove what is not in the tree yet: such an entry has its index, and its
proof comes within the maximum merge delay.
"""

from __future__ import annotations

from verispect.core.encoding import Digest
from verispect.core.errors import Reason, RequestError
from verispect.core.keys import KeyId, PublicKey
from verispect.ledger.log.appender import with_cosignatures
from verispect.ledger.log.interface import CheckpointRecord, LogState, TileStore
from verispect.ledger.log.reading import TileReader
from verispect.tlog.cose_receipt import ConsistencyProof, CoseReceipt, InclusionProof
from verispect.tlog.proof import make_consistency_proof, make_inclusion_proof
from verispect.tlog.tlog_proof import TlogProof


class Proofs:
    """The read side of one log; used from one thread at a time.

    Args:
        state: a connection of its own.
        tiles: the log's tiles.
        origin: the log's name.
        key: the log's public key.
    """

    def __init__(self, state: LogState, tiles: TileStore, *, origin: str, key: PublicKey) -> None:
        self._state = state
        self._reader = TileReader(tiles)
        self._origin = origin
        self._key_id: KeyId = key.key_id

    def index_of(self, key: Digest) -> int:
        """Return the index of a receipt, by its digest, or of another leaf, by its hash.

        Raises:
            RequestError: `receipt-not-found`.
            StoreError: `store-failed`.
        """
        (index,) = self._state.find([key])
        if index is None:
            raise RequestError("the log has no such entry", reason=Reason.RECEIPT_NOT_FOUND)
        return index

    def inclusion(self, key: Digest, *, at_least: int = 0) -> TlogProof:
        """Return the proof that an entry is in the log.

        Args:
            key: the digest of a receipt, or the hash of another leaf.
            at_least: with this, in the first checkpoint of at least this size instead of the
                latest, as for a checkpoint that witnesses co-signed.

        Raises:
            RequestError: `receipt-not-found`; `leaf-pending` where it waits.
            StoreError: `store-failed`.
        """
        index = self.index_of(key)
        record = self._record_with(index, at_least)
        path = make_inclusion_proof(self._reader.hashes(record.size), index, record.size)
        return TlogProof(index, tuple(path), with_cosignatures(self._state, record))

    def cose_receipt(self, key: Digest, *, at_least: int = 0) -> CoseReceipt:
        """Return the same proof as a COSE receipt (RFC 9942).

        Raises:
            RequestError: `receipt-not-found`; `leaf-pending`.
            StoreError: `store-failed`.
        """
        index = self.index_of(key)
        record = self._record_with(index, at_least)
        path = make_inclusion_proof(self._reader.hashes(record.size), index, record.size)
        return self._cose(record, InclusionProof(record.size, index, tuple(path)))

    def consistency(self, old_size: int) -> tuple[CheckpointRecord, tuple[Digest, ...]]:
        """Return the latest checkpoint and the proof that it begins with an older tree.

        Raises:
            RequestError: `leaf-pending` where the log is not that large.
            StoreError: `store-failed`.
        """
        record = self._record_with(old_size - 1, 0)
        reader = self._reader.hashes(record.size)
        return record, tuple(make_consistency_proof(reader, old_size, record.size))

    def cose_consistency(self, old_size: int) -> CoseReceipt:
        """Return a COSE receipt of consistency with an older tree, which is not empty.

        Raises:
            RequestError: `leaf-pending` where the log is not larger than that.
            StoreError: `store-failed`.
        """
        record, path = self.consistency(old_size)
        if not 0 < old_size < record.size:
            raise RequestError("the log did not grow since", reason=Reason.LEAF_PENDING)
        return self._cose(record, ConsistencyProof(old_size, record.size, path))

    def integrated_at(self, key: Digest) -> int:
        """Return when the entry was first in a signed tree, by the log's clock.

        Raises:
            RequestError: `receipt-not-found`; `leaf-pending`.
            StoreError: `store-failed`.
        """
        index = self.index_of(key)
        return self._record_with(index, index + 1).integrated_at

    def leaf(self, index: int) -> bytes:
        """Return the leaf at an index.

        Raises:
            RequestError: `leaf-pending`.
            StoreError: `store-failed`.
        """
        return self._reader.leaf(index, self._record_with(index, 0).size)

    def receipt(self, key: Digest) -> bytes:
        """Return a receipt that is kept with its entry.

        Raises:
            RequestError: `receipt-not-found`.
            StoreError: `store-failed`.
        """
        receipt = self._state.receipt(self.index_of(key))
        if receipt is None:
            raise RequestError("the log keeps no such receipt", reason=Reason.RECEIPT_NOT_FOUND)
        return receipt

    def _record_with(self, index: int, at_least: int) -> CheckpointRecord:
        record = self._state.checkpoint(at_least=max(at_least, index + 1) if at_least else 0)
        if record is None or index >= record.size:
            raise RequestError("not in the tree yet", reason=Reason.LEAF_PENDING)
        return record

    def _cose(
        self, record: CheckpointRecord, proof: InclusionProof | ConsistencyProof
    ) -> CoseReceipt:
        return CoseReceipt(
            self._origin, self._key_id, proof, record.cose_protected, record.cose_signature
        )
