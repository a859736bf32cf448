"""The status of receipts: what meets a promise, what fails it, and who is believed."""

from __future__ import annotations

import pytest

from log_leaves import (
    MINUTE,
    NODES,
    T0,
    late,
    missed,
    nodes,
    receipt_id,
    receipt_leaf,
    verdict,
)
from tlog_log import SIGNER, TRUSTED
from verispect.core.claims import Claim, Source
from verispect.core.encoding import encode, sha256
from verispect.core.envelope import sign_envelope
from verispect.core.errors import MalformedError, Reason
from verispect.core.statement import PromisedEvidence, TransactionBinding
from verispect.tlog.checkpoint import Checkpoint, sign_checkpoint
from verispect.tlog.fork import ForkEvidence
from verispect.tlog.leaf import FORK_TYPE, SignedLeaf
from verispect.tlog.status import NodePolicy, State, TrustedNode, replay_status
from verispect.tlog.verdict import Outcome

DUE = T0 + 10 * MINUTE
AFTER = DUE + 2 * MINUTE
PROOF = PromisedEvidence("proof", None, DUE)
LOG = PromisedEvidence("log", None, DUE)
VERDICTS = PromisedEvidence("verdicts", None, DUE)


def outcome(leaves: list[bytes], *, k: int = 2, number: int = 1) -> tuple[State, Reason | None]:
    row = replay_status(leaves, nodes=nodes(k)).of(receipt_id(number))
    assert row is not None
    return row.state, row.reason


def test_a_receipt_without_open_promises_is_met_by_its_leaf() -> None:
    """Nothing is awaited, so nothing is pending."""
    assert outcome([receipt_leaf(1)]) == (State.MET, None)


def test_a_receipt_is_pending_until_its_evidence_is_there() -> None:
    """The evidence of the promised kind, in time, meets the promise; another kind does not."""
    leaves = [receipt_leaf(1, promises=[PROOF])]
    assert outcome(leaves) == (State.PENDING, None)
    assert outcome([*leaves, late(1, kind="other")]) == (State.PENDING, None)
    assert outcome([*leaves, late(1)]) == (State.MET, None)


def test_a_deadline_that_the_logs_own_clock_passed_fails_the_receipt() -> None:
    """Anyone who replays the log sees it; no clock of the reader is asked."""
    leaves = [receipt_leaf(1, promises=[PROOF]), receipt_leaf(2, at=AFTER)]
    assert outcome(leaves) == (State.FAILED, Reason.EVIDENCE_OVERDUE)
    assert outcome([*leaves, late(1, at=T0)]) == (State.FAILED, Reason.EVIDENCE_OVERDUE)


def test_an_admitted_miss_fails_at_once_and_a_false_one_does_not() -> None:
    """The operator's own leaf suffices where the deadline is the promised one."""
    leaves = [receipt_leaf(1, promises=[PROOF])]
    assert outcome([*leaves, missed(1, due=DUE, noted=DUE + 1)])[0] is State.FAILED
    assert outcome([*leaves, missed(1, due=DUE, noted=DUE)])[0] is State.PENDING
    assert outcome([*leaves, missed(1, due=DUE - 1, noted=DUE)])[0] is State.PENDING
    assert outcome([*leaves, late(1), missed(1, due=DUE, noted=DUE + 1)])[0] is State.MET


def test_a_leaf_that_came_after_its_deadline_is_late() -> None:
    """The promise to be in the log is judged by what the log said before."""
    kept = [receipt_leaf(1, promises=[LOG])]
    assert outcome(kept) == (State.MET, None)
    broken = [receipt_leaf(2, at=AFTER), receipt_leaf(1, promises=[LOG])]
    assert outcome(broken) == (State.FAILED, Reason.EVIDENCE_LATE)


def test_k_distinct_nodes_keep_the_promise_of_verdicts() -> None:
    """One node twice, a stranger, another claim and another source do not count."""
    leaves = [receipt_leaf(1, promises=[VERDICTS]), verdict(1)]
    for useless in (
        verdict(1, at=T0 + 1),
        verdict(1, node="stranger"),
        verdict(1, node="node-b", claim=Claim.LOGGED, source=Source.LOGGED),
        verdict(1, node="node-b", source=Source.ASSERTED),
        verdict(2, node="node-b"),
    ):
        assert outcome([*leaves, useless]) == (State.PENDING, None)
    assert outcome([*leaves, verdict(1, node="node-b")]) == (State.MET, None)


def test_one_refuting_node_outweighs_all_that_affirm() -> None:
    """It fails the receipt for good, also one that was met, with the node's reason."""
    refuted = verdict(1, node="node-c", outcome=Outcome.REFUTED, reason="content-mismatch")
    leaves = [receipt_leaf(1), refuted]
    assert outcome(leaves) == (State.FAILED, Reason.CONTENT_MISMATCH)
    assert outcome([*leaves, verdict(1)]) == (State.FAILED, Reason.VERDICTS_CONFLICT)
    both = [receipt_leaf(1), verdict(1), verdict(1, node="node-b"), refuted]
    assert outcome(both) == (State.FAILED, Reason.VERDICTS_CONFLICT)


