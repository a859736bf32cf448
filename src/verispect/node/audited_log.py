"""An auditor's copy of a log: which receipts stand in a range of it.

What the operator says of its log counts for nothing: leaves are believed as far as they lead to a
checkpoint that the log signed. This module refuses to draw, and to judge.
"""

from __future__ import annotations

from pathlib import Path

from verispect.appraisal.trusted_root import TrustedRoot
from verispect.core.encoding import Digest
from verispect.core.errors import Error, Reason, RequestError, StoreError, VerificationError
from verispect.node.audit_sample import AuditedRange
from verispect.node.mirror import Mirror
from verispect.node.operator_client import HttpSource, make_client
from verispect.node.state import NodeState
from verispect.node.verification import only_log
from verispect.tlog.checkpoint import Checkpoint
from verispect.tlog.fork import ForkEvidence
from verispect.tlog.leaf import decode_leaf
from verispect.tlog.receipt_leaf import ReceiptLeaf


class AuditedLog:
    """A copy of one log.

    Args:
        folder: where it is kept.
        operator: base address of the operator.
        root: which log is trusted.

    Raises:
        StoreError: `store-failed`, `store-locked`, or `log-unknown` unless there is one log.
    """

    def __init__(self, folder: Path, operator: str, root: TrustedRoot) -> None:
        self._log = only_log(root)
        self._state = NodeState(folder)
        self._mirror = Mirror(folder / "mirror", self._state, self._log)
        self._client = make_client()
        self.operator = HttpSource(operator, self._client)

    def follow(self) -> Checkpoint:
        """Copy what is new in the log, and return where the copy stands.

        Raises:
            NetworkError: the operator is not reachable.
            VerificationError: `log-forked`, or as `Mirror.follow`.
            RequestError: `invalid-request`: the log is empty.
            StoreError: `store-failed`.
        """
        if isinstance(self._mirror.follow(self.operator), ForkEvidence):
            raise VerificationError("the log forked", reason=Reason.LOG_FORKED)
        latest = self._mirror.latest()
        if latest is None:
            raise RequestError("the log is empty")
        return self._log.verify(latest)

    def leaves(self, audited: AuditedRange) -> dict[int, ReceiptLeaf]:
        """Return by index the leaves of receipts in a range of the copy.

        Raises:
            VerificationError: `content-mismatch` where the copy has another history.
            StoreError: `store-failed`.
        """
        point = audited.checkpoint
        same = point.origin == self._log.origin and point.size <= self._mirror.size
        if not same or self._mirror.root(point.size) != point.root:
            raise VerificationError(
                "the copy of the log has another history", reason=Reason.CONTENT_MISMATCH
            )
        found = {}
        leaves = self._mirror.leaves(audited.first)
        for index in range(audited.first, audited.end):
            try:
                leaf = decode_leaf(next(leaves))
            except StoreError:
                raise
            except Error:
                continue
            if isinstance(leaf, ReceiptLeaf):
                found[index] = leaf
        return found

    def receipts(self, audited: AuditedRange) -> dict[int, Digest]:
        """Return by leaf the receipts in a range of the copy.

        Raises:
            VerificationError: `content-mismatch`.
            StoreError: `store-failed`.
        """
        return {index: leaf.receipt for index, leaf in self.leaves(audited).items()}

    def close(self) -> None:
        """Let go of the copy and the connection."""
        self._client.close()
        self._state.close()
