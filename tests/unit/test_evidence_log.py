"""Evidence of the log and of nodes: what it shows, what it refuses, what it saves."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from log_leaves import NODES, nodes
from tlog_log import COSIGNED_AT, TRUSTED, MemoryLog, policy
from verispect.appraisal.policy import AUDITED, LOGGED, SIGNED
from verispect.appraisal.result import AttestationResult, Verdict
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Verifier
from verispect.core.claims import Claim, Source
from verispect.core.encoding import encode, sha256
from verispect.core.envelope import SignedEnvelope
from verispect.core.errors import MalformedError, Reason
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.core.statement import PromisedEvidence
from verispect.evidence.interface import IssuerKey
from verispect.evidence.log_inclusion import make_log_evidence
from verispect.evidence.log_trust import LogTrust
from verispect.evidence.verdicts import CLAIMS, make_verdict_evidence
from verispect.tlog.receipt_leaf import Disclosure, ReceiptLeaf
from verispect.tlog.verdict import Finding, NodeVerdict, Outcome, sign_verdict

sys.path.insert(0, str(Path(__file__).parents[2] / "vectors"))

import material

SEEN_AT = COSIGNED_AT * 1000
NOW = SEEN_AT + 3_600_000
DUE = SEEN_AT + 60_000
LOG_PROMISE = PromisedEvidence("log", None, DUE)
VERDICTS_PROMISE = PromisedEvidence("verdicts", None, DUE)


def root(*, compromised_at: int | None = None, threshold: int = 2, k: int = 2) -> TrustedRoot:
    key = IssuerKey(
        material.ISSUER, material.GOOD.public_key, False, 0, compromised_at=compromised_at
    )
    return TrustedRoot([key], log_trust=LogTrust([TRUSTED], policy(threshold), nodes(k)))


def a_receipt(*promises: PromisedEvidence) -> InferenceReceipt:
    promised = (PromisedEvidence("signature"), *promises)
    return InferenceReceipt.parse(material.receipt(evidence=promised))


def with_evidence(receipt: InferenceReceipt, *entries: EvidenceEntry) -> InferenceReceipt:
    rows = tuple(entry.to_row() for entry in entries)
    return InferenceReceipt(replace(receipt.envelope, evidence=rows))


def log_evidence(
    receipt: InferenceReceipt,
    *,
    disclose: Disclosure = Disclosure.NOTHING,
    leaf_of: InferenceReceipt | None = None,
    witnesses: tuple[str, ...] = ("w1", "w2"),
) -> EvidenceEntry:
    leaf = ReceiptLeaf.of(leaf_of or receipt, disclose=disclose).encode()
    log = MemoryLog([b"another", leaf, b"a third"])
    return make_log_evidence(leaf, log.proof(1, witnesses=witnesses), collected_at=SEEN_AT)


def verdict(
    receipt: InferenceReceipt,
    node: str,
    *,
    outcome: Outcome = Outcome.AFFIRMED,
    source: Source = Source.REEXECUTED,
) -> SignedEnvelope:
    findings = [Finding(claim, outcome, source, "exact-replay") for claim in CLAIMS]
    found = NodeVerdict(receipt.receipt_id, SEEN_AT, sha256(b"node"), findings)
    return sign_verdict(found, issuer=node, signer=NODES[node])


def appraise(
    receipt: InferenceReceipt, trusted: TrustedRoot | None = None, *, policy_: object = LOGGED
) -> AttestationResult:
    return Verifier(trusted or root()).appraise(
        receipt,
        opened={},
        policy=policy_,  # type: ignore[arg-type]
        now=NOW,
    )


@pytest.mark.parametrize("disclose", [Disclosure.NOTHING, Disclosure.MODEL | Disclosure.USAGE])
def test_a_receipt_in_a_witnessed_log_is_logged_in_its_time(disclose: Disclosure) -> None:
    """The preset `logged` is met, whatever the log discloses."""
    receipt = a_receipt(LOG_PROMISE)
    result = appraise(with_evidence(receipt, log_evidence(receipt, disclose=disclose)))
    assert result.verdict is Verdict.VERIFIED, result.reason
    assert Source.LOGGED in result.claims[Claim.TIME] & result.claims[Claim.LOGGED]
    assert any("whether the computation was right" in line for line in result.not_covered)


def test_each_lie_about_the_log_is_refused_with_its_reason() -> None:
    """Another receipt's leaf, too few witnesses, an unknown log, other bytes."""
    receipt, other = a_receipt(LOG_PROMISE), a_receipt()
    good = log_evidence(receipt)
    nobody = replace(root(), log_trust=LogTrust([], policy(2), nodes(2)))
    cases = [
        (log_evidence(receipt, leaf_of=other), root(), Reason.CONTENT_MISMATCH),
        (log_evidence(receipt, witnesses=("w1",)), root(), Reason.WITNESSES_MISSING),
        (good, nobody, Reason.LOG_UNKNOWN),
        (replace(good, body=encode([2, b"", b""])), root(), Reason.MALFORMED_EVIDENCE),
        (replace(good, profile="another"), root(), Reason.MALFORMED_EVIDENCE),
    ]
    for entry, trusted, reason in cases:
        result = appraise(with_evidence(receipt, entry), trusted)
        assert (result.verdict, result.reason) == (Verdict.REFUSED, reason)