def test_a_word_that_is_no_reason_is_not_repeated() -> None:
    """A node cannot put its own words into everybody's table."""
    refuted = verdict(1, outcome=Outcome.REFUTED, reason="because I say so")
    assert outcome([receipt_leaf(1), refuted]) == (State.FAILED, Reason.EVIDENCE_REFUTES)


def test_a_stranger_refutes_nothing() -> None:
    """Only listed keys count, and only under their own name."""
    leaf = verdict(1, node="stranger", outcome=Outcome.REFUTED, reason="content-mismatch")
    assert outcome([receipt_leaf(1), leaf]) == (State.MET, None)
    renamed = NodePolicy(1, [TrustedNode("another name", NODES["stranger"].public_key)])
    row = replay_status([receipt_leaf(1), leaf], nodes=renamed).of(receipt_id(1))
    assert row is not None
    assert row.state is State.MET


def test_fewer_than_k_nodes_cannot_push_the_clock() -> None:
    """One node with a false clock fails nothing; k of them are believed."""
    leaves = [receipt_leaf(1, promises=[PROOF]), verdict(9, at=AFTER)]
    assert outcome(leaves) == (State.PENDING, None)
    assert outcome([*leaves, verdict(9, node="node-b", at=AFTER)])[0] is State.FAILED


def test_a_later_receipt_of_the_same_place_supersedes() -> None:
    """A transaction's inference that was run again counts once."""
    place = TransactionBinding(bytes(16), 0, 2)
    table = replay_status([receipt_leaf(1, transaction=place), receipt_leaf(2, transaction=place)])
    assert [row.state for row in table.receipts] == [State.SUPERSEDED, State.MET]


def test_a_missing_number_is_withheld_after_the_grace() -> None:
    """A gap is shown once receipts can no longer be on their way, and closes when they come."""
    leaves = [receipt_leaf(1), receipt_leaf(4)]
    assert not replay_status(leaves).withheld
    leaves.append(receipt_leaf(5, at=T0 + 2 * MINUTE))
    (gap,) = replay_status(leaves).withheld
    assert (gap.first, gap.last, gap.reason) == (2, 3, Reason.RECEIPT_WITHHELD)
    leaves += [receipt_leaf(3), receipt_leaf(2)]
    assert not replay_status(leaves).withheld


def test_a_number_given_twice_fails_both_receipts() -> None:
    """Neither of the two is the issuer's only one."""
    table = replay_status([receipt_leaf(1), receipt_leaf(2, sequence=1)])
    assert [row.reason for row in table.receipts] == [Reason.SEQUENCE_REUSED] * 2
    assert table.reused[0].receipts == (receipt_id(1), receipt_id(2))


def fork_leaf(other_root: bytes) -> bytes:
    smaller, larger = (
        sign_checkpoint(Checkpoint(TRUSTED.origin, 1, root), signer=SIGNER)
        for root in (sha256(b"one"), sha256(other_root))
    )
    evidence = ForkEvidence(smaller, larger, larger.unverified.root, ())
    envelope = sign_envelope(
        evidence.encode(),
        content_type=FORK_TYPE,
        issuer="node-a",
        subject="fork",
        signer=NODES["node-a"],
    )
    return SignedLeaf.of(envelope).encode()


def test_a_fork_is_shown_where_the_evidence_proves_it() -> None:
    """Two roots of one size are a fork; one root twice is not, whoever says so."""
    assert replay_status([fork_leaf(b"two")], log=TRUSTED).forks == (0,)
    assert replay_status([fork_leaf(b"one")], log=TRUSTED).forks == ()


@pytest.mark.parametrize("junk", [b"", b"\x00", encode({1: 1, 2: 99}), encode({1: 2, 2: 1})])
def test_what_is_not_understood_counts_and_says_nothing(junk: bytes) -> None:
    """The size grows, and no row changes."""
    leaves = [receipt_leaf(1, promises=[PROOF]), junk]
    table = replay_status(leaves)
    assert table.size == 2
    assert table.receipts == replay_status(leaves[:1]).receipts


def test_a_policy_that_cannot_be_met_is_refused() -> None:
    """More nodes than there are, none of several, and one twice."""
    node = TrustedNode("a", NODES["node-a"].public_key)
    for threshold, listed in ((2, [node]), (0, [node]), (1, [])):
        with pytest.raises(MalformedError):
            NodePolicy(threshold, listed)
    with pytest.raises(MalformedError):
        NodePolicy(1, [node, TrustedNode("b", node.key)])


def test_k_nodes_that_were_given_nothing_fail_the_receipt() -> None:
    """One node may have a bad line; k of them show that the receipt is withheld."""
    unknown = {"outcome": Outcome.UNKNOWN, "reason": "receipt-withheld", "claim": Claim.LOGGED}
    leaves = [receipt_leaf(1), verdict(1, **unknown), verdict(1, at=T0 + 1, **unknown)]
    assert outcome(leaves) == (State.MET, None)
    leaves.append(verdict(1, node="node-b", **unknown))
    assert outcome(leaves) == (State.FAILED, Reason.RECEIPT_WITHHELD)
