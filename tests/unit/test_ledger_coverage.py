"""Coverage: what the log achieved, counted by anyone, equal to what the status replay says."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from log_leaves import MINUTE, T0, late, nodes, receipt_leaf, verdict
from node_world import material
from verispect.appraisal.policy import ATTESTED, ATTESTED_DEVELOPMENT, PROVEN, SIGNED
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.signer import Issuer, SoftwareSigner
from verispect.cli.main import main
from verispect.core.claims import Claim, Source
from verispect.core.encoding import decode_content, sha256
from verispect.core.envelope import STATEMENT_TYPE, sign_envelope
from verispect.core.errors import RequestError
from verispect.core.keys import KeyId
from verispect.core.statement import PromisedEvidence
from verispect.gateway.log_service import LogConfiguration, log_settings, operate_log
from verispect.gateway.metrics import Metrics
from verispect.ledger import NewReceipt, ReceiptStore
from verispect.ledger.coverage import CoverageCounter
from verispect.ledger.coverage_figures import differences
from verispect.ledger.coverage_leaves import NO_DEADLINE, read_settled
from verispect.ledger.coverage_outbox import CoverageOutbox
from verispect.ledger.log.appender import Appender
from verispect.ledger.log.description import LogDescription
from verispect.ledger.log.embedded import LogFolder
from verispect.ledger.log.entries import entry_of_leaf
from verispect.ledger.log.interface import NewEntry
from verispect.tlog.leaf import SignedLeaf, decode_leaf
from verispect.tlog.publications import COVERAGE_TYPE, REFUSAL_TYPE, Refusal
from verispect.tlog.receipt_leaf import Disclosure, ReceiptLeaf
from verispect.tlog.status import replay_status
from verispect.tlog.status_table import NodePolicy
from verispect.tlog.verdict import Outcome


def counted(leaves, threshold=2, *, start=0):
    counter = CoverageCounter(nodes(threshold), leaves=lambda: iter(leaves))
    counter.replay(leaves[:start])
    counter.begin()
    counter.replay(leaves[start:])
    return counter


def leaf(number, *, assurance=None, evidence=(), **shown):
    return ReceiptLeaf(
        receipt=sha256(b"r%d" % number),
        issuer_key=KeyId(sha256(b"issuer")),
        sequence=number,
        signed_at=T0 + number,
        assurance=assurance or SIGNED.digest(),
        evidence=(PromisedEvidence("signature"), *evidence),
        model=sha256(b"model"),
        **shown,
    ).encode()


def test_each_claim_is_counted_under_what_was_achieved() -> None:
    """A signature asserts; a log shows; what is disclosed is added up by model and asset."""
    model = sha256(b"m")
    shown = {"model_id": model, "usage": {"input_tokens": 30, "output_tokens": 4}}
    leaves = [leaf(1, **shown, charge=("usd", 7)), leaf(2, **shown, charge=("usd", 8)), leaf(3)]
    figures = counted(leaves).figures()
    assert figures.outcomes["met"] == 3
    assert figures.claims[Claim.EXECUTION, Source.ASSERTED].inferences == 3
    assert figures.claims[Claim.CONFIDENTIALITY, Source.UNSTATED].inferences == 3
    assert figures.claims[Claim.LOGGED, Source.LOGGED].tokens == 68
    assert figures.models[model].charges == {"usd": 15}
    assert figures.models[None].inferences == 1


def test_development_evidence_is_never_counted_as_hardware() -> None:
    """The same kind of evidence counts only under a policy that demands the class hardware."""
    attested = [PromisedEvidence("aws-nitro", sha256(b"e"))]
    leaves = [
        leaf(1, assurance=ATTESTED.digest(), evidence=attested),
        leaf(2, assurance=ATTESTED_DEVELOPMENT.digest(), evidence=attested),
        leaf(3, assurance=SIGNED.digest(), evidence=attested),
    ]
    claims = counted(leaves).figures().claims
    assert claims[Claim.EXECUTION, Source.HARDWARE].inferences == 1
    assert claims[Claim.EXECUTION, Source.ASSERTED].inferences == 2


def test_random_logs_are_counted_as_the_status_replay_says() -> None:
    """Late evidence, verdicts for and against, gaps and reused numbers, in any order."""
    seen: Counter[str] = Counter()
    for seed in range(150):
        draw = random.Random(seed)
        leaves = random_log(draw)
        start = draw.choice((0, 0, len(leaves) // 2))
        figures = counted(leaves, start=start).figures()
        rows = replay_status(leaves, nodes=nodes(2)).receipts
        expected = Counter(row.state.name.lower() for row in rows if row.leaf_index >= start)
        found = {name: n for name, n in figures.outcomes.items() if n and name != "refused"}
        assert found == expected, seed
        reasons = Counter(
            row.reason.value for row in rows if row.leaf_index >= start and row.reason
        )
        assert figures.failures == reasons, seed
        seen += expected + reasons
    assert {"met", "pending", "failed", "sequence-reused", "evidence-overdue"} <= seen.keys()


def random_log(draw: random.Random) -> list[bytes]:
    leaves: list[bytes] = []
    sequence = 0
    for number in range(1, draw.randrange(4, 40)):
        at = T0 + number * draw.choice((10, 1000, MINUTE))
        choice = draw.random()
        earlier = draw.randrange(1, number + 1)
        if choice < 0.7:
            sequence += draw.choice((1, 1, 1, 1, 1, 2, 0))
            promises = draw.choice(
                (
                    (),
                    (),
                    (),
                    [PromisedEvidence("proof", None, at + 500)],
                    [PromisedEvidence("verdicts", None, at + MINUTE)],
                    [PromisedEvidence("log", None, at + draw.choice((MINUTE, -3 * MINUTE)))],
                    [PromisedEvidence("aws-nitro", sha256(b"e"))],
                )
            )
            leaves.append(receipt_leaf(number, at=at, promises=promises, sequence=sequence or 1))
        elif choice < 0.8:
            leaves.append(late(earlier, at=at))
        elif choice < 0.83 and leaves:
            leaves.append(draw.choice(leaves))  # The same leaf once more says nothing new.
        elif leaves:
            leaves.append(random_verdict(draw, earlier, at))
    return leaves


VERDICTS = (
    {},
    {"source": Source.STATISTICAL},
    {"outcome": Outcome.REFUTED, "reason": "content-mismatch"},
    {"outcome": Outcome.UNKNOWN, "reason": "receipt-withheld"},
)


def random_verdict(draw: random.Random, number: int, at: int) -> bytes:
    name = draw.choice(("node-a", "node-b", "node-c", "stranger"))
    return verdict(number, node=name, at=at, **draw.choice(VERDICTS))


def test_what_is_read_by_its_bytes_is_what_decoding_gives() -> None:
    """Any byte changed, cut or added: read the same, or left to the decoder that decides."""
    shown = {"model_id": sha256(b"m"), "usage": {"input_tokens": 300, "output_tokens": 4}}
    log = PromisedEvidence("log", None, T0 + MINUTE)
    nitro = PromisedEvidence("aws-nitro", sha256(b"e"))
    samples = [
        leaf(23),
        leaf(70000, evidence=[log], **shown, charge=("usd", 7)),
        leaf(300, evidence=[nitro, log], usage={"cached": 9, "input_tokens": 3}),
    ]
    changed = [
        data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
        for data in samples
        for at in range(len(data))
        for flip in (1, 2, 8, 0x20, 0x80)
    ]
    cut = [data[:end] for data in samples for end in range(len(data))]
    longer = [data + b"\x00" for data in samples]
    assert all(read_settled(data) is not None for data in samples)
    for data in [*samples, *changed, *cut, *longer]:
        read = read_settled(data)
        if read is None:
            continue
        found = decode_leaf(data)
        assert isinstance(found, ReceiptLeaf)
        issuer, sequence, signed_at, deadline, kind, tokens, charge = read
        assert (issuer, sequence, signed_at) == (
            found.issuer_key,
            found.sequence,
            found.signed_at,
        )
        due = [each.due_at for each in found.evidence if each.kind == "log" and each.due_at]
        assert deadline == min(due, default=NO_DEADLINE)
        usage = found.usage or {}
        assert tokens == usage.get("input_tokens", 0) + usage.get("output_tokens", 0)
        asset, charged = found.charge or (None, 0)
        kinds = frozenset(each.kind for each in found.evidence)
        assert (kind, charge) == ((found.assurance, kinds, found.model_id, asset), charged)


def test_receipts_that_are_met_are_not_kept_and_can_still_fail() -> None:
    """Thousands of kept promises leave sums only, and one refuted later counts as failed."""
    leaves = []
    for number in range(1, 301):
        at = T0 + number
        promised = PromisedEvidence("proof", None, at + 500)
        leaves += [receipt_leaf(number, at=at, promises=[promised]), late(number, at=at)]
    for number in range(301, 900, 2):  # Two processes: every second number comes late.
        log = [PromisedEvidence("log", None, T0 + number + MINUTE)]
        leaves += [
            receipt_leaf(each, at=T0 + number, promises=log) for each in (number + 1, number)
        ]
    counter = counted(leaves)
    assert counter.followed == 0
    assert counter.figures().outcomes["met"] == 900
    refuted = verdict(7, outcome=Outcome.REFUTED, at=T0 + 901, reason="content-mismatch")
    leaves.append(refuted)
    counter.replay([refuted])
    figures = counter.figures()
    assert (figures.outcomes["met"], figures.outcomes["failed"]) == (899, 1)
    assert figures.report() == counted(leaves).figures().report()
    assert figures.claims[Claim.EXECUTION, Source.PROVEN].inferences == 299


def test_what_was_not_delivered_is_counted_by_what_was_required(tmp_path: Path) -> None:
    """Failures and refusals stand under the preset that was asked for, at /metrics too."""
    issuer = SoftwareSigner(bytes(range(32)))
    refusal = sign_envelope(
        Refusal(T0, "chat.completions", "assurance-unavailable", ATTESTED.digest()).encode(),
        content_type=REFUSAL_TYPE,
        issuer="tests",
        subject="x",
        signer=issuer,
    )
    promise = [PromisedEvidence("proof", None, T0 + 10)]
    leaves = [
        leaf(1, assurance=PROVEN.digest(), evidence=promise),
        SignedLeaf.of(refusal).encode(),
        leaf(MINUTE * 3, assurance=SIGNED.digest()),
    ]
    figures = counted(leaves).figures()
    assert figures.unmet[PROVEN.digest()].failures == {"evidence-overdue": 1}
    assert figures.unmet[ATTESTED.digest()].refusals == {"assurance-unavailable": 1}
    assert SIGNED.digest() not in figures.unmet
    (tmp_path / "c.json").write_text(json.dumps(decode_content(figures.report())))
    rendered = Metrics(coverage=tmp_path / "c.json").render().decode()
    assert 'verispect_coverage_unmet{outcome="failed",preset="proven"} 1.0' in rendered
    assert 'verispect_coverage_unmet{outcome="refused",preset="attested"} 1.0' in rendered


def test_another_figure_is_noticed() -> None:
    """A published coverage that says something else differs, and the same one does not."""
    leaves = [leaf(number) for number in range(1, 9)]
    own = counted(leaves).figures().publication(T0)
    assert differences(own, counted(leaves).figures().publication(T0 + 5)) == []
    assert differences(own, counted(leaves[:-1]).figures().publication(T0))


def test_an_operator_publishes_epochs_that_anyone_can_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each epoch begins where the last ended, also after a restart; a false figure is found."""
    issuer = Issuer("tests", SoftwareSigner(bytes(range(32))), False, 0)
    signer = SoftwareSigner(bytes(reversed(range(32))))
    folder = LogFolder.create(tmp_path / "log", LogDescription("log.example"), signer=signer)
    state = folder.open_state()
    appender = Appender.open(state, folder.tiles, origin="log.example", signer=signer)
    now = [0.0]

    def outbox() -> CoverageOutbox:
        return CoverageOutbox(
            folder, issuer, NodePolicy(), shown=tmp_path / "c.json", seconds=9, clock=lambda: now[0]
        )

    def issue(first: int, end: int) -> None:
        leaves = [leaf(number) for number in range(first, end)]
        state.accept([NewEntry(decode_leaf(data).receipt, data) for data in leaves])
        appender.step()

    source = outbox()
    issue(1, 301)
    assert source.follow(state) == 0
    now[0] = 10
    assert source.follow(state) == 1
    appender.step()
    now[0] = 20
    assert source.follow(state) == 0
    issue(301, 305)
    source = outbox()
    now[0] = 40
    assert source.follow(state) == 1
    appender.step()
    root = TrustedRoot([issuer.trusted_key()])
    (tmp_path / "root.json").write_bytes(root.to_json())
    command = ["coverage", f"--log={tmp_path / 'log'}", f"--trusted-root={tmp_path / 'root.json'}"]
    assert main([*command, "--check"]) == 0
    shown = capsys.readouterr()
    assert "OK: 2 published figures" in shown.err
    assert "304 met" in shown.out
    rendered = Metrics(coverage=tmp_path / "c.json").render().decode()
    assert 'verispect_coverage_outcomes{outcome="met"} 4.0' in rendered
    own = counted([leaf(1)]).figures().publication(T0)
    lie = sign_envelope(
        replace(own, met=own.met + 1).encode(),
        content_type=COVERAGE_TYPE,
        issuer="tests",
        subject="x",
        signer=issuer.signer,
    )
    state.accept([entry_of_leaf(SignedLeaf.of(lie).encode())])
    appender.step()
    assert main([*command, "--check", "--json"]) == 1
    assert "met: 2 published, 1 counted" in capsys.readouterr().err