def test_without_a_witness_the_log_shows_no_time() -> None:
    """The log's own word is not enough for `time`, and so not for the preset."""
    receipt = a_receipt(LOG_PROMISE)
    entry = log_evidence(receipt, witnesses=())
    result = appraise(with_evidence(receipt, entry), root(threshold=0))
    assert (result.verdict, result.reason) == (Verdict.REFUSED, Reason.POLICY_UNMET)
    assert Source.LOGGED in result.claims[Claim.LOGGED]
    assert Source.LOGGED not in result.claims[Claim.TIME]


def test_a_statement_from_after_its_witnesses_is_refused() -> None:
    """Nobody sees a statement before it is signed."""
    late = InferenceReceipt.parse(
        material.receipt(
            signed_at=SEEN_AT + 120_000, evidence=(PromisedEvidence("signature"), LOG_PROMISE)
        )
    )
    result = appraise(with_evidence(late, log_evidence(late)))
    assert result.reason is Reason.TIMES_INCONSISTENT


def test_a_logged_receipt_survives_a_later_compromise_of_its_key() -> None:
    """What witnesses saw before stays good; at that time or after, or unlogged, nothing does."""
    receipt = a_receipt(LOG_PROMISE)
    logged = with_evidence(receipt, log_evidence(receipt))
    after, before = root(compromised_at=SEEN_AT + 1), root(compromised_at=SEEN_AT)
    assert appraise(logged, after).verdict is Verdict.VERIFIED
    assert appraise(logged, before).reason is Reason.KEY_COMPROMISED
    for trusted in (after, before):
        bare = appraise(a_receipt(), trusted, policy_=SIGNED)
        assert bare.reason is Reason.KEY_COMPROMISED
    unwitnessed = with_evidence(receipt, log_evidence(receipt, witnesses=()))
    trusted = root(compromised_at=SEEN_AT + 1, threshold=0)
    assert appraise(unwitnessed, trusted).reason is Reason.KEY_COMPROMISED


def test_k_verdicts_of_listed_nodes_audit_a_receipt() -> None:
    """Two of three nodes suffice for k of 2; one, one twice, and one with a stranger do not."""
    receipt = a_receipt(LOG_PROMISE, VERDICTS_PROMISE)

    def audited(*envelopes: SignedEnvelope) -> AttestationResult:
        entry = make_verdict_evidence(envelopes, collected_at=SEEN_AT)
        return appraise(with_evidence(receipt, log_evidence(receipt), entry), policy_=AUDITED)

    one = verdict(receipt, "node-a")
    result = audited(one, verdict(receipt, "node-b"))
    assert result.verdict is Verdict.VERIFIED, result.reason
    assert Source.REEXECUTED in result.claims[Claim.EXECUTION]
    for second in (one, verdict(receipt, "stranger")):
        assert audited(one, second).reason is Reason.VERDICTS_MISSING
    mixed = audited(one, verdict(receipt, "node-b", source=Source.STATISTICAL))
    assert mixed.reason is Reason.VERDICTS_MISSING
    of_another = audited(one, verdict(a_receipt(), "node-b"))
    assert of_another.reason is Reason.CONTENT_MISMATCH


