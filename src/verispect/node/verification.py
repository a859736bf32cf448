"""The verification node itself: one round is follow, judge, deliver, compare with peers.

Every step is durable before the next begins, and every step may be repeated: a node that is killed
anywhere goes on where it was. Nothing that an operator or a peer answers ends a round.
"""

from __future__ import annotations

import json
import logging
import os
import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Final

from verispect import __version__
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.signer import Issuer
from verispect.core.claims import Claim, Source
from verispect.core.commitments import decode_openings
from verispect.core.encoding import Digest, encode, sha256
from verispect.core.envelope import sign_envelope
from verispect.core.errors import Error, NetworkError, Reason, StoreError
from verispect.core.receipt import InferenceReceipt
from verispect.ledger.log.submission import NONCE_BYTES, sign_opening_request
from verispect.node import judging
from verispect.node.mirror import Mirror
from verispect.node.operator_client import MAX_FORKS_BYTES, HttpSource, RefusedError, make_client
from verispect.node.reexecution import EXACT_REPLAY, Reexecutor, Replay
from verispect.node.sampling import draw
from verispect.node.services import PublishedServices
from verispect.node.state import Job, Letter, NodeState
from verispect.node.witness_app import NodeApp, TlogWitness
from verispect.tlog.checkpoint import Checkpoint, SignedCheckpoint, TrustedLog
from verispect.tlog.cosignature import witness_key
from verispect.tlog.fork import ForkEvidence
from verispect.tlog.leaf import FORK_TYPE, LateEvidenceLeaf, SignedLeaf, decode_leaf
from verispect.tlog.note import MAX_NOTE_BYTES, VerifierKey
from verispect.tlog.receipt_leaf import ReceiptLeaf
from verispect.tlog.status import MAX_GRACE_MILLISECONDS, VERDICTS_KIND, StatusReplay
from verispect.tlog.status_table import State, StatusTable
from verispect.tlog.verdict import Finding, NodeVerdict, Outcome, sign_verdict

