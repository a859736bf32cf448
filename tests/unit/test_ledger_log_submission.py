"""What others may put into a log, who may read openings, and what the witnesses have to say."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from log_leaves import NODES
from node_world import Clock, make_node, material
from tlog_log import TRUSTED
from verispect.attesters.signer import SoftwareSigner
from verispect.core.claims import Claim, Source
from verispect.core.encoding import Digest, sha256
from verispect.core.envelope import sign_envelope
from verispect.core.errors import Error, NetworkError, Reason
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.ledger.log.description import LogDescription
from verispect.ledger.log.embedded import LogFolder
from verispect.ledger.log.entries import entry_of_receipt
from verispect.ledger.log.evidence_store import EvidenceStore
from verispect.ledger.log.operation import LogOperation
from verispect.ledger.log.submission import (
    Parties,
    Submissions,
    sign_late_evidence,
    sign_opening_request,
)
from verispect.ledger.log.witnesses import Witness, ask_witnesses
from verispect.node.witness_app import TlogWitness
from verispect.tlog.checkpoint import Checkpoint, sign_checkpoint
from verispect.tlog.cosignature import witness_key
from verispect.tlog.fork import ForkEvidence
from verispect.tlog.leaf import FORK_TYPE
from verispect.tlog.receipt_leaf import Disclosure
from verispect.tlog.status_table import NodePolicy, TrustedNode
from verispect.tlog.verdict import Finding, NodeVerdict, Outcome, sign_verdict

LOG_KEY = SoftwareSigner(bytes(range(32)))
RECEIPT = InferenceReceipt.parse(material.receipt())
NONCE = bytes(16)


class World:
    """A log with one receipt in it, and what it takes from others."""

    def __init__(self, folder: Path) -> None:
        self.folder = LogFolder.create(folder, LogDescription(TRUSTED.origin), signer=LOG_KEY)
        self.state = self.folder.open_state()
        self.state.accept([entry_of_receipt(RECEIPT, disclose=Disclosure.NOTHING)])
        self.clock = Clock()
        listed = [TrustedNode(name, NODES[name].public_key) for name in ("node-a", "node-b")]
        self.submissions = Submissions(
            self.state,
            EvidenceStore(self.folder.tiles, self.state),
            log=self.folder.trusted,
            parties=Parties(material.ISSUER, material.GOOD.public_key, NodePolicy(2, listed)),
            clock=self.clock,
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "log")


def verdict(
    node: str = "node-a",
    *,
    receipt: Digest = RECEIPT.receipt_id,
    outcome: Outcome = Outcome.AFFIRMED,
    at: int = material.NOW,
    signer: SoftwareSigner | None = None,
) -> bytes:
    finding = Finding(Claim.EXECUTION, outcome, Source.REEXECUTED, "exact-replay")
    found = NodeVerdict(receipt, at, sha256(b"software"), (finding,))
    return sign_verdict(found, issuer=node, signer=signer or NODES[node]).encode()


def refused(world: World, body: bytes) -> Reason:
    with pytest.raises(Error) as caught:
        world.submissions.take(body)
    assert world.state.head().sequenced == 1
    return caught.value.reason


def test_a_verdict_of_a_listed_node_is_taken_once(world: World) -> None:
    """The same verdict again gets the index that it has."""
    first, again = world.submissions.take(verdict()), world.submissions.take(verdict())
    assert (first.leaf_index, first.is_new) == (1, True)
    assert (again.leaf_index, again.is_new) == (1, False)


def test_what_nobody_listed_signed_leaves_no_trace(world: World) -> None:
    """Strangers, a listed name under another key, other receipts, junk."""
    assert refused(world, verdict("stranger")) is Reason.KEY_UNKNOWN
    stolen = verdict("node-a", signer=NODES["stranger"])
    assert refused(world, stolen) is Reason.KEY_UNKNOWN
    assert refused(world, verdict(receipt=sha256(b"other"))) is Reason.RECEIPT_NOT_FOUND
    assert refused(world, b"junk") is Reason.MALFORMED_ENVELOPE
    flipped = verdict()[:-1] + bytes((verdict()[-1] ^ 1,))
    assert refused(world, flipped) is Reason.KEY_UNKNOWN


def fork(other: bytes) -> bytes:
    checkpoints = [
        sign_checkpoint(Checkpoint(TRUSTED.origin, 1, sha256(root)), signer=LOG_KEY)
        for root in (b"one", other)
    ]
    evidence = ForkEvidence(*checkpoints, checkpoints[1].unverified.root, ())
    return sign_envelope(
        evidence.encode(),
        content_type=FORK_TYPE,
        issuer="node-a",
        subject="fork",
        signer=NODES["node-a"],
    ).encode()


def test_a_fork_is_taken_where_it_is_one(world: World) -> None:
    """A listed node cannot accuse the log without its own signatures on two trees."""
    assert refused(world, fork(b"one")) is Reason.CONSISTENCY_INVALID
    assert world.submissions.take(fork(b"two")).is_new


def late(entry: EvidenceEntry, *, issuer: str = material.ISSUER) -> bytes:
    return sign_late_evidence(RECEIPT.receipt_id, entry, issuer=issuer, signer=material.GOOD)


def test_late_evidence_comes_from_the_issuer_only(world: World) -> None:
    """It is kept and named in a leaf; somebody else's is not."""
    entry = EvidenceEntry("proof", "p", 1, b"body", b"endorsed")
    assert refused(world, late(entry, issuer="other.example")) is Reason.KEY_UNKNOWN
    assert world.submissions.take(late(entry)).is_new
    assert world.submissions.evidence_of(RECEIPT.receipt_id) == [entry]