def test_an_operator_says_what_its_leaves_disclose(tmp_path: Path) -> None:
    """The words of the command line reach the log's signed description; another is refused."""
    issuer = Issuer("tests", SoftwareSigner(bytes(range(32))), False, 0)
    places = {"folder": str(tmp_path / "log"), "keys": str(tmp_path / "keys")}
    chosen = LogConfiguration(**places, disclose=["model", "usage"])
    description = log_settings(chosen, issuer).folder.description()
    assert description.disclosure == Disclosure.MODEL | Disclosure.USAGE
    with pytest.raises(RequestError):
        log_settings(LogConfiguration(**places, disclose=["prompt"]), issuer)


def test_what_is_disclosed_stands_in_the_leaves(tmp_path: Path) -> None:
    """The operation of the log makes leaves as its description says."""
    issuer = Issuer("tests", SoftwareSigner(bytes(range(32))), False, 0)
    places = {"folder": str(tmp_path / "log"), "keys": str(tmp_path / "keys")}
    key = issuer.signer.public_key
    store = ReceiptStore.open(tmp_path / "receipts", issuer_key_id=key.key_id)

    def mint(sequence: int) -> bytes:
        draft = material.statement(sequence=sequence)
        return sign_envelope(
            draft.encode(),
            content_type=STATEMENT_TYPE,
            issuer="tests",
            subject="0" * 32,
            signer=issuer.signer,
        ).encode()

    async def issue() -> None:
        await store.issue(NewReceipt(bytes(16), mint))
        await store.close()

    asyncio.run(issue())
    configuration = LogConfiguration(**places, disclose=["model"])
    operation = operate_log(configuration, issuer, tmp_path)
    folder = LogFolder(tmp_path / "log")
    state = folder.open_state()
    for _ in range(200):
        if state.head().size:
            break
        time.sleep(0.05)
    operation.stop()
    shown = decode_leaf(folder.open_proofs().leaf(0))
    assert isinstance(shown, ReceiptLeaf)
    assert shown.model_id == material.statement().model.model_id
    assert shown.usage is None
