"""What parties other than the appender send to a log: verdicts, forks and late evidence, signed.

Each is judged before it becomes a leaf: who signed it is listed, what it says is about a receipt of
this log, a fork is one. What is refused leaves no trace; what is taken twice is one entry.
Auditors' requests for openings are read here too: signed, for one receipt, fresh, and never twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.encoding import DIGEST_BYTES, Digest, decode, encode, sha256
from verispect.core.envelope import SignedEnvelope, open_envelope, sign_envelope
from verispect.core.errors import MalformedError, Reason, RequestError, VerificationError
from verispect.core.keys import PublicKey, Signer
from verispect.core.receipt import MAX_EVIDENCE_BYTES, EvidenceEntry
from verispect.evidence.verdicts import make_verdict_evidence
from verispect.ledger.log.evidence_store import EvidenceStore
from verispect.ledger.log.interface import EvidenceRecord, LogState, Placed
from verispect.ledger.log.sources import submit
from verispect.tlog.checkpoint import TrustedLog
from verispect.tlog.fork import ForkEvidence
from verispect.tlog.leaf import FORK_TYPE, SignedLeaf
from verispect.tlog.status_table import NodePolicy
from verispect.tlog.verdict import VERDICT_TYPE, NodeVerdict

LATE_EVIDENCE_TYPE: Final = "application/verispect-late-evidence+cbor"
OPENING_REQUEST_TYPE: Final = "application/verispect-opening-request+cbor"
SUBMISSION_VERSION: Final = 1
MAX_SUBMISSION_BYTES: Final = MAX_EVIDENCE_BYTES + 64 * 1024
MAX_REQUEST_AGE_MILLISECONDS: Final = 60_000
MAX_REMEMBERED_REQUESTS: Final = 65_536
NONCE_BYTES: Final = 16

NODE_VERDICT_KIND: Final = "node-verdict"
"""Under which the signed verdicts on a receipt are registered, beside its evidence."""


def sign_late_evidence(
    receipt: Digest, entry: EvidenceEntry, *, issuer: str, signer: Signer
) -> bytes:
    """Return late evidence as its issuer submits it."""
    payload = encode([SUBMISSION_VERSION, receipt, entry.to_row()])
    return sign_envelope(
        payload,
        content_type=LATE_EVIDENCE_TYPE,
        issuer=issuer,
        subject=receipt.hex(),
        signer=signer,
    ).encode()


def sign_opening_request(
    receipt: Digest, *, issuer: str, signer: Signer, now: int, nonce: bytes
) -> bytes:
    """Return a request for the openings of a receipt.

    Args:
        receipt: the receipt's digest.
        issuer: the auditor's name.
        signer: holder of the auditor's key.
        now: milliseconds since the epoch.
        nonce: 16 random bytes.
    """
    return sign_envelope(
        encode([SUBMISSION_VERSION, receipt, now, nonce]),
        content_type=OPENING_REQUEST_TYPE,
        issuer=issuer,
        subject=receipt.hex(),
        signer=signer,
    ).encode()


@dataclass(frozen=True, slots=True)
class Parties:
    """Who may submit to a log, and read openings."""

    issuer: str
    issuer_key: PublicKey
    auditors: NodePolicy


class Submissions:
    """Takes what others send; used from one thread.

    Args:
        state: the log, a connection of its own.
        evidence: the log's evidence, through the same connection.
        log: the log, for evidence of its forks.
        parties: who may submit.
        clock: milliseconds since the epoch.
    """

    def __init__(
        self,
        state: LogState,
        evidence: EvidenceStore,
        *,
        log: TrustedLog,
        parties: Parties,
        clock: Callable[[], int],
    ) -> None:
        self._state = state
        self._evidence = evidence
        self._trusted = log
        self._parties = parties
        self._clock = clock
        self._nonces: dict[bytes, int] = {}

    def take(self, body: bytes) -> Placed:
        """Judge what somebody sent and give it its index; durable on return.

        Raises:
            MalformedError: what was sent is none of the three.
            VerificationError: `key-unknown`, `signature-invalid`, `content-mismatch`,
                `consistency-invalid`, `log-unknown`.
            RequestError: `receipt-not-found`.
            StoreError: `store-failed`, `store-locked`.
        """
        envelope = _open(body, (VERDICT_TYPE, FORK_TYPE, LATE_EVIDENCE_TYPE))
        if envelope.content_type == LATE_EVIDENCE_TYPE:
            return self._late_evidence(envelope)
        if self._parties.auditors.author(envelope) is None:
            raise VerificationError("no listed node signed this", reason=Reason.KEY_UNKNOWN)
        leaf = SignedLeaf.of(envelope)
        if isinstance(leaf.payload, ForkEvidence):
            leaf.payload.verify(self._trusted)
        elif isinstance(leaf.payload, NodeVerdict):
            self._check_known(leaf.payload.receipt)
            data = envelope.encode()
            digest = self._evidence.put(data)
            self._state.register_evidence(
                EvidenceRecord(
                    leaf.payload.receipt,
                    NODE_VERDICT_KIND,
                    digest,
                    None,
                    len(data),
                    leaf.payload.verified_at,
                )
            )
        return submit(self._state, [leaf.encode()])[0]

    def _late_evidence(self, envelope: SignedEnvelope) -> Placed:
        parties = self._parties
        if envelope.issuer != parties.issuer or envelope.key_id != parties.issuer_key.key_id:
            raise VerificationError("evidence comes from the issuer", reason=Reason.KEY_UNKNOWN)
        envelope.verify(parties.issuer_key)
        read: Any = decode(envelope.payload, limit=MAX_SUBMISSION_BYTES)
        if type(read) is not list or len(read) != 3 or read[0] != SUBMISSION_VERSION:
            raise _malformed("not late evidence")
        receipt = _digest(read[1])
        if envelope.subject != receipt.hex():
            raise _malformed("the subject is another receipt")
        return self.deliver(receipt, EvidenceEntry.from_row(read[2]))

    def deliver(self, receipt: Digest, entry: EvidenceEntry) -> Placed:
        """Keep evidence that this operator made, and give its leaf an index.

        Raises:
            RequestError: `receipt-not-found`.
            MalformedError: `too-large`.
            StoreError: `store-failed`, `store-locked`.
        """
        self._check_known(receipt)
        leaf = self._evidence.deliver(receipt, entry, clock=self._clock)
        return submit(self._state, [leaf.encode()])[0]

    def _check_known(self, receipt: Digest) -> None:
        if self._state.find([receipt])[0] is None:
            raise RequestError("the log has no such receipt", reason=Reason.RECEIPT_NOT_FOUND)

    def evidence_of(self, receipt: Digest) -> list[EvidenceEntry]:
        """Return what arrived for a receipt, and the verdicts on it as one entry.

        Raises:
            StoreError: `store-failed`, also where a blob is gone or was changed.
        """
        entries, verdicts = [], []
        for record in self._state.evidence_of(receipt):
            blob = self._evidence.get(record.evidence)
            if blob is None:
                continue
            if record.kind == NODE_VERDICT_KIND:
                verdicts.append((record, open_envelope(blob, content_type=VERDICT_TYPE)))
                continue
            endorsements = b""
            if record.endorsements is not None:
                endorsements = self._evidence.get(record.endorsements) or b""
            entries.append(EvidenceEntry.from_row([*decode(blob), endorsements]))
        if verdicts:
            latest = max(record.delivered_at for record, _ in verdicts)
            signed = _latest_of_each(envelope for _, envelope in verdicts)
            # Too few would refuse the receipt while others may still come; one that refutes it
            # does so rightly, whoever else is silent.
            enough = len(signed) >= self._parties.auditors.threshold
            if enough or any(_refutes(envelope) for envelope in signed):
                entries.append(make_verdict_evidence(signed, collected_at=latest))
        return entries

    def authorise_openings(self, receipt: Digest, body: bytes) -> str:
        """Return the name of the auditor that asks for the openings of a receipt.

        Raises:
            MalformedError: it is no request.
            RequestError: `opening-forbidden` for somebody else, another receipt, another time, or a
                request that was made before.
        """
        envelope = _open(body, (OPENING_REQUEST_TYPE,))
        node = self._parties.auditors.author(envelope)
        read: Any = decode(envelope.payload)
        if (
            type(read) is not list
            or len(read) != 4
            or read[0] != SUBMISSION_VERSION
            or type(read[2]) is not int
            or type(read[3]) is not bytes
            or len(read[3]) != NONCE_BYTES
        ):
            raise _malformed("not a request for openings")
        now = self._clock()
        identity = sha256(envelope.payload + envelope.key_id)
        if (
            node is None
            or _digest(read[1]) != receipt
            or abs(now - read[2]) > MAX_REQUEST_AGE_MILLISECONDS
            or identity in self._nonces
        ):
            raise RequestError(
                "openings are given to a listed auditor, for one receipt, now and once",
                reason=Reason.OPENING_FORBIDDEN,
            )
        oldest = now - 2 * MAX_REQUEST_AGE_MILLISECONDS
        if len(self._nonces) >= MAX_REMEMBERED_REQUESTS:
            self._nonces = {each: at for each, at in self._nonces.items() if at > oldest}
        self._nonces[identity] = now
        return node.name


def _latest_of_each(envelopes: Any) -> Sequence[SignedEnvelope]:
    """Return one verdict of each node: that which refutes, else the latest."""
    best: dict[bytes, SignedEnvelope] = {}
    for envelope in envelopes:  # In the order of arrival.
        known = best.get(envelope.key_id)
        if known is None or not _refutes(known):
            best[envelope.key_id] = envelope
    return list(best.values())


def _refutes(envelope: SignedEnvelope) -> bool:
    verdict = NodeVerdict.decode(envelope.payload)
    return any(found.outcome.label == "refuted" for found in verdict.findings)


def _open(body: bytes, content_types: Sequence[str]) -> SignedEnvelope:
    """Open an envelope of one of these types.

    Raises:
        MalformedError: it is none.
    """
    if len(body) > MAX_SUBMISSION_BYTES:
        raise MalformedError("what was sent is too large", reason=Reason.TOO_LARGE)
    failure: MalformedError | None = None
    for content_type in content_types:
        try:
            return open_envelope(body, content_type=content_type)
        except MalformedError as error:
            failure = error
    assert failure is not None
    raise failure


def _digest(value: Any) -> Digest:
    if type(value) is not bytes or len(value) != DIGEST_BYTES:
        raise _malformed("not a digest")
    return Digest(value)


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_ENVELOPE)
