"""The verification node: it believes nothing, loses nothing, and says so when it is lied to."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from log_leaves import NODES
from node_world import Clock, Operator, make_node
from tlog_log import SIGNER, TRUSTED, MemoryLog, entries
from verispect.core.encoding import encode, sha256
from verispect.core.envelope import open_envelope
from verispect.core.errors import MalformedError, Reason, VerificationError
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.core.statement import PromisedEvidence
from verispect.node.sampling import Draw, check_draw, draw, parse_rate
from verispect.node.verification import VerificationNode
from verispect.tlog.checkpoint import Checkpoint, sign_checkpoint
from verispect.tlog.fork import ForkEvidence
from verispect.tlog.leaf import FORK_TYPE, LateEvidenceLeaf
from verispect.tlog.note import parse_signature_lines
from verispect.tlog.verdict import VERDICT_TYPE, Finding, NodeVerdict, Outcome
from verispect.tlog.witness import AddCheckpointRequest


@pytest.fixture
def operator() -> Iterator[Operator]:
    with Operator() as running:
        yield running


def rounds(node: VerificationNode, clock: Clock, count: int = 1) -> None:
    for _ in range(count):
        asyncio.run(node.round())
        clock.now += 400_000  # Longer than any pause between attempts.


def verdicts(operator: Operator) -> list[NodeVerdict]:
    found = []
    for body in operator.posted:
        envelope = open_envelope(body, content_type=VERDICT_TYPE)
        envelope.verify(NODES["node-a"].public_key)
        found.append(NodeVerdict.decode(envelope.payload))
    return found


def finding(operator: Operator) -> Finding:
    (verdict,) = verdicts(operator)
    (only,) = verdict.findings
    return only


def test_a_good_receipt_is_affirmed_once(operator: Operator, tmp_path: Path) -> None:
    """The verdict is signed and delivered once, also by a node that was started again."""
    clock = Clock()
    receipt = operator.issue()
    for _ in range(2):
        node = make_node(tmp_path, operator.url, clock=clock)
        rounds(node, clock, 2)
        asyncio.run(node.close())
    assert finding(operator).outcome is Outcome.AFFIRMED
    assert verdicts(operator)[0].receipt == receipt.receipt_id


def test_wrong_bytes_refute_only_when_they_are_given_again_and_again(
    operator: Operator, tmp_path: Path
) -> None:
    """One bad answer may be an accident; three are the operator's."""
    clock = Clock()
    receipt = operator.issue()
    path = f"/log/receipts/{receipt.receipt_id.hex()}"
    good, operator.files[path] = operator.files[path], b"not a receipt"
    node = make_node(tmp_path / "one", operator.url, clock=clock)
    rounds(node, clock)
    operator.files[path] = good
    rounds(node, clock)
    assert finding(operator).outcome is Outcome.AFFIRMED
    operator.posted.clear()
    changed = bytearray(receipt.encode())
    changed[-1] ^= 1
    operator.files[path] = bytes(changed)
    rounds(make_node(tmp_path / "two", operator.url, clock=clock), clock, 4)
    assert finding(operator).outcome is Outcome.REFUTED
    assert finding(operator).reason == Reason.CONTENT_MISMATCH


@pytest.mark.parametrize("answer", [404, 500])
def test_what_is_withheld_is_not_refuted(operator: Operator, tmp_path: Path, answer: int) -> None:
    """A node that was given nothing could not tell, and says that it was withheld."""
    clock = Clock()
    receipt = operator.issue()
    operator.files[f"/log/receipts/{receipt.receipt_id.hex()}"] = answer
    rounds(make_node(tmp_path, operator.url, clock=clock), clock, 7)
    assert finding(operator).outcome is Outcome.UNKNOWN
    assert finding(operator).reason == Reason.RECEIPT_WITHHELD


def test_a_receipt_with_a_bad_signature_is_refuted(operator: Operator, tmp_path: Path) -> None:
    """The log took it; the node does not."""
    clock = Clock()
    import material

    from verispect.tlog.receipt_leaf import ReceiptLeaf

    data = bytearray(material.receipt())
    data[-1] ^= 1
    receipt = InferenceReceipt.parse(bytes(data))
    operator.files[f"/log/receipts/{receipt.receipt_id.hex()}"] = bytes(data)
    operator.append(ReceiptLeaf.of(receipt).encode())
    rounds(make_node(tmp_path, operator.url, clock=clock), clock)
    assert finding(operator).reason == Reason.SIGNATURE_INVALID
    assert finding(operator).outcome is Outcome.REFUTED


def test_forged_evidence_is_refuted(operator: Operator, tmp_path: Path) -> None:
    """Evidence that arrived for a receipt is verified with it, from bytes."""
    clock = Clock()
    due = clock.now + 10_000_000
    promised = (PromisedEvidence("signature"), PromisedEvidence("log", None, due))
    receipt = operator.issue(evidence=promised)
    entry = EvidenceEntry("log", "verispect-log-inclusion-v1", clock.now, b"forged", b"")
    blob = encode(entry.to_row()[:-1])
    operator.files[f"/log/evidence/{sha256(blob).hex()}"] = blob
    leaf = LateEvidenceLeaf(receipt.receipt_id, "log", sha256(blob), 6, clock.now)
    operator.append(leaf.encode())
    rounds(make_node(tmp_path, operator.url, clock=clock), clock)
    affirmed, refuted = verdicts(operator)
    assert affirmed.findings[0].outcome is Outcome.AFFIRMED
    assert refuted.findings[0].outcome is Outcome.REFUTED
    assert refuted.evidence == (sha256(blob),)


