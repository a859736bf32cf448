"""The fail-loud matrix: every kind of evidence, in every way that it can be bad.

Each cell is a receipt that is refused, or about which nobody can tell, by the command that people
use: with its own reason, its own exit code, and the failing check in the result. A cell that cannot
exist says why in `IMPOSSIBLE`; every cell is in one of the two tables.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
import test_evidence_attested as attested
import test_evidence_log as logs
import test_evidence_proof as proofs
from test_evidence_attested import enclave as enclave  # A fixture.
from test_evidence_proof import Proven
from test_evidence_proof import proven as proven  # A fixture.

from log_leaves import T0, late, missed, nodes, receipt_id, receipt_leaf, verdict
from log_receipts import ISSUER, SIGNER
from tlog_log import COSIGNED_AT, ORIGIN, WITNESSES, MemoryLog
from tlog_log import SIGNER as LOG_SIGNER
from verispect.appraisal.attestation_trust import AttestationTrust
from verispect.appraisal.policy import (
    ATTESTED,
    ATTESTED_DEVELOPMENT,
    AUDITED,
    LOGGED,
    PROVEN,
    SIGNED,
    AssurancePolicy,
)
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.development_enclave import DevelopmentEnclave
from verispect.cli.main import main
from verispect.core.claims import Claim
from verispect.core.commitments import OpenedParts, encode_openings
from verispect.core.encoding import decode, encode, sha256
from verispect.core.envelope import STATEMENT_TYPE, sign_envelope
from verispect.core.errors import Reason
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.core.statement import InferenceStatement, PromisedEvidence
from verispect.evidence.interface import IssuerKey
from verispect.evidence.log_inclusion import make_log_evidence
from verispect.evidence.proof import KIND as PROOF
from verispect.evidence.registry import BUILT_IN
from verispect.evidence.verdicts import CLAIMS, make_verdict_evidence
from verispect.tlog.checkpoint import Checkpoint, sign_checkpoint
from verispect.tlog.cosignature import cosign
from verispect.tlog.receipt_leaf import ReceiptLeaf
from verispect.tlog.status import State, replay_status
from verispect.tlog.tlog_proof import TlogProof
from verispect.tlog.verdict import Finding, NodeVerdict, Outcome, sign_verdict

material = logs.material

DUE_AT: Final = T0 + 600_000

FAULTS: Final = (
    "missing",
    "expired",
    "forged",
    "for another request",
    "refuted",
    "late",
    "unknown version",
)
HARDWARE: Final = ("intel-tdx", "amd-sev-snp", "gcp-confidential-space", "tpm2-quote", "azure-vtpm")
"""Technologies of whose evidence none can be made here for a key of ours."""

IMPOSSIBLE: Final = {
    ("log", "expired"): "an inclusion proof has no end; a list of logs has: see the trusted root",
    ("log", "refuted"): "a log says that something is there; what is wrong, nodes say",
    ("verdicts", "expired"): "a verdict has no end; whoever no longer trusts a node unlists it",
    ("proof", "expired"): "what is proven stays proven",
    **{
        (kind, "refuted"): "needs a quote of a real machine that names a listed key; the step is "
        "that of aws-nitro"
        for kind in HARDWARE
    },
}
"""Cells that cannot exist, and why."""


@dataclass(frozen=True)
class Cell:
    """What is given to `verispect verify`."""

    receipt: bytes
    root: TrustedRoot
    policy: AssurancePolicy
    at: int
    opened: OpenedParts | None = None
    nonce: str | None = None


@dataclass(frozen=True)
class Material:
    """What cells are made of."""

    enclave: DevelopmentEnclave
    proven: Proven
    old_enclave: DevelopmentEnclave


@pytest.fixture(scope="module")
def made(enclave, proven, tmp_path_factory) -> Material:
    old = DevelopmentEnclave.create(tmp_path_factory.mktemp("old"), attested.NOW - 100_000_000)
    return Material(enclave, proven, old)


# -- Signature -------------------------------------------------------------------------------------


def signed(*, data: bytes | None = None, nonce: str | None = None, **key: object) -> Cell:
    listed = IssuerKey(material.ISSUER, material.GOOD.public_key, False, 0)
    root = TrustedRoot([replace(listed, **key)])  # type: ignore[arg-type]
    return Cell(data or material.receipt(), root, SIGNED, material.NOW, nonce=nonce)


def unsigned() -> bytes:
    return material.sign1(material.statement().encode(), signature=b"")


def damaged_signature() -> bytes:
    data = bytearray(material.receipt())
    data[-1] ^= 1
    return bytes(data)


def of_version_two() -> bytes:
    fields = decode(material.statement().encode())
    return material.sign1(encode({**fields, 1: 2}))


# -- Log and verdicts ------------------------------------------------------------------------------


def logged(*entries: EvidenceEntry, receipt: InferenceReceipt | None = None) -> Cell:
    base = receipt or logs.a_receipt(logs.LOG_PROMISE)
    shown = logs.with_evidence(base, *entries).encode()
    return Cell(shown, logs.root(), LOGGED, logs.NOW)


def seen_late(receipt: InferenceReceipt) -> EvidenceEntry:
    """Witnesses saw it an hour later than was promised."""
    log = MemoryLog([ReceiptLeaf.of(receipt).encode()])
    checkpoint = Checkpoint(ORIGIN, log.size, log.root)
    cosigned = sign_checkpoint(checkpoint, signer=LOG_SIGNER).with_signatures(
        [
            cosign(checkpoint, name=name, seconds=COSIGNED_AT + 3600, signer=signer)
            for name, signer in WITNESSES.items()
        ]
    )
    proof = TlogProof(0, tuple(log.inclusion(0)), cosigned)
    return make_log_evidence(log.entries[0], proof, collected_at=logs.SEEN_AT)


def damaged(entry: EvidenceEntry, position: int = -8) -> EvidenceEntry:
    body = bytearray(entry.body)
    body[position] ^= 1
    return replace(entry, body=bytes(body))


def damaged_path(entry: EvidenceEntry) -> EvidenceEntry:
    """One bit of the leaf that the log is said to hold, so that it leads to another root."""
    version, leaf, proof = decode(entry.body)
    text = bytearray(proof)
    at = text.index(b"\n", text.index(b"index")) + 3
    text[at] = ord("A") if text[at] != ord("A") else ord("B")
    return replace(entry, body=encode([version, leaf, bytes(text)]))


def judged(
    *verdicts: object, receipt: InferenceReceipt, entry: EvidenceEntry | None = None
) -> Cell:
    found = entry or make_verdict_evidence(verdicts, collected_at=logs.SEEN_AT)  # type: ignore[arg-type]
    shown = logs.with_evidence(receipt, logs.log_evidence(receipt), found).encode()
    return Cell(shown, logs.root(), AUDITED, logs.NOW)


def both_nodes(receipt: InferenceReceipt, *, at: int = logs.SEEN_AT) -> list[object]:
    findings = [Finding(claim, Outcome.AFFIRMED, logs.Source.REEXECUTED, "x") for claim in CLAIMS]
    found = NodeVerdict(receipt.receipt_id, at, sha256(b"node"), findings)
    return [
        sign_verdict(found, issuer=node, signer=logs.NODES[node]) for node in ("node-a", "node-b")
    ]


def signed_by_others(receipt: InferenceReceipt) -> list[object]:
    found = NodeVerdict(
        receipt.receipt_id,
        logs.SEEN_AT,
        sha256(b"node"),
        [Finding(Claim.EXECUTION, Outcome.AFFIRMED, logs.Source.REEXECUTED, "x")],
    )
    stranger = logs.NODES["stranger"]
    return [sign_verdict(found, issuer=node, signer=stranger) for node in ("node-a", "node-b")]


AUDITABLE = logs.a_receipt(logs.LOG_PROMISE, logs.VERDICTS_PROMISE)


# -- Proof -----------------------------------------------------------------------------------------


def proof_cell(
    made: Proven,
    entry: EvidenceEntry | None,
    *,
    due_in: int = 600_000,
    at: int = 60_000,
    opened: OpenedParts | None = None,
    **changes: object,
) -> Cell:
    base = replace(made.statement, **changes)  # type: ignore[arg-type]
    due_at = base.signed_at + due_in
    promised = [PromisedEvidence("signature"), PromisedEvidence(PROOF, None, due_at)]
    statement: InferenceStatement = replace(base, evidence=promised)
    envelope = sign_envelope(
        statement.encode(),
        content_type=STATEMENT_TYPE,
        issuer=ISSUER,
        subject=proofs.SUBJECT,
        signer=SIGNER,
    )
    rows = () if entry is None else (replace(entry).to_row(),)
    root = TrustedRoot([IssuerKey(ISSUER, SIGNER.public_key, False, 0)])
    return Cell(
        replace(envelope, evidence=rows).encode(),
        root,
        PROVEN,
        base.signed_at + at,
        opened=opened or made.opened,
    )


def on_time(made: Proven, **changes: object) -> EvidenceEntry:
    fields = {"collected_at": made.statement.signed_at + 1000, **changes}
    return replace(made.entry, **fields)  # type: ignore[arg-type]


# -- Attestation -----------------------------------------------------------------------------------


def attested_cell(
    made: Material,
    entry: EvidenceEntry,
    *,
    enclave: DevelopmentEnclave | None = None,
    registers: Mapping[str, str] | None = None,
    shown: bool = True,
) -> Cell:
    named = [PromisedEvidence("signature"), PromisedEvidence(entry.kind, entry.digest())]
    receipt = attested.a_receipt(attested.a_statement(evidence=named), promised=False)
    rows = (entry.to_row(),) if shown else ()
    data = replace(receipt.envelope, evidence=rows).encode()
    root = attested.a_root(enclave or made.enclave, registers=registers)
    return Cell(data, root, ATTESTED_DEVELOPMENT, attested.NOW + 60_000)


def hardware_cell(
    kind: str,
    *,
    shown: bool = True,
    collected_at: int = attested.NOW - 1000,
    profile: str = "verispect/key-v1",
    named: bool = True,
    endorsements: bytes | None = None,
) -> Cell:
    """Bytes that no machine signed: what is refused of them before any chip's signature."""
    files = encode({"binding": {}, "files": {}}) if endorsements is None else endorsements
    body = encode({}) if kind in ("tpm2-quote", "azure-vtpm") else b"no quote at all"
    entry = EvidenceEntry(kind, profile, collected_at, body, files)
    other = replace(entry, body=b"of another request")
    statement = attested.a_statement(
        evidence=[
            PromisedEvidence("signature"),
            PromisedEvidence(kind, (entry if named else other).digest()),
        ]
    )
    receipt = attested.a_receipt(statement, promised=False)
    rows = (entry.to_row(),) if shown else ()
    register = {
        "intel-tdx": "mrtd",
        "amd-sev-snp": "measurement",
        "gcp-confidential-space": "image_digest",
        "tpm2-quote": "pcr0",
        "azure-vtpm": "pcr0",
    }[kind]
    trust = AttestationTrust(measurements={kind: {register: frozenset({"11" * 48})}})
    keys = [IssuerKey("issuer", attested.SIGNER.public_key, False, 0)]
    root = TrustedRoot(keys, attestation=trust)
    return Cell(
        replace(receipt.envelope, evidence=rows).encode(), root, ATTESTED, attested.NOW + 60_000
    )


