"""Leaves for tests of the log's status: receipts by number, evidence, verdicts of named nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from verispect.attesters.signer import SoftwareSigner
from verispect.core.claims import Claim, Source
from verispect.core.encoding import Digest, sha256
from verispect.core.keys import KeyId
from verispect.core.statement import PromisedEvidence, TransactionBinding
from verispect.tlog.leaf import LateEvidenceLeaf, MissedDeadlineLeaf, SignedLeaf
from verispect.tlog.receipt_leaf import ReceiptLeaf
from verispect.tlog.status import NodePolicy, TrustedNode
from verispect.tlog.verdict import Finding, NodeVerdict, Outcome, sign_verdict

T0 = 1_790_000_000_000
MINUTE = 60_000
ISSUER = KeyId(sha256(b"issuer"))
NODES = {
    name: SoftwareSigner(hashlib.sha256(name.encode()).digest())
    for name in ("node-a", "node-b", "node-c", "stranger")
}


def nodes(threshold: int) -> NodePolicy:
    listed = [TrustedNode(n, s.public_key) for n, s in NODES.items() if n != "stranger"]
    return NodePolicy(threshold, listed)


def receipt_id(number: int) -> Digest:
    return sha256(b"receipt %d" % number)


def receipt_leaf(
    number: int,
    *,
    at: int = T0,
    promises: Sequence[PromisedEvidence] = (),
    transaction: TransactionBinding | None = None,
    sequence: int | None = None,
) -> bytes:
    return ReceiptLeaf(
        receipt=receipt_id(number),
        issuer_key=ISSUER,
        sequence=number if sequence is None else sequence,
        signed_at=at,
        assurance=sha256(b"policy"),
        evidence=(PromisedEvidence("signature"), *promises),
        model=sha256(b"model"),
        transaction=transaction,
    ).encode()


def late(number: int, *, kind: str = "proof", at: int = T0) -> bytes:
    return LateEvidenceLeaf(receipt_id(number), kind, sha256(b"evidence"), 8, at).encode()


def missed(number: int, *, kind: str = "proof", due: int, noted: int) -> bytes:
    return MissedDeadlineLeaf(receipt_id(number), kind, due, noted).encode()


def verdict(
    number: int,
    *,
    node: str = "node-a",
    outcome: Outcome = Outcome.AFFIRMED,
    at: int = T0,
    source: Source = Source.REEXECUTED,
    claim: Claim = Claim.EXECUTION,
    reason: str | None = None,
) -> bytes:
    finding = Finding(claim, outcome, source, "exact-replay", reason)
    found = NodeVerdict(receipt_id(number), at, sha256(b"software"), (finding,))
    return SignedLeaf.of(sign_verdict(found, issuer=node, signer=NODES[node])).encode()
