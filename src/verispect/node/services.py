"""Whether a receipt used a published version of its service, unchanged, by the node's own copy.

The version's leaf stands in the log before the receipt's, or it was not published when it was
used. A receipt of no service is not looked at; an operator whose versions no trusted key signed is
refuted as one that published none.
"""

from __future__ import annotations

from verispect.appraisal.service_history import ServiceHistory, check_service
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.core.claims import Claim, Source
from verispect.core.errors import Reason
from verispect.core.receipt import InferenceReceipt
from verispect.evidence.interface import CheckStatus
from verispect.node.mirror import Mirror
from verispect.tlog.verdict import Finding, Outcome

METHOD = "service-history"


class PublishedServices:
    """The versions in a node's copy of the log; read once, and what is new when it is needed."""

    def __init__(self, mirror: Mirror, root: TrustedRoot) -> None:
        self._mirror = mirror
        self._history = ServiceHistory(root.issuer_key)
        self._read = 0

    def judge(self, receipt: InferenceReceipt, *, before: int) -> Finding | None:
        """Return what is wrong with the service that a receipt names; `None` where nothing is.

        Args:
            receipt: whose signature was checked.
            before: the index of its leaf.
        """
        statement = receipt.unverified_statement
        if statement.service is not None:
            for leaf in self._mirror.leaves(self._read):
                self._history.add_leaf(self._read, leaf)
                self._read += 1
        checks, _ = check_service(statement, self._history)
        failed = next((each for each in checks if each.status is CheckStatus.FAILED), None)
        if failed is not None and failed.reason is not None:
            return _refuted(failed.reason)
        if statement.service is not None:
            version = self._history.find(statement.service.digest)
            if version is None or version.leaf_index >= before:
                return _refuted(Reason.SERVICE_UNLOGGED)
        return None


def _refuted(reason: Reason) -> Finding:
    return Finding(Claim.INPUT, Outcome.REFUTED, Source.LOGGED, METHOD, reason.value)