Made = Callable[[Material], Cell]
Row = tuple[Made, Reason, int]

MATRIX: Final[Mapping[tuple[str, str], Row]] = {
    # What is not signed at all is no receipt.
    ("signature", "missing"): (lambda _: signed(data=unsigned()), Reason.MALFORMED_ENVELOPE, 3),
    ("signature", "expired"): (
        lambda _: signed(not_after=material.SIGNED_AT),
        Reason.KEY_EXPIRED,
        1,
    ),
    ("signature", "forged"): (
        lambda _: signed(data=damaged_signature()),
        Reason.SIGNATURE_INVALID,
        1,
    ),
    ("signature", "for another request"): (
        lambda _: signed(nonce="b3RoZXIgbm9uY2U"),
        Reason.NONCE_MISMATCH,
        1,
    ),
    # Its owner says that the key is not to be believed.
    ("signature", "refuted"): (lambda _: signed(revoked_at=1), Reason.KEY_REVOKED, 1),
    ("signature", "late"): (
        lambda _: signed(
            data=material.receipt(
                signed_at=material.NOW + 120_000,
                completed_at=material.NOW,
                received_at=material.NOW,
            )
        ),
        Reason.SIGNED_IN_FUTURE,
        1,
    ),
    ("signature", "unknown version"): (
        lambda _: signed(data=of_version_two()),
        Reason.UNSUPPORTED_VERSION,
        4,
    ),
    ("log", "missing"): (lambda _: logged(), Reason.EVIDENCE_OVERDUE, 1),
    ("log", "forged"): (
        lambda _: logged(damaged_path(logs.log_evidence(logs.a_receipt(logs.LOG_PROMISE)))),
        Reason.INCLUSION_INVALID,
        1,
    ),
    ("log", "for another request"): (
        lambda _: logged(
            logs.log_evidence(logs.a_receipt(logs.LOG_PROMISE), leaf_of=logs.a_receipt())
        ),
        Reason.CONTENT_MISMATCH,
        1,
    ),
    ("log", "late"): (
        lambda _: logged(seen_late(logs.a_receipt(logs.LOG_PROMISE))),
        Reason.EVIDENCE_LATE,
        1,
    ),
    ("log", "unknown version"): (
        lambda _: logged(
            replace(logs.log_evidence(logs.a_receipt(logs.LOG_PROMISE)), body=encode([2, b"", b""]))
        ),
        Reason.MALFORMED_EVIDENCE,
        1,
    ),
    ("verdicts", "missing"): (
        lambda _: Cell(
            logs.with_evidence(AUDITABLE, logs.log_evidence(AUDITABLE)).encode(),
            logs.root(),
            AUDITED,
            logs.NOW,
        ),
        Reason.EVIDENCE_OVERDUE,
        1,
    ),
    ("verdicts", "forged"): (
        lambda _: judged(*signed_by_others(AUDITABLE), receipt=AUDITABLE),
        Reason.VERDICTS_MISSING,
        1,
    ),
    ("verdicts", "for another request"): (
        lambda _: judged(*both_nodes(logs.a_receipt()), receipt=AUDITABLE),
        Reason.CONTENT_MISMATCH,
        1,
    ),
    ("verdicts", "refuted"): (
        lambda _: judged(
            logs.verdict(AUDITABLE, "node-a", outcome=Outcome.REFUTED),
            logs.verdict(AUDITABLE, "node-b"),
            logs.verdict(AUDITABLE, "node-c"),
            receipt=AUDITABLE,
        ),
        Reason.EVIDENCE_REFUTES,
        1,
    ),
    ("verdicts", "late"): (
        lambda _: judged(*both_nodes(AUDITABLE, at=logs.DUE + 1), receipt=AUDITABLE),
        Reason.EVIDENCE_LATE,
        1,
    ),
    ("verdicts", "unknown version"): (
        lambda _: judged(
            receipt=AUDITABLE,
            entry=EvidenceEntry(
                "verdicts", "verispect-verdicts-v1", logs.SEEN_AT, encode([2, [b""]]), b""
            ),
        ),
        Reason.MALFORMED_EVIDENCE,
        1,
    ),
    ("proof", "missing"): (
        lambda made: proof_cell(made.proven, None, at=600_001),
        Reason.EVIDENCE_OVERDUE,
        1,
    ),
    ("proof", "forged"): (
        lambda made: proof_cell(made.proven, forged_proof(made.proven)),
        Reason.PROOF_INVALID,
        1,
    ),
    ("proof", "for another request"): (
        lambda made: proof_cell(made.proven, on_time(made.proven), nonce=b"m" * 16),
        Reason.PROOF_WRONG_CONTEXT,
        1,
    ),
    # The proof shows another answer than the one that was committed to.
    ("proof", "refuted"): (
        lambda made: other_output(made.proven),
        Reason.PROOF_WRONG_OUTPUT,
        1,
    ),
    ("proof", "late"): (
        lambda made: proof_cell(
            made.proven,
            on_time(made.proven, collected_at=made.proven.statement.signed_at + 600_001),
            at=700_000,
        ),
        Reason.EVIDENCE_LATE,
        1,
    ),
    ("proof", "unknown version"): (
        lambda made: proof_cell(made.proven, on_time(made.proven, profile="verispect/proof-v2")),
        Reason.UNSUPPORTED_EVIDENCE,
        1,
    ),
    ("aws-nitro", "missing"): (
        lambda made: attested_cell(made, attested.an_entry(made.enclave), shown=False),
        Reason.POLICY_UNMET,
        1,
    ),
    ("aws-nitro", "expired"): (
        lambda made: attested_cell(
            made,
            attested.an_entry(made.old_enclave, collected_at=attested.NOW - 90_000_000),
            enclave=made.old_enclave,
        ),
        Reason.ATTESTATION_NOT_FRESH,
        1,
    ),
    ("aws-nitro", "forged"): (
        lambda made: attested_cell(made, damaged(attested.an_entry(made.enclave))),
        Reason.ATTESTATION_SIGNATURE_INVALID,
        1,
    ),
    ("aws-nitro", "for another request"): (
        lambda made: attested_cell(made, attested.an_entry(made.enclave, signer=attested.OTHER)),
        Reason.ATTESTATION_NONCE_MISMATCH,
        1,
    ),
    # The machine says that other code ran.
    ("aws-nitro", "refuted"): (
        lambda made: attested_cell(
            made,
            attested.an_entry(made.enclave),
            registers=dict.fromkeys(attested.REGISTERS, "11" * 48),
        ),
        Reason.ATTESTATION_MEASUREMENT_MISMATCH,
        1,
    ),
    ("aws-nitro", "late"): (
        lambda made: attested_cell(
            made, attested.an_entry(made.enclave, collected_at=attested.NOW + 12)
        ),
        Reason.ATTESTATION_NOT_FRESH,
        1,
    ),
    ("aws-nitro", "unknown version"): (
        lambda made: attested_cell(
            made, replace(attested.an_entry(made.enclave), profile="verispect/key-v2")
        ),
        Reason.UNSUPPORTED_EVIDENCE,
        1,
    ),
    **{
        (kind, fault): row
        for kind in HARDWARE
        for fault, row in {
            "missing": (
                lambda _, kind=kind: hardware_cell(kind, shown=False),
                Reason.POLICY_UNMET,
                1,
            ),
            "expired": (
                lambda _, kind=kind: hardware_cell(kind, collected_at=attested.NOW - 90_000_000),
                Reason.ATTESTATION_NOT_FRESH,
                1,
            ),
            "forged": (
                lambda _, kind=kind: hardware_cell(kind, endorsements=b"\xff"),
                Reason.MALFORMED_EVIDENCE,
                1,
            ),
            "for another request": (
                lambda _, kind=kind: hardware_cell(kind, named=False),
                Reason.EVIDENCE_UNBOUND,
                1,
            ),
            "late": (
                lambda _, kind=kind: hardware_cell(kind, collected_at=attested.NOW + 12),
                Reason.ATTESTATION_NOT_FRESH,
                1,
            ),
            "unknown version": (
                lambda _, kind=kind: hardware_cell(kind, profile="verispect/key-v2"),
                Reason.UNSUPPORTED_EVIDENCE,
                1,
            ),
        }.items()
    },
}
"""By cell: how it is made, the reason, and the exit code of `verispect verify`."""