MAX_JOBS_A_ROUND: Final = 256
MAX_LETTERS_A_ROUND: Final = 256
WRONG_BYTES_ATTEMPTS: Final = 3
"""Wrong bytes so often are no accident on the way."""
WITHHELD_ATTEMPTS: Final = 6
RETRY_MILLISECONDS: Final = 1_000
MAX_RETRY_MILLISECONDS: Final = 300_000
MAX_DELIVERIES: Final = 10_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What a node is told."""

    folder: Path
    operator: str
    root: TrustedRoot
    rate: Fraction = Fraction(0)
    """What share of receipts is run again; those that promise verdicts always are."""
    peers: Sequence[str] = ()


def _wall_clock() -> int:
    return time.time_ns() // 1_000_000


class VerificationNode:
    """One node, following one log; used from one event loop.

    Args:
        settings: what it is told.
        identity: its name and key.
        reexecutor: runs inferences again; `None` where it holds no weights.
        clock: milliseconds since the epoch.

    Raises:
        StoreError: `store-failed`, `store-locked`.
        MalformedError: `malformed-trusted-root` unless the root trusts exactly one log.
    """

    def __init__(
        self,
        settings: NodeSettings,
        identity: Issuer,
        *,
        reexecutor: Reexecutor | None = None,
        clock: Callable[[], int] = _wall_clock,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._reexecutor = reexecutor
        self._clock = clock
        self._trusted = only_log(settings.root)
        self.state = NodeState(settings.folder)
        self.mirror = Mirror(settings.folder / "mirror", self.state, self._trusted)
        self._services = PublishedServices(self.mirror, settings.root)
        self._client = make_client()
        self._operator = HttpSource(settings.operator, self._client)
        self._replay = StatusReplay(settings.root.log_trust.nodes, log=self._trusted)
        self.app = NodeApp(
            TlogWitness(
                identity.name,
                identity.signer,
                self._trusted,
                self.state,
                clock=clock,
                on_fork=self.publish_fork,
            ),
            self.state,
            self.mirror.latest,
        )

    @property
    def witness_key(self) -> VerifierKey:
        """The key under which this node co-signs."""
        return witness_key(self._identity.name, self._identity.signer)

    async def round(self) -> int:
        """Do what there is to do, once; returns how many leaves were judged."""
        self._guarded("follow", self._follow)
        judged = 0
        for job in self.state.jobs(self._clock(), MAX_JOBS_A_ROUND):
            judged += await self._work(job)
        self._guarded("watch", self._watch_deadlines)
        self._deliver()
        for peer in self._settings.peers:
            self._guarded("compare", partial(self._compare, peer))
        return judged

    def _guarded(self, doing: str, step: Callable[[], None]) -> None:
        try:
            step()
        except StoreError:
            raise
        except Error as error:
            _log.warning("cannot %s: %s", doing, error)

    def table(self) -> StatusTable:
        """Return the status of every receipt, by the leaves that were verified."""
        self._replay.replay(self.mirror.leaves(self._replay.size))
        return self._replay.table()

    # -- Following ---------------------------------------------------------------------------------

    def _follow(self) -> None:
        outcome = self.mirror.follow(self._operator)
        if isinstance(outcome, ForkEvidence):
            self.publish_fork(outcome)

    def _compare(self, url: str) -> None:
        """Compare with what a peer saw, and take over the forks that it can prove."""
        peer = HttpSource(url, self._client)
        for path, query in (("/view", {}), ("/checkpoint", {"origin": self._trusted.origin})):
            data = peer.get(path, limit=MAX_NOTE_BYTES, **query)
            if data is not None:
                evidence = self.mirror.compare(SignedCheckpoint.parse(data))
                if evidence is not None:
                    self.publish_fork(evidence)
        listed = peer.get("/forks", limit=MAX_FORKS_BYTES)
        try:
            texts = json.loads(listed or b"[]")
            forks = [b64decode(text, validate=True) for text in texts]
        except (ValueError, TypeError):
            return
        for data in forks:
            evidence = ForkEvidence.decode(data)
            evidence.verify(self._trusted)
            self.publish_fork(evidence)

    def publish_fork(self, evidence: ForkEvidence) -> None:
        """Keep evidence of a fork, serve it, and send it signed to the log; once.

        Raises:
            VerificationError: it shows no fork.
            StoreError: `store-failed`, `store-locked`.
        """
        evidence.verify(self._trusted)
        data = evidence.encode()
        envelope = sign_envelope(
            data,
            content_type=FORK_TYPE,
            issuer=self._identity.name,
            subject=sha256(data).hex(),
            signer=self._identity.signer,
        )
        letter = Letter(sha256(b"fork" + data), envelope.encode())
        if self.state.add_fork(sha256(data), data, letter):
            _log.error("FORK: %s signed two histories", self._trusted.origin)

    # -- Judging -----------------------------------------------------------------------------------

    async def _work(self, job: Job) -> int:
        try:
            leaf = decode_leaf(self.mirror.leaf(job.leaf))
        except StoreError:
            raise
        except Error:
            leaf = None
        if not isinstance(leaf, (ReceiptLeaf, LateEvidenceLeaf)):
            self._note(leaf)
            self.state.finish(job, (), ())
            return 0
        reports: list[tuple[Digest, bytes]] = []
        try:
            if isinstance(leaf, ReceiptLeaf):
                findings, report = await self._receipt(job, leaf)
                reports = [] if report is None else [(sha256(report), report)]
                evidence: list[Digest] = []
            else:
                findings, evidence = self._late_evidence(leaf), [leaf.evidence]
        except judging.WrongBytesError as error:
            if job.attempts + 1 < WRONG_BYTES_ATTEMPTS:
                return self._again(job)
            findings, evidence = [judging.wrong_bytes(error.reason)], []
        except judging.WithheldError as error:
            if job.attempts + 1 < WITHHELD_ATTEMPTS:
                return self._again(job)
            findings, evidence = [judging.withheld(error.reason)], []
        letter = self._verdict(
            leaf.receipt,
            findings,
            key=sha256(b"leaf" + job.leaf.to_bytes(8, "big")),
            evidence=evidence,
            report=reports[0][0] if reports else None,
        )
        self.state.finish(job, [letter], reports)
        return 1

    def _note(self, leaf: object) -> None:
        if isinstance(leaf, SignedLeaf) and isinstance(leaf.payload, ForkEvidence):
            self._guarded("check a fork", partial(self.publish_fork, leaf.payload))

    def _again(self, job: Job) -> int:
        delay = min(RETRY_MILLISECONDS << min(job.attempts, 8), MAX_RETRY_MILLISECONDS)
        self.state.postpone(job, until=self._clock() + delay)
        return 0

    async def _receipt(self, job: Job, leaf: ReceiptLeaf) -> tuple[list[Finding], bytes | None]:
        receipt = judging.fetch_receipt(self._operator, leaf)
        finding = judging.judge_receipt(receipt, self._settings.root, now=self._clock())
        if finding.outcome is Outcome.AFFIRMED:
            unpublished = self._services.judge(receipt, before=job.leaf)
            finding = finding if unpublished is None else unpublished
        if finding.outcome is not Outcome.AFFIRMED:
            return [finding], None
        checkpoint = Checkpoint.from_text(job.checkpoint)
        signer = self._identity.signer
        drawn = draw(leaf.receipt, checkpoint, rate=self._settings.rate, signer=signer)
        promised = any(each.kind == VERDICTS_KIND for each in leaf.evidence)
        if not (drawn.drawn or promised) or self._reexecutor is None:
            return [finding], None
        model_id = receipt.unverified_statement.model.model_id
        if not self._reexecutor.holds(model_id):
            return [finding], None
        replay, replayed = await self._run_again(receipt)
        report = encode(
            [
                1,
                checkpoint.text(),
                drawn.signature,
                [self._settings.rate.numerator, self._settings.rate.denominator],
                promised,
                [[str(f.claim), int(f.outcome), f.method, f.reason] for f in replayed],
                *([replay.details] if replay and replay.details else []),
            ]
        )
        return [finding, *replayed], report

    async def _run_again(self, receipt: InferenceReceipt) -> tuple[Replay | None, list[Finding]]:
        assert self._reexecutor is not None
        request = sign_opening_request(
            receipt.receipt_id,
            issuer=self._identity.name,
            signer=self._identity.signer,
            now=self._clock(),
            nonce=os.urandom(NONCE_BYTES),
        )
        try:
            data = self._operator.openings(receipt.receipt_id, request)
            opened = None if data is None else decode_openings(data)
        except RefusedError:
            opened = None
        except NetworkError as error:
            raise judging.WithheldError(error.message, reason=Reason.CONTENT_NOT_OPENED) from error
        except Error as error:
            raise judging.WrongBytesError(error.message, reason=Reason.OPENING_MISMATCH) from error
        if opened is None:
            reason = Reason.CONTENT_NOT_OPENED.value
            looked = (Claim.EXECUTION, Outcome.UNKNOWN, Source.REEXECUTED, EXACT_REPLAY, reason)
            return None, [Finding(*looked)]
        replay = await self._reexecutor.replay(receipt, opened)
        return replay, judging.findings_of(replay)

    def _late_evidence(self, leaf: LateEvidenceLeaf) -> list[Finding]:
        own = next((each for each in self._receipt_leaves() if each.receipt == leaf.receipt), None)
        if own is None:
            return [judging.withheld(Reason.RECEIPT_NOT_FOUND)]
        entry = judging.fetch_evidence(self._operator, leaf)
        receipt = judging.fetch_receipt(self._operator, own)
        return [judging.judge_evidence(receipt, entry, self._settings.root, now=self._clock())]

    def _receipt_leaves(self) -> Sequence[ReceiptLeaf]:
        found = []
        for data in self.mirror.leaves():
            try:
                leaf = decode_leaf(data)
            except Error:
                continue
            if isinstance(leaf, ReceiptLeaf):
                found.append(leaf)
        return found

    def _watch_deadlines(self) -> None:
        """Say so, once, where a deadline passed by this node's clock: the log's own may stand."""
        table = self.table()
        now = self._clock()
        for row in table.receipts:
            if row.state is not State.PENDING:
                continue
            leaf = decode_leaf(self.mirror.leaf(row.leaf_index))
            assert isinstance(leaf, ReceiptLeaf)
            due = [each.due_at for each in leaf.evidence if each.due_at is not None]
            key = sha256(b"overdue" + row.receipt)
            # Any promise of a pending receipt may be the open one; the log's replay knows which.
            if due and now > max(due) + MAX_GRACE_MILLISECONDS and not self.state.has_letter(key):
                overdue = judging.withheld(Reason.EVIDENCE_OVERDUE)
                self.state.finish(None, [self._verdict(row.receipt, [overdue], key=key)], ())

    def _verdict(
        self,
        receipt: Digest,
        findings: Sequence[Finding],
        *,
        key: Digest,
        evidence: Sequence[Digest] = (),
        report: Digest | None = None,
    ) -> Letter:
        verdict = NodeVerdict(
            receipt, self._clock(), software_digest(), tuple(findings), tuple(evidence), report
        )
        signed = sign_verdict(verdict, issuer=self._identity.name, signer=self._identity.signer)
        return Letter(key, signed.encode())

    # -- Delivering --------------------------------------------------------------------------------

    def _deliver(self) -> None:
        for entry, letter, attempts in self.state.letters(self._clock(), MAX_LETTERS_A_ROUND):
            try:
                answer = self._operator.post("/log/entries", letter.body)
            except NetworkError as error:
                # Also a refusal is tried again: an operator may not yet have listed this node.
                delay = min(RETRY_MILLISECONDS << min(attempts, 8), MAX_RETRY_MILLISECONDS)
                self.state.deliver_later(entry, until=self._clock() + delay)
                if attempts == 0:
                    _log.warning("a verdict waits: %s", error)
                if not isinstance(error, RefusedError):
                    return
                continue
            if answer is None:
                delay = min(RETRY_MILLISECONDS << min(attempts, 8), MAX_RETRY_MILLISECONDS)
                self.state.deliver_later(entry, until=self._clock() + delay)
            else:
                self.state.delivered(entry, answer.decode("utf-8", errors="replace"))

    async def close(self) -> None:
        """Stop engines and let go of what is kept."""
        if self._reexecutor is not None:
            await self._reexecutor.close()
        self._client.close()
        self.state.close()


def only_log(root: TrustedRoot) -> TrustedLog:
    """Return the one log that a root trusts.

    Raises:
        StoreError: `log-unknown` where it trusts none, or several.
    """
    if len(root.log_trust.logs) != 1:
        raise StoreError(
            f"expected a trusted root with one log, got {len(root.log_trust.logs)}",
            reason=Reason.LOG_UNKNOWN,
        )
    return root.log_trust.logs[0]


def software_digest() -> Digest:
    """Return what stands in a verdict for the software of this node: its name and version."""
    return sha256(encode(["verispect", __version__]))
