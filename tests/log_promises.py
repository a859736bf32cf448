"""An operator with promises to keep: its receipts, book, log and clock, all real but the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from log_leaves import NODES, nodes
from log_receipts import ISSUER, LOG_SIGNER, ORIGIN, SIGNED_AT, SIGNER, a_statement
from verispect.core.claims import Claim, Source
from verispect.core.encoding import Digest, sha256
from verispect.core.envelope import STATEMENT_TYPE, sign_envelope
from verispect.core.receipt import EvidenceEntry
from verispect.core.statement import PromisedEvidence
from verispect.ledger import NewReceipt, ReceiptStore
from verispect.ledger.log.appender import Appender
from verispect.ledger.log.evidence_store import EvidenceStore
from verispect.ledger.log.fsck import fsck
from verispect.ledger.log.interface import LogState, TileStore
from verispect.ledger.log.promises import PromiseBook, PromiseKeeper
from verispect.ledger.log.reading import TileReader
from verispect.ledger.log.sources import ReceiptOutbox
from verispect.ledger.log.state_sqlite import SqliteState
from verispect.ledger.log.submission import Parties, Submissions
from verispect.ledger.log.tile_files import FileTiles
from verispect.tlog.checkpoint import TrustedLog
from verispect.tlog.note import VerifierKey
from verispect.tlog.status import replay_status
from verispect.tlog.status_table import ReceiptStatus, StatusTable
from verispect.tlog.tiles import TILE_WIDTH, tile_at
from verispect.tlog.verdict import Finding, NodeVerdict, Outcome, sign_verdict

LOG = TrustedLog(ORIGIN, [VerifierKey(ORIGIN, LOG_SIGNER.public_key)])
DUE = SIGNED_AT + 60_000
MISSED_AFTER = 5_000
POLICY = nodes(2)


def promising(sequence: int, *promises: PromisedEvidence) -> bytes:
    """Return receipt number `sequence`, which promises this for later."""
    evidence = [PromisedEvidence("signature"), *promises]
    return sign_envelope(
        replace(a_statement(sequence), evidence=evidence).encode(),
        content_type=STATEMENT_TYPE,
        issuer=ISSUER,
        subject=f"{sequence:032x}",
        signer=SIGNER,
    ).encode()


def promise(kind: str, due_at: int = DUE) -> PromisedEvidence:
    return PromisedEvidence(kind, None, due_at)


def an_entry_of(kind: str = "proof", body: bytes = b"body") -> EvidenceEntry:
    return EvidenceEntry(kind, "profile", SIGNED_AT, body, b"endorsements")


def verdict(receipt: Digest, node: str, *, at: int = SIGNED_AT + 10) -> bytes:
    finding = Finding(Claim.EXECUTION, Outcome.AFFIRMED, Source.REEXECUTED, "exact-replay")
    found = NodeVerdict(receipt, at, sha256(b"software"), (finding,))
    return sign_verdict(found, issuer=node, signer=NODES[node]).encode()


class Ready:
    """Evidence by inference, as far as it was made."""

    def __init__(self) -> None:
        self.entries: dict[str, EvidenceEntry] = {}

    def find(self, inference: str) -> EvidenceEntry | None:
        return self.entries.get(inference)


class Promiser:
    """The operator. `issue` first; everything else lives in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = SIGNED_AT
        self.ready = Ready()
        self.state: LogState = SqliteState(folder / "state.sqlite3", cache_kibibytes=1024)
        self.tiles: TileStore = FileTiles(folder / "tiles")
        self.open()

    def open(self) -> None:
        """Open the book, and all that works on state and tiles as they are now."""
        self.book = PromiseBook(self.folder / "promises.sqlite3")
        self.attach()

    def attach(self) -> None:
        database = self.folder / "receipts" / "receipts.sqlite3"
        self.outbox = ReceiptOutbox(database, keys=[SIGNER.public_key], notice=self.book)
        self.keeper = PromiseKeeper(
            self.book,
            self.tiles,
            evidence={"proof": self.ready},
            auditors=POLICY,
            clock=lambda: self.now,
            missed_after=MISSED_AFTER,
        )
        self.submissions = Submissions(
            self.state,
            EvidenceStore(self.tiles, self.state),
            log=LOG,
            parties=Parties(ISSUER, SIGNER.public_key, POLICY),
            clock=lambda: self.now,
        )

    def issue(self, *receipts: bytes) -> list[Digest]:
        """Keep receipts as the gateway does."""

        async def keep() -> list[Digest]:
            key_id = SIGNER.public_key.key_id
            async with ReceiptStore.open(self.folder / "receipts", issuer_key_id=key_id) as store:
                return [
                    Digest(
                        (
                            await store.issue(
                                NewReceipt(sha256(each)[:16], lambda _, each=each: each)
                            )
                        ).receipt_id
                    )
                    for each in receipts
                ]

        return asyncio.run(keep())

    def turn(self, now: int | None = None) -> None:
        """Do what the log's thread does in one turn."""
        self.now = self.now if now is None else now
        self.outbox.follow(self.state)
        self.keeper.follow(self.state)
        self.integrate()

    def integrate(self) -> None:
        appender = Appender.open(self.state, self.tiles, origin=ORIGIN, signer=LOG_SIGNER)
        while appender.step():
            pass

    def leaves(self) -> list[bytes]:
        """Read the log as anyone would."""
        size = self.state.head().size
        reader = TileReader(self.tiles)
        found: list[bytes] = []
        for index in range(-(-size // TILE_WIDTH)):
            found += reader.entries(tile_at(0, index, size))
        return found

    def table(self) -> StatusTable:
        """Audit the log and replay it."""
        report = fsck(self.tiles, LOG, state=self.state)
        assert report.difference is None
        return replay_status(self.leaves(), nodes=POLICY, log=LOG)

    def statuses(self, receipts: Sequence[Digest]) -> list[ReceiptStatus]:
        rows = {row.receipt: row for row in self.table().receipts}
        return [rows[receipt] for receipt in receipts]

    def close(self) -> None:
        self.outbox.close()
        self.book.close()
        self.state.close()