def forged_proof(made: Proven) -> EvidenceEntry:
    """A proof of which one octet in the middle was changed."""
    entry = on_time(made)
    body = decode(entry.body, limit=len(entry.body))
    proof = bytearray(body["proof"])
    proof[len(proof) // 2] ^= 1
    return replace(entry, body=encode({**body, "proof": bytes(proof)}))


def other_output(made: Proven) -> Cell:
    """The operator commits to another answer and attaches the proof of the true one."""
    opened = proofs._with_first_octets(made.opened, proofs.Part.OUTPUT, 1)
    commitments = {**made.statement.commitments}
    commitments[proofs.Part.OUTPUT] = opened[proofs.Part.OUTPUT].commitment()
    return proof_cell(made, on_time(made), opened=opened, commitments=commitments)


def run(cell: Cell, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict, str]:
    """Verify as people do, with files; return exit code, result and standard error."""
    (folder / "receipt.cose").write_bytes(cell.receipt)
    (folder / "root.json").write_bytes(cell.root.to_json())
    (folder / "policy.toml").write_text(cell.policy.to_toml(), encoding="utf-8")
    at = datetime.fromtimestamp(cell.at / 1000, UTC).isoformat()
    arguments = [
        *("verify", str(folder / "receipt.cose"), "--json", "--at", at),
        *("--policy", str(folder / "policy.toml"), "--trusted-root", str(folder / "root.json")),
    ]
    if cell.opened is not None:
        (folder / "openings.cbor").write_bytes(encode_openings(cell.opened))
        arguments += ["--openings", str(folder / "openings.cbor")]
    if cell.nonce is not None:
        arguments += ["--nonce", cell.nonce]
    code = main(arguments)
    shown = capsys.readouterr()
    return code, json.loads(shown.out) if shown.out else {}, shown.err


def test_every_cell_is_filled_or_says_why_not() -> None:
    """The matrix covers every built-in kind and every fault."""
    every = {(kind, fault) for kind in BUILT_IN for fault in FAULTS}
    assert MATRIX.keys() | IMPOSSIBLE.keys() == every
    assert not MATRIX.keys() & IMPOSSIBLE.keys()


@pytest.mark.parametrize("cell", MATRIX, ids=" ".join)
def test_bad_evidence_fails_loudly(
    cell: tuple[str, str], made: Material, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command fails with the cell's own reason, and the result shows the check and no claim."""
    make, reason, code = MATRIX[cell]
    got, view, err = run(make(made), tmp_path, capsys)
    assert f"({reason.value})" in err
    assert got == code
    assert "OK" not in err
    if code in (3, 4) and not view:
        return  # What is not understood has no result.
    assert view["verdict"] == "refused"
    assert view["outcome"] == "failed"
    assert view["reason"] == reason.value
    assert reason.value in {each["reason"] for each in view["checks"] if each["status"] == "failed"}
    believed = {source for sources in view["claims"].values() for source in sources}
    allowed = {"unstated", "refuted"}
    if reason in (Reason.EVIDENCE_REFUTES, Reason.POLICY_UNMET):
        allowed |= {"asserted", "logged"}  # What the good evidence beside it shows.
    assert believed <= allowed


@pytest.mark.parametrize("kind", ["signature", "log", "verdicts", "proof", "aws-nitro"])
def test_the_same_evidence_unharmed_is_accepted(
    kind: str, made: Material, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cells fail for their fault: without it each receipt verifies."""
    good = {
        "signature": signed,
        "log": lambda: logged(logs.log_evidence(logs.a_receipt(logs.LOG_PROMISE))),
        "verdicts": lambda: judged(*both_nodes(AUDITABLE), receipt=AUDITABLE),
        "proof": lambda: proof_cell(made.proven, on_time(made.proven)),
        "aws-nitro": lambda: attested_cell(made, attested.an_entry(made.enclave)),
    }[kind]()
    got, view, err = run(good, tmp_path, capsys)
    assert (got, view["outcome"]) == (0, "met"), err


LEDGER: Final[Mapping[tuple[str, str], tuple[Sequence[bytes], Reason]]] = {
    ("proof", "missing"): (
        [missed(1, due=DUE_AT, noted=DUE_AT + 5000)],
        Reason.EVIDENCE_OVERDUE,
    ),
    # The log's own clock decides: evidence from after the deadline meets no promise.
    ("proof", "late"): (
        [late(1, at=DUE_AT + 1), receipt_leaf(2, at=DUE_AT + 120_000)],
        Reason.EVIDENCE_OVERDUE,
    ),
    ("verdicts", "missing"): ([receipt_leaf(2, at=DUE_AT + 120_000)], Reason.EVIDENCE_OVERDUE),
    **{
        cell: (
            [verdict(1, node=node, outcome=Outcome.REFUTED, reason=reason.value)],
            reason,
        )
        for cell, node, reason in (
            (("verdicts", "refuted"), "node-a", Reason.CONTENT_MISMATCH),
            (("proof", "forged"), "node-b", Reason.PROOF_INVALID),
            (("proof", "refuted"), "node-c", Reason.PROOF_WRONG_OUTPUT),
            (("proof", "for another request"), "node-a", Reason.PROOF_WRONG_CONTEXT),
            (("aws-nitro", "forged"), "node-a", Reason.ATTESTATION_SIGNATURE_INVALID),
            (("aws-nitro", "refuted"), "node-b", Reason.ATTESTATION_MEASUREMENT_MISMATCH),
            (("signature", "refuted"), "node-c", Reason.KEY_REVOKED),
        )
    },
}
"""Cells of which the log has a leaf, and the reason of the receipt's status. The rest concerns the
copy that one caller was given; attestation that is missing is refused before there is a receipt."""


@pytest.mark.parametrize("cell", LEDGER, ids=" ".join)
def test_the_log_says_so_where_a_leaf_is_due(cell: tuple[str, str]) -> None:
    """Anyone who replays the log sees the receipt failed, with its reason."""
    leaves, reason = LEDGER[cell]
    promises = [PromisedEvidence(kind, None, DUE_AT) for kind in ("proof", "verdicts")]
    first = receipt_leaf(1, promises=promises if cell[0] == "verdicts" else promises[:1])
    row = replay_status([first, *leaves], nodes=nodes(2)).of(receipt_id(1))
    assert row is not None
    assert (row.state, row.reason) == (State.FAILED, reason)
    before = replay_status([first], nodes=nodes(2)).of(receipt_id(1))
    assert before is not None
    assert before.state is State.PENDING


def test_evidence_of_a_kind_that_nobody_knows_is_not_believed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It can only lower a verdict: nobody can tell."""
    entry = EvidenceEntry("oracle", "oracle-v9", logs.SEEN_AT, b"trust me", b"")
    named = (PromisedEvidence("signature"), PromisedEvidence("oracle", entry.digest()))
    receipt = InferenceReceipt.parse(material.receipt(evidence=named))
    cell = replace(signed(), receipt=logs.with_evidence(receipt, entry).encode())
    code, view, err = run(cell, tmp_path, capsys)
    assert (code, view["reason"]) == (4, Reason.UNSUPPORTED_EVIDENCE.value)
    assert "could not tell" in err


def test_a_stale_list_of_whom_to_trust_can_tell_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the lists of logs, nodes and machines have ended, no evidence counts any more."""
    good = logged(logs.log_evidence(logs.a_receipt(logs.LOG_PROMISE)))
    stale = replace(good, root=replace(good.root, expires_at=good.at))
    code, view, _ = run(stale, tmp_path, capsys)
    assert (code, view["reason"]) == (4, Reason.TRUSTED_ROOT_STALE.value)


def test_a_conflict_is_printed_with_every_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """People see it too, beside what was required, promised and delivered."""
    make, _, code = MATRIX[("verdicts", "refuted")]
    cell = make(None)  # type: ignore[arg-type]
    assert run(cell, tmp_path, capsys)[0] == code
    at = datetime.fromtimestamp(cell.at / 1000, UTC).isoformat()
    arguments = ["verify", str(tmp_path / "receipt.cose"), "--at", at]
    arguments += ["--policy", "audited", "--trusted-root", str(tmp_path / "root.json")]
    assert main(arguments) == code
    shown = capsys.readouterr()
    assert "CONFLICT  execution: affirmed by signature (asserted)" in shown.out
    assert "verdicts/node-b (reexecuted)" in shown.out
    assert "refuted by verdicts/node-a; refuted wins" in shown.out
    assert "required       audited" in shown.out
    assert "promised       verdicts, due 20" in shown.out
    assert "delivered      log  time: logged; logged: logged" in shown.out
    assert "refuted by verdicts/node-a" in shown.err