def test_k_verdicts_become_one_piece_of_evidence(world: World) -> None:
    """One of each node, the refuting one where there are several; fewer than k are none."""
    world.submissions.take(verdict("node-a"))
    assert world.submissions.evidence_of(RECEIPT.receipt_id) == []
    world.submissions.take(verdict("node-a", outcome=Outcome.REFUTED))
    world.submissions.take(verdict("node-a", at=material.NOW + 1))
    world.submissions.take(verdict("node-b", at=material.NOW + 2))
    (entry,) = world.submissions.evidence_of(RECEIPT.receipt_id)
    assert (entry.kind, entry.collected_at) == ("verdicts", material.NOW + 2)


def asked(world: World, body: bytes, receipt: Digest = RECEIPT.receipt_id) -> str | Reason:
    try:
        return world.submissions.authorise_openings(receipt, body)
    except Error as error:
        return error.reason


def opening_request(node: str = "node-a", *, at: int = material.NOW, nonce: bytes = NONCE) -> bytes:
    return sign_opening_request(
        RECEIPT.receipt_id, issuer=node, signer=NODES[node], now=at, nonce=nonce
    )


def test_openings_are_given_to_a_listed_node_now_and_once(world: World) -> None:
    """A stranger, another receipt, an old, a future and a repeated request are refused."""
    forbidden = Reason.OPENING_FORBIDDEN
    assert asked(world, opening_request("stranger")) is forbidden
    assert asked(world, opening_request(), sha256(b"another")) is forbidden
    assert asked(world, opening_request(at=material.NOW - 60_001)) is forbidden
    assert asked(world, opening_request(at=material.NOW + 60_001)) is forbidden
    assert asked(world, opening_request()) == "node-a"
    assert asked(world, opening_request()) is forbidden
    assert asked(world, opening_request(nonce=b"1" * 16)) == "node-a"
    assert asked(world, verdict()) is Reason.MALFORMED_ENVELOPE


class WitnessServer:
    """A real witness behind a socket, which may also refuse."""

    def __init__(self, witness: TlogWitness) -> None:
        self.status: int | None = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = witness.latest(TRUSTED.origin)
                self._send(404 if data is None else 200, data or b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status, _, data = witness.add_checkpoint(body)
                self._send(status, data)

            def _send(self, status: int, data: bytes) -> None:
                self.send_response(outer.status or status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def witness(self) -> Witness:
        key = witness_key("node-a", NODES["node-a"])
        return Witness(f"http://127.0.0.1:{self.server.server_address[1]}", key)


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[WitnessServer]:
    clock = Clock(time.time_ns() // 1_000_000)
    node = make_node(tmp_path / "node", "http://127.0.0.1:9", clock=clock)
    running = WitnessServer(node.app._witness)
    yield running
    running.server.shutdown()
    running.server.server_close()


def operate(world: World, witness: WitnessServer) -> LogOperation:
    operation = LogOperation(
        world.folder, LOG_KEY, witnesses=[witness.witness], threshold=1, pool_seconds=0.05
    )
    operation.start()
    return operation


def wait_for(world: World, condition: str, *, operation: LogOperation) -> None:
    for _ in range(200):
        size = world.state.head().size
        cosigned = bool(size and world.state.cosignatures(size))
        failed = operation.failure is not None
        if {"cosigned": cosigned, "failed": failed}[condition]:
            return
        time.sleep(0.05)
    raise AssertionError(condition)


def test_a_witness_co_signs_and_its_line_is_kept(world: World, witness: WitnessServer) -> None:
    """The proof of a receipt then carries a cosignature that the policy counts."""
    operation = operate(world, witness)
    wait_for(world, "cosigned", operation=operation)
    operation.stop()
    proof = world.folder.open_proofs().inclusion(RECEIPT.receipt_id)
    assert any(witness.witness.key.matches(line) for line in proof.checkpoint.note.signatures)


def test_a_restored_backup_does_not_go_on(
    world: World, witness: WitnessServer, tmp_path: Path
) -> None:
    """The witness saw more than the state knows: nothing is published, for good."""
    operation = operate(world, witness)
    wait_for(world, "cosigned", operation=operation)
    operation.stop()
    restored = World(tmp_path / "restored")
    restored.state.accept([])
    other = LogOperation(
        restored.folder, LOG_KEY, witnesses=[witness.witness], threshold=1, pool_seconds=0.05
    )
    # The same log from before its first entry was integrated.
    other.start()
    wait_for(restored, "failed", operation=other)
    assert other.failure is not None
    assert other.failure.reason is Reason.STORE_ROLLED_BACK
    assert restored.folder.tiles.get("checkpoint") is None
    other.stop()


def test_a_log_waits_for_witnesses_that_do_not_answer(world: World, witness: WitnessServer) -> None:
    """Entries keep their place, and the log goes on when the witness is back."""
    witness.status = 503
    with pytest.raises(NetworkError):
        ask_witnesses([witness.witness], 1, world.folder.trusted)
    operation = operate(world, witness)
    wait_for(world, "failed", operation=operation)
    assert world.state.head().size == 0
    witness.status = None
    wait_for(world, "cosigned", operation=operation)
    operation.stop()