def test_a_blob_that_is_not_what_the_log_names_is_refuted(
    operator: Operator, tmp_path: Path
) -> None:
    """Whatever is stored under the digest now, it is not what was delivered."""
    clock = Clock()
    receipt = operator.issue()
    operator.files[f"/log/evidence/{sha256(b'was').hex()}"] = b"is"
    leaf = LateEvidenceLeaf(receipt.receipt_id, "proof", sha256(b"was"), 3, clock.now)
    operator.append(leaf.encode())
    rounds(make_node(tmp_path, operator.url, clock=clock), clock, 4)
    assert verdicts(operator)[-1].findings[0].reason == Reason.EVIDENCE_INVALID
    assert verdicts(operator)[-1].findings[0].outcome is Outcome.REFUTED


def test_a_missed_deadline_is_said_by_the_nodes_own_clock(
    operator: Operator, tmp_path: Path
) -> None:
    """A log that stands still does not stop time."""
    clock = Clock()
    promised = (PromisedEvidence("signature"), PromisedEvidence("proof", None, clock.now + 1))
    receipt = operator.issue(evidence=promised)
    node = make_node(tmp_path, operator.url, clock=clock)
    rounds(node, clock, 3)
    overdue = [each for each in verdicts(operator) if each.findings[0].reason]
    assert [each.findings[0].reason for each in overdue] == [Reason.EVIDENCE_OVERDUE]
    operator.append(*_leaves(operator))
    rounds(node, clock, 2)
    row = node.table().of(receipt.receipt_id)
    assert row is not None
    assert row.reason is Reason.EVIDENCE_OVERDUE


def _leaves(operator: Operator) -> list[bytes]:
    from verispect.tlog.leaf import SignedLeaf

    return [
        SignedLeaf.of(open_envelope(body, content_type=VERDICT_TYPE)).encode()
        for body in operator.posted
    ]


@pytest.mark.parametrize("status", [500, 403])
def test_a_verdict_waits_until_it_is_taken(operator: Operator, tmp_path: Path, status: int) -> None:
    """Neither a failing operator nor one that refuses makes a node forget what it found."""
    clock = Clock()
    operator.issue()
    operator.post_status = status
    node = make_node(tmp_path, operator.url, clock=clock)
    rounds(node, clock, 2)
    assert (len(operator.posted), node.state.undelivered()) == (0, 1)
    asyncio.run(node.close())
    operator.post_status = 202
    node = make_node(tmp_path, operator.url, clock=clock)
    rounds(node, clock, 2)
    assert (len(operator.posted), node.state.undelivered()) == (1, 0)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 600])
