# ruff: noqa: INP001
"""The cases of a whole verification: receipt, openings, trusted root, policy, time, expectation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cases_formats import Case
from material import (
    CONTENT,
    DEVELOPMENT,
    EXPIRED,
    FUTURE,
    GOOD,
    NONCE,
    NOW,
    OPENINGS,
    OTHER,
    REVOKED,
    SIGNED_AT,
    UNLISTED,
    VectorKey,
    batch,
    derived,
    model,
    openings,
    policy,
    protected_map,
    receipt,
    sign1,
    statement,
    trusted_root,
)

from verispect.appraisal.policy import SIGNED
from verispect.core.commitments import Opening, Part
from verispect.core.encoding import encode
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.core.statement import ModelIdentity, PromisedEvidence
from verispect.evidence.log_inclusion import make_log_evidence
from verispect.tlog.checkpoint import Checkpoint, sign_checkpoint
from verispect.tlog.cosignature import cosign, witness_key
from verispect.tlog.merkle import leaf_hash
from verispect.tlog.note import VerifierKey
from verispect.tlog.receipt_leaf import ReceiptLeaf
from verispect.tlog.tlog_proof import TlogProof

VERIFIED = ("verified", None)


def _case(
    name: str,
    description: str,
    result: str,
    reason: str | None,
    *,
    data: bytes | None = None,
    **inputs: Any,
) -> Case:
    given: dict[str, Any] = {
        "receipt": (receipt() if data is None else data).hex(),
        "trustedRoot": trusted_root(),
        "policy": SIGNED.to_toml(),
        "now": NOW,
    }
    return (name, description, given | inputs, result, reason)


def verification() -> Iterator[Case]:
    """Yield the cases of a whole verification."""
    yield from _accepted()
    yield from _signature_and_key()
    yield from _batch()
    yield from _times_and_nonce()
    yield from _content()
    yield from _model_and_policy()
    yield from _evidence()
    yield from _roots()
    yield from _malformed()


def _accepted() -> Iterator[Case]:
    yield _case("accept", "the good receipt under the preset signed", *VERIFIED)
    stream = statement().stream
    assert stream is not None
    yield _case(
        "accept-everything-compared",
        "openings, contents, nonce and chunks as the caller holds them",
        *VERIFIED,
        openings=openings().hex(),
        expected={
            "nonce": NONCE.hex(),
            "parts": {part.label: content for part, content in CONTENT.items()},
            "stream": {"chunks": stream.chunks, "head": stream.head.hex()},
        },
        policy=policy("nonce = true\nmaximum_age_seconds = 60\naccepted_models_only = true"),
    )
    nineteen = sign1(statement().encode(), protected=encode(protected_map() | {1: -19}))
    yield _case("accept-algorithm-19", "algorithm -19, Ed25519", *VERIFIED, data=nineteen)
    accepting = policy("development_keys = true")
    yield _case(
        "accept-development-key",
        "a development key that the policy accepts",
        *VERIFIED,
        data=receipt(DEVELOPMENT),
        policy=accepting,
    )
    for place, count in ((0, 1), (4, 5), (700, 1024)):
        yield _case(
            f"accept-batch-{place}-of-{count}",
            "one of a batch under one signature",
            *VERIFIED,
            data=batch(place, count=count),
        )
    skewed = receipt(signed_at=NOW + 60_000)
    yield _case("accept-clock-skew", "a minute ahead", *VERIFIED, data=skewed)


def _signature_and_key() -> Iterator[Case]:
    good = receipt()
    payload = statement().encode()
    flipped = good[:-1] + bytes((good[-1] ^ 1,))
    no = "refused"
    yield _case("signature", "one bit of the signature", no, "signature-invalid", data=flipped)
    claimed = sign1(payload, signature=b"\0" * 64)
    yield _case("signature-zero", "64 zero bytes", no, "signature-invalid", data=claimed)
    order = (1 << 252) + 27742317777372353535851937790883648493
    scalar = (int.from_bytes(good[-32:], "little") + order).to_bytes(32, "little")
    yield _case(
        "signature-malleable",
        "the same signature with the group order added to S",
        no,
        "signature-invalid",
        data=good[:-32] + scalar,
    )
    raw_payload = sign1(payload, signature=GOOD.sign(payload))
    yield _case(
        "signature-over-payload",
        "the payload signed bare",
        no,
        "signature-invalid",
        data=raw_payload,
    )
    swapped = sign1(statement(sequence=2).encode(), signature=good[-64:])
    yield _case("payload-swapped", "another statement", no, "signature-invalid", data=swapped)
    header = protected_map() | {15: {1: "vectors.example", 2: "f" * 32}}
    moved = sign1(payload, protected=encode(header), signature=good[-64:])
    yield _case("subject-swapped", "another inference", no, "signature-invalid", data=moved)
    relabelled = sign1(payload, protected=encode(protected_map() | {1: -19}), signature=good[-64:])
    yield _case(
        "algorithm-relabelled",
        "signed as -8, shown as -19",
        no,
        "signature-invalid",
        data=relabelled,
    )
    header = protected_map() | {4: bytes(OTHER.public_key.key_id)}
    borrowed = sign1(payload, protected=encode(header))
    yield _case(
        "key-id-borrowed", "another key's identifier", no, "signature-invalid", data=borrowed
    )
    yield _case("key-unlisted", "a key not listed", no, "key-unknown", data=receipt(UNLISTED))
    yield _case("issuer", "another issuer's key", no, "issuer-mismatch", data=receipt(OTHER))
    yield _case("key-expired", "signed at its end", no, "key-expired", data=receipt(EXPIRED))
    early = receipt(FUTURE)
    yield _case("key-not-yet-valid", "signed too early", no, "key-not-yet-valid", data=early)
    # A holder of a revoked key can date back, so revocation counts whenever it was signed.
    yield _case("key-revoked", "revoked after signing", no, "key-revoked", data=receipt(REVOKED))
    for name, at, answer in (
        ("key-compromised", SIGNED_AT, (no, "key-compromised")),
        ("key-compromised-later", SIGNED_AT + 1, (no, "key-compromised")),
    ):
        root = json.loads(trusted_root())
        root["issuerKeys"][0]["compromisedAt"] = at
        title = "a compromised key without a log proof from before"
        yield _case(name, title, *answer, trustedRoot=json.dumps(root))
    yield from _compromised()
    development = receipt(DEVELOPMENT)
    yield _case("development-key", "not accepted", no, "development-key", data=development)


def _batch() -> Iterator[Case]:
    no, invalid = "refused", "signature-invalid"
    good = batch(2)
    # The field ends the receipt: signature, count, index, then three hashes.
    start = len(good) - (64 + 4 + 3 * 32)

    def changed(at: int, byte: int) -> bytes:
        return good[: start + at] + bytes((byte,)) + good[start + at + 1 :]

    for name, description, data in (
        ("batch-signature", "another byte of the signature", changed(0, good[start] ^ 1)),
        ("batch-count", "a tree of six", changed(65, 6)),
        ("batch-index", "the place of another", changed(67, 3)),
        ("batch-index-outside", "a place outside the tree", changed(67, 5)),
        ("batch-path", "another hash in the path", changed(70, good[start + 70] ^ 1)),
        ("batch-of-none", "a tree of no leaves", changed(65, 0)),
    ):
        yield _case(name, description, no, invalid, data=data)
    payload = statement().encode()
    header = encode(protected_map() | {1: -70002})
    root_alone = sign1(payload, protected=header, signature=good[start : start + 68])
    yield _case("batch-without-path", "a path too short", no, invalid, data=root_alone)
    field = good[start : start + 64] + b"\x04\x01\x00\x00" + bytes(320)
    large = sign1(payload, protected=header, signature=field)
    yield _case("batch-1025", "a tree of 1025 leaves", no, invalid, data=large)


def _compromised() -> Iterator[Case]:
    """A key that somebody else may hold since a time, with and without a witnessed log."""
    log, witness = VectorKey("log"), VectorKey("witness")
    origin, seen_at = "vectors.example/log", SIGNED_AT + 1000
    vkey = VerifierKey(origin, log.public_key).encode()
    logged = _logged(origin, log, witness, due_at=NOW, seen_at=seen_at, stated_at=seen_at)
    for name, description, at, data, verdict in (
        ("accept-seen-before-compromise", "witnesses saw it before", seen_at + 1, logged, VERIFIED),
        ("key-compromised-when-seen", "witnesses saw it at that time", seen_at, logged, None),
    ):
        root = json.loads(trusted_root())
        root["issuerKeys"][0]["compromisedAt"] = at
        root["logs"] = [{"origin": origin, "keys": [vkey]}]
        witness_vkey = witness_key("witness", witness).encode()
        root["witnesses"] = {"threshold": 1, "keys": [witness_vkey]}
        result, reason = verdict or ("refused", "key-compromised")
        yield _case(name, description, result, reason, data=data, trustedRoot=json.dumps(root))
    # The entry says that it came in time, and its witnesses saw the leaf a second later.
    data = _logged(origin, log, witness, due_at=seen_at - 1, seen_at=seen_at, stated_at=SIGNED_AT)
    del root["issuerKeys"][0]["compromisedAt"]
    text = json.dumps(root)
    late = ("refused", "evidence-late")
    yield _case("log-seen-after-its-deadline", "dated back", *late, data=data, trustedRoot=text)


def _logged(
    origin: str, log: VectorKey, witness: VectorKey, *, due_at: int, seen_at: int, stated_at: int
) -> bytes:
    """Return a receipt that promised a log, with evidence which says when it was collected."""
    promised = (PromisedEvidence("signature"), PromisedEvidence("log", None, due_at))
    bare = InferenceReceipt.parse(receipt(evidence=promised))
    leaf = ReceiptLeaf.of(bare).encode()
    head = Checkpoint(origin, 1, leaf_hash(leaf))
    cosigned = cosign(head, name="witness", seconds=seen_at // 1000, signer=witness)
    signed = sign_checkpoint(head, signer=log).with_signatures([cosigned])
    entry = make_log_evidence(leaf, TlogProof(0, (), signed), collected_at=stated_at)
    return replace(bare.envelope, evidence=(entry.to_row(),)).encode()


def _times_and_nonce() -> Iterator[Case]:
    no, inconsistent = "refused", "times-inconsistent"
    late = receipt(received_at=SIGNED_AT)
    yield _case("completed-before-received", "out of order", no, inconsistent, data=late)
    late = receipt(completed_at=SIGNED_AT + 1)
    yield _case("signed-before-completed", "out of order", no, inconsistent, data=late)
    ahead = receipt(signed_at=NOW + 60_001)
    yield _case("signed-in-future", "over a minute ahead", no, "signed-in-future", data=ahead)
    young = policy("maximum_age_seconds = 59")
    yield _case("too-old", "60 s old where 59 are allowed", no, "receipt-too-old", policy=young)
    other = {"nonce": b"another nonce...".hex()}
    yield _case("nonce", "another nonce", no, "nonce-mismatch", expected=other)
    longer = {"nonce": (NONCE + b"\0").hex()}
    yield _case("nonce-longer", "a nonce that goes on", no, "nonce-mismatch", expected=longer)
    bare = receipt(nonce=None)
    sent = {"nonce": NONCE.hex()}
    yield _case("nonce-absent", "none signed", no, "nonce-missing", data=bare, expected=sent)
    required = policy("nonce = true")
    yield _case(
        "nonce-not-given", "required and not compared", no, "nonce-missing", policy=required
    )


def _content() -> Iterator[Case]:
    no = "refused"
    good = OPENINGS[Part.OUTPUT]
    changed = Opening.of(Part.OUTPUT, [{"index": 0, "text": "Hellp"}], salt=good.salt)
    data = openings(output=changed).hex()
    yield _case("opening", "one letter of the output", no, "opening-mismatch", openings=data)
    extra = Opening.of(Part.TOOLS, [], salt=derived("salt tools"))
    data = openings(tools=extra).hex()
    yield _case(
        "opening-uncommitted", "a part not signed", no, "opening-uncommitted", openings=data
    )
    irregular = Opening(Part.OUTPUT, good.salt, b"\x18\x17")
    commitments = dict(statement().commitments) | {Part.OUTPUT: irregular.commitment()}
    yield _case(
        "opening-irregular",
        "a committed value that is not deterministic CBOR",
        no,
        "malformed-cbor",
        data=receipt(commitments=commitments),
        openings=openings(output=irregular).hex(),
    )
    shown = {"parts": {"output": [{"index": 0, "text": "Hello!"}]}}
    yield _case(
        "content",
        "the answer shown is not the answer signed",
        no,
        "content-mismatch",
        openings=openings().hex(),
        expected=shown,
    )
    number = {"parts": {"parameters": {"temperature": 0.5, "seed": 7, "top_p": 1}}}
    yield _case(
        "content-number",
        "1 where 1.0 was committed to",
        no,
        "content-mismatch",
        openings=openings().hex(),
        expected=number,
    )
    surrogate = {"parts": {"output": [{"index": 0, "text": "\ud800"}]}}
    yield _case(
        "content-surrogate",
        "shown text that has no encoding",
        no,
        "content-mismatch",
        openings=openings().hex(),
        expected=surrogate,
    )
    yield _case(
        "content-not-opened", "no openings at hand", no, "content-not-opened", expected=shown
    )
    head = bytes(statement().stream.head)  # type: ignore[union-attr]
    cut = {"stream": {"chunks": 1, "head": head.hex()}}
    yield _case("stream-count", "one chunk fewer", no, "stream-mismatch", expected=cut)
    other = {"stream": {"chunks": 2, "head": (b"\0" + head[1:]).hex()}}
    yield _case("stream-head", "another head", no, "stream-mismatch", expected=other)
    whole = receipt(stream=None)
    shown = {"stream": {"chunks": 2, "head": head.hex()}}
    yield _case(
        "stream-absent", "no chain signed", no, "stream-mismatch", data=whole, expected=shown
    )


def _model_and_policy() -> Iterator[Case]:
    no = "refused"
    remote = receipt(model=replace(model(), identity=ModelIdentity.UPSTREAM_REPORTED))
    yield _case(
        "model-remote", "an upstream's name", no, "model-not-accepted", data=remote, policy=policy()
    )
    other = receipt(model=replace(model(), model_id=hashlib.sha256(b"other").digest()))  # type: ignore[arg-type]
    only = policy("accepted_models_only = true")
    yield _case(
        "model-other", "no reference value", no, "model-not-accepted", data=other, policy=only
    )
    bare = trusted_root(models=[])
    yield _case(
        "model-no-reference", "none listed", no, "model-not-accepted", trustedRoot=bare, policy=only
    )
    yield _case("policy-empty", "nothing is required", no, "policy-empty", policy=policy(claims=""))
    for claim in ("confidentiality", "logged"):
        text = policy(claims=f'{claim} = ["asserted"]')
        yield _case(
            f"policy-{claim}", "not what a signature shows", no, "policy-unmet", policy=text
        )
    unknown = policy(claims='model = [{ source = "asserted", roots = ["elsewhere.example"] }]')
    yield _case(
        "policy-root-unknown",
        "the policy names an issuer that the root does not list",
        "undetermined",
        "policy-root-unknown",
        policy=unknown,
    )
    text = policy(claims='model = ["asserted"]\nexecution = ["proven", "reexecuted"]')
    yield _case("policy-proven", "asserted does not suffice", no, "policy-unmet", policy=text)
    empty = trusted_root(issuerKeys=[])
    yield _case(
        "policy-empty-and-root-empty",
        "an empty policy is no, whatever else could not be told",
        no,
        "policy-empty",
        policy=policy(claims=""),
        trustedRoot=empty,
    )


def _evidence() -> Iterator[Case]:
    entry = EvidenceEntry("example", "example-v1", SIGNED_AT, b"body", b"")
    promised = [PromisedEvidence("signature"), PromisedEvidence("example", entry.digest())]

    def carrying(*rows: Any, evidence: Any = promised) -> bytes:
        unprotected = encode({-70001: list(rows)})
        return sign1(statement(evidence=evidence).encode(), unprotected=unprotected)

    needs_proof = policy(claims='execution = ["proven"]')
    unknown, unbound = ("undetermined", "unsupported-evidence"), ("refused", "evidence-unbound")
    data = carrying(entry.to_row())
    yield _case("evidence-unknown", "an unknown kind, named by the statement", *unknown, data=data)
    absent = sign1(statement(evidence=promised).encode())
    yield _case("evidence-absent", "promised and not required", *VERIFIED, data=absent)
    for name, due, result, reason, inputs in (
        ("pending", NOW, "undetermined", "evidence-pending", {"policy": needs_proof}),
        ("pending-not-needed", NOW, *VERIFIED, {}),
        ("overdue", NOW - 1, "refused", "evidence-overdue", {}),
        ("overdue-and-needed", NOW - 1, "refused", "evidence-overdue", {"policy": needs_proof}),
    ):
        open_promise = [*promised[:1], PromisedEvidence("proof", due_at=due)]
        data = sign1(statement(evidence=open_promise).encode())
        title = f"promised by a deadline and not here: {name}"
        yield _case(f"evidence-{name}", title, result, reason, data=data, **inputs)
    plain = carrying(entry.to_row(), evidence=promised[:1])
    yield _case("evidence-unbound", "not named by the statement", *unbound, data=plain)
    twice = carrying(entry.to_row(), entry.to_row())
    yield _case("evidence-twice", "the same entry twice", *unbound, data=twice)
    for name, changes in (
        ("kind", {"kind": "sample"}),
        ("profile", {"profile": "example-v2"}),
        ("time", {"collected_at": SIGNED_AT + 1}),
        ("body", {"body": b"Body"}),
    ):
        changed = carrying(replace(entry, **changes).to_row())  # type: ignore[arg-type]
        yield _case(f"evidence-other-{name}", f"another {name}", *unbound, data=changed)
    smuggled = replace(entry, kind="signature")
    named = [PromisedEvidence("signature", smuggled.digest())]
    data = carrying(smuggled.to_row(), evidence=named)
    yield _case("evidence-signature", "a signature as an entry", *unknown, data=data)
    row = entry.to_row()
    for name, changed_row in (
        ("row-4", row[:4]),
        ("kind-empty", ["", *row[1:]]),
        ("kind-bytes", [b"example", *row[1:]]),
        ("time-true", [*row[:2], True, *row[3:]]),
        ("kind-escape", ["\x1b[2J", *row[1:]]),
        ("kind-65", ["k" * 65, *row[1:]]),
        ("time-negative", [*row[:2], -1, *row[3:]]),
        ("body-text", [*row[:3], "body", b""]),
        ("not-a-row", 0),
    ):
        data = carrying(changed_row)
        description = "an entry that is none"
        yield _case(f"evidence-{name}", description, "malformed", "malformed-evidence", data=data)


def _roots() -> Iterator[Case]:
    unknown = "undetermined"
    empty = trusted_root(issuerKeys=[])
    yield _case("root-empty", "no issuer key", unknown, "trusted-root-empty", trustedRoot=empty)
    stale = trusted_root(expiresAt=NOW)
    yield _case(
        "root-stale", "expired this moment", unknown, "trusted-root-stale", trustedRoot=stale
    )
    forged = sign1(statement().encode(), signature=b"\0" * 64)
    yield _case(
        "root-stale-and-forged",
        "a bad signature is no, also under a stale root",
        "refused",
        "signature-invalid",
        trustedRoot=stale,
        data=forged,
    )


def _malformed() -> Iterator[Case]:
    bad = "malformed"
    yield _case("receipt-empty", "no bytes", bad, "malformed-envelope", data=b"")
    cut = receipt()[:-1]
    yield _case("receipt-cut", "the last byte is missing", bad, "malformed-cbor", data=cut)
    deep = sign1(b"\x81" * 33 + b"\x00")
    yield _case("payload-deep", "a payload nested too deep", bad, "too-deep", data=deep)
    text = sign1(b"\x65hello")
    yield _case("payload-text", "a payload of text", bad, "malformed-statement", data=text)
    version = sign1(encode({1: 2}))
    yield _case(
        "payload-version-2",
        "a statement of a later version",
        "unsupported",
        "unsupported-version",
        data=version,
    )
    other = trusted_root(verispectTrustedRoot=2)
    yield _case("root-malformed", "a later root", bad, "malformed-trusted-root", trustedRoot=other)
    yield _case(
        "policy-malformed", "a misspelt word", bad, "malformed-policy", policy=policy("x = 1")
    )
    yield _case("openings-malformed", "not openings", bad, "malformed-opening", openings="80")