def test_one_refuting_node_refutes() -> None:
    """The claim is shown as refuted and the policy is not met, whoever else affirms."""
    receipt = a_receipt(LOG_PROMISE, VERDICTS_PROMISE)
    envelopes = [verdict(receipt, "node-a"), verdict(receipt, "node-b")]
    envelopes.append(verdict(receipt, "node-a", outcome=Outcome.REFUTED))
    entry = make_verdict_evidence(envelopes, collected_at=SEEN_AT)
    result = appraise(with_evidence(receipt, log_evidence(receipt), entry), policy_=AUDITED)
    assert result.reason is Reason.EVIDENCE_REFUTES
    assert result.claims[Claim.EXECUTION] == frozenset({Source.REFUTED})


def test_a_conflict_names_every_side_and_refuted_wins() -> None:
    """Who affirms and who refutes a claim is shown, nodes of one piece of evidence included."""
    receipt = a_receipt(LOG_PROMISE, VERDICTS_PROMISE)
    envelopes = [
        verdict(receipt, "node-a", outcome=Outcome.REFUTED),
        verdict(receipt, "node-b"),
        verdict(receipt, "node-c"),
    ]
    entry = make_verdict_evidence(envelopes, collected_at=SEEN_AT)
    for entries in ((log_evidence(receipt), entry), (entry, log_evidence(receipt))):
        result = appraise(with_evidence(receipt, *entries), policy_=SIGNED)
        assert (result.verdict, result.reason) == (Verdict.REFUSED, Reason.EVIDENCE_REFUTES)
        assert [each.claim for each in result.conflicts] == list(CLAIMS)
        conflict = next(each for each in result.conflicts if each.claim is Claim.EXECUTION)
        assert set(conflict.affirmed_by) == {
            ("signature", Source.ASSERTED),
            ("verdicts/node-b", Source.REEXECUTED),
            ("verdicts/node-c", Source.REEXECUTED),
        }
        assert conflict.refuted_by == ["verdicts/node-a"]
        assert str(conflict) in result.decisive_check().detail
        assert len(result.to_json()["conflicts"]) == len(CLAIMS)
    agreed = make_verdict_evidence(envelopes[1:], collected_at=SEEN_AT)
    agreeing = appraise(with_evidence(receipt, log_evidence(receipt), agreed), policy_=AUDITED)
    assert agreeing.verdict is Verdict.VERIFIED
    assert agreeing.conflicts == []


def test_what_was_required_promised_and_delivered_is_shown() -> None:
    """The JSON view holds all three, and until when the rest may come."""
    receipt = a_receipt(LOG_PROMISE, VERDICTS_PROMISE)
    early = Verifier(root()).appraise(
        with_evidence(receipt, log_evidence(receipt)), opened={}, policy=AUDITED, now=DUE
    )
    view = early.to_json()
    assert (view["outcome"], view["pendingUntil"]) == ("pending", DUE)
    assert view["required"]["claims"]["logged"] == ["logged"]
    assert view["required"]["asked"] == receipt.unverified_statement.assurance.hex()
    assert [each["kind"] for each in view["promised"]] == ["signature", "log", "verdicts"]
    assert view["promised"][1] == {"kind": "log", "digest": None, "dueAt": DUE}
    assert [each["kind"] for each in view["delivered"]] == ["signature", "log"]
    assert view["delivered"][1]["claims"] == {"time": ["logged"], "logged": ["logged"]}
    late = appraise(with_evidence(receipt, log_evidence(receipt)), policy_=AUDITED).to_json()
    assert (late["outcome"], late["pendingUntil"]) == ("failed", None)


def test_the_lists_of_a_trusted_root_come_back() -> None:
    """Logs, witnesses and nodes are read as they are printed; a half of one is refused."""
    trusted = root(compromised_at=7)
    again = TrustedRoot.from_json(trusted.to_json())
    assert again.to_json() == trusted.to_json()
    assert again.log_trust.nodes.threshold == 2
    for damaged in (
        {"witnesses": {"threshold": 1, "keys": []}},
        {"nodes": {"threshold": 1}},
        {"logs": [{"origin": "another", "keys": [TRUSTED.keys[0].encode()]}]},
        {"nodes": {"threshold": 1, "keys": [{"name": "", "key": "A"}]}},
    ):
        with pytest.raises(MalformedError) as caught:
            TrustedRoot.from_json(material.trusted_root(**damaged).encode())
        assert caught.value.reason is Reason.MALFORMED_TRUSTED_ROOT