def test_the_mirror_has_the_root_that_the_log_signed(
    operator: Operator, tmp_path: Path, size: int
) -> None:
    """Whole bundles, parts of them, in one step and in two."""
    clock = Clock()
    node = make_node(tmp_path, operator.url, clock=clock)
    leaves = entries(size)
    for part in (leaves[: size // 2], leaves[size // 2 :]):
        if part:
            operator.append(*part)
            rounds(node, clock)
    assert [*node.mirror.leaves()] == leaves
    assert node.mirror.root(size) == operator.log.root


def test_leaves_that_do_not_lead_to_the_signed_root_are_not_believed(
    operator: Operator, tmp_path: Path
) -> None:
    """The node stays where it was; no fork is claimed, as none is proven."""
    clock = Clock()
    operator.append(*entries(3))
    node = make_node(tmp_path, operator.url, clock=clock)
    rounds(node, clock)
    operator.append(*entries(2, "more"))
    other = MemoryLog([*entries(3), *entries(2, "other")])
    operator.files |= {f"/log/{path}": data for path, data in other.resources.items()}
    rounds(node, clock)
    assert node.mirror.size == 3
    assert not node.state.forks()
    operator.publish()
    rounds(node, clock)
    assert node.mirror.size == 5


def other_history() -> Operator:
    return Operator(MemoryLog([*entries(2), b"another", *entries(2, "more")]))


def test_a_second_history_is_proven_and_published(operator: Operator, tmp_path: Path) -> None:
    """The evidence convinces anyone who knows the log's key."""
    clock = Clock()
    operator.append(*entries(3))
    first = make_node(tmp_path, operator.url, clock=clock)
    rounds(first, clock)
    asyncio.run(first.close())
    with other_history() as evil:
        node = make_node(tmp_path, evil.url, clock=clock)
        rounds(node, clock, 2)
        (data,) = node.state.forks()
        ForkEvidence.decode(data).verify(TRUSTED)
        assert node.mirror.size == 3
        envelope = open_envelope(evil.posted[0], content_type=FORK_TYPE)
        envelope.verify(NODES["node-a"].public_key)


def test_a_fork_is_seen_by_comparing_with_a_peer(operator: Operator, tmp_path: Path) -> None:
    """Two nodes that were shown different trees find out, and take over what the other proved."""
    clock = Clock()
    operator.append(*entries(8))
    with other_history() as peer:
        peer.files["/view"] = peer.files["/log/checkpoint"]
        node = make_node(tmp_path / "one", operator.url, clock=clock, peers=(peer.url,))
        rounds(node, clock, 2)
        (data,) = node.state.forks()
        ForkEvidence.decode(data).verify(TRUSTED)
        assert len(operator.posted) == 1
        del peer.files["/view"]
        peer.files["/forks"] = b'["' + b64encode(data) + b'"]'
        again = make_node(tmp_path / "two", operator.url, clock=clock, peers=(peer.url,))
        rounds(again, clock)
        assert again.state.forks() == [data]


@pytest.mark.parametrize("forks", [b"{}", b"[1]", b'["AA=="]', b"[", b'["!"]'])
def test_a_peer_that_lies_changes_nothing(operator: Operator, tmp_path: Path, forks: bytes) -> None:
    """What is no evidence is left out, and the round goes on."""
    clock = Clock()
    operator.issue()
    with Operator() as peer:
        peer.files |= {"/view": b"junk", "/forks": forks}
        node = make_node(tmp_path, operator.url, clock=clock, peers=(peer.url,))
        rounds(node, clock, 2)
    assert not node.state.forks()
    assert finding(operator).outcome is Outcome.AFFIRMED


def request(log: MemoryLog, old: int) -> bytes:
    path = tuple(log.consistency(old)) if old else ()
    return AddCheckpointRequest(old, path, log.checkpoint()).encode()


def test_it_co_signs_what_is_consistent_and_nothing_else(tmp_path: Path) -> None:
    """The witness's rules hold over restarts: never back, never aside."""
    clock = Clock()
    log = MemoryLog(entries(3))
    node = make_node(tmp_path, "http://127.0.0.1:9", clock=clock)
    witness = node.app._witness
    status, _, body = witness.add_checkpoint(request(log, 0))
    assert status == 200
    (line,) = parse_signature_lines(body.decode())
    assert node.witness_key.matches(line)
    asyncio.run(node.close())
    node = make_node(tmp_path, "http://127.0.0.1:9", clock=clock)
    witness = node.app._witness
    assert witness.add_checkpoint(request(log, 0))[::2] == (409, b"3\n")
    log.append(entries(2, "more"))
    assert witness.add_checkpoint(request(log, 3))[0] == 200
    assert witness.add_checkpoint(b"junk")[0] == 400
    assert witness.latest(TRUSTED.origin) == log.checkpoint().encode()
    assert witness.latest("another") is None
    other = Checkpoint(TRUSTED.origin, 5, sha256(b"another tree"))
    forked = AddCheckpointRequest(5, (), sign_checkpoint(other, signer=SIGNER))
    assert witness.add_checkpoint(forked.encode())[0] == 409
    (data,) = node.state.forks()
    ForkEvidence.decode(data).verify(TRUSTED)


def test_a_draw_can_be_checked_and_has_its_rate() -> None:
    """It is the same every time, belongs to one key, and hits as often as declared."""
    signer = NODES["node-a"]
    checkpoint = Checkpoint(TRUSTED.origin, 7, sha256(b"root"))
    rate = parse_rate("1/4")
    draws = [draw(sha256(b"%d" % n), checkpoint, rate=rate, signer=signer) for n in range(400)]
    assert 60 <= sum(each.drawn for each in draws) <= 140
    receipt = sha256(b"0")
    again = draw(receipt, checkpoint, rate=rate, signer=signer)
    assert again == draws[0]
    check_draw(again, receipt, checkpoint, rate=rate, key=signer.public_key)
    with pytest.raises(VerificationError):
        check_draw(again, sha256(b"1"), checkpoint, rate=rate, key=signer.public_key)
    denied = Draw(again.signature, not again.drawn)
    with pytest.raises(MalformedError):
        check_draw(denied, receipt, checkpoint, rate=rate, key=signer.public_key)


@pytest.mark.parametrize(("text", "drawn"), [("0", False), ("1", True)])
def test_the_ends_of_the_rate_are_exact(text: str, drawn: bool) -> None:
    """Nothing at 0, everything at 1."""
    checkpoint = Checkpoint(TRUSTED.origin, 7, sha256(b"root"))
    for number in range(20):
        found = draw(
            sha256(b"%d" % number), checkpoint, rate=Fraction(text), signer=NODES["node-a"]
        )
        assert found.drawn is drawn


@pytest.mark.parametrize("text", ["-1", "1.1", "often", "1/0", "nan", "1/10000001"])
def test_a_rate_that_is_none_is_refused(text: str) -> None:
    """A misspelt rate is an error, never zero."""
    with pytest.raises(MalformedError):
        parse_rate(text)
