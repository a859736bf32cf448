# ruff: noqa: INP001
"""The cases of a whole transaction: file, trusted root, policy, time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from cases_formats import Case
from material import (
    DEVELOPMENT,
    GOOD,
    ISSUER,
    NOW,
    REVOKED,
    SIGNED_AT,
    UNLISTED,
    VectorKey,
    derived,
    policy,
    sign1,
    statement,
    trusted_root,
)

from verispect.core.commitments import Opening, Part
from verispect.core.encoding import encode, sha256
from verispect.core.envelope import STATEMENT_TYPE, sign_envelope
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import TransactionBinding
from verispect.core.transaction import (
    TRANSACTION_TYPE,
    Dependency,
    Failure,
    PartOutcome,
    TransactionOutcome,
    TransactionPart,
    TransactionStatement,
    ValueForm,
    nonce_digest,
    open_transaction,
    part_nonce,
    policy_digest,
)
from verispect.core.transaction_files import BundledPart, DisclosedPart, TransactionBundle
from verispect.tlog.transaction_tree import part_path, parts_root

TRANSACTION_ID = bytes(range(16))
OTHER_ID = bytes(range(16, 32))
NONCE = b"vectors: a transaction's nonce"
COUNT = 3
TEXTS = ("Hello", "Hello yourself", "Goodbye")


def part_receipt(
    index: int,
    *,
    transaction_id: bytes = TRANSACTION_ID,
    place: int | None = None,
    count: int = COUNT,
    message: str | None = None,
    key: VectorKey = GOOD,
    **changes: Any,
) -> tuple[InferenceReceipt, dict[Part, Opening]]:
    """Return the receipt of a part with its openings."""
    fed = TEXTS[index - 1] if message is None and index else message or "Say hello."
    content = {
        Part.MESSAGES: [{"role": "user", "content": fed}],
        Part.OUTPUT: [TEXTS[index]],
    }
    opened = {
        part: Opening.of(part, value, salt=derived(f"part {index} {part.label}"))
        for part, value in content.items()
    }
    fields = {
        "sequence": index + 1,
        "commitments": {part: each.commitment() for part, each in opened.items()},
        "nonce": part_nonce(NONCE, index),
        "stream": None,
        "price": None,
        "transaction": TransactionBinding(transaction_id, index if place is None else place, count),
    }
    envelope = sign_envelope(
        statement(**(fields | changes)).encode(),
        content_type=STATEMENT_TYPE,
        issuer=ISSUER,
        subject=derived(f"inference {index}")[:16].hex(),
        signer=key,
    )
    return InferenceReceipt(envelope), opened


def dependency(index: int, shown: Sequence[BundledPart], **changes: Any) -> Dependency:
    """Return that part `index` was fed with the output of the one before."""
    source, target = shown[index - 1].receipt, shown[index].receipt
    assert source is not None
    assert target is not None
    fed = Dependency(
        source=index - 1,
        source_part=Part.OUTPUT,
        source_pointer="/0",
        source_commitment=source.unverified_statement.commitments[Part.OUTPUT],
        target_part=Part.MESSAGES,
        target_pointer="/0/content",
        target_commitment=target.unverified_statement.commitments[Part.MESSAGES],
        form=ValueForm.SAME,
    )
    return replace(fed, **changes)


def shown_parts(
    receipts: Sequence[tuple[InferenceReceipt, dict[Part, Opening]]] | None = None,
    *,
    linked: bool = True,
    **changed_link: Any,
) -> list[BundledPart]:
    """Return the parts of the good transaction, or of these receipts."""
    receipts = receipts or [part_receipt(index) for index in range(COUNT)]
    shown = [
        BundledPart(
            TransactionPart(
                index,
                receipt.receipt_id,
                receipt.unverified_statement.assurance,
                PartOutcome.MET,
            ),
            receipt,
            opened,
        )
        for index, (receipt, opened) in enumerate(receipts)
    ]
    for index in range(1, len(shown)) if linked else ():
        fed = (dependency(index, shown, **changed_link),)
        shown[index] = replace(shown[index], part=replace(shown[index].part, dependencies=fed))
    return shown


def transaction_statement(parts: Sequence[TransactionPart], **changes: Any) -> TransactionStatement:
    """Return the good statement over these parts."""
    good = TransactionStatement(
        transaction_id=TRANSACTION_ID,
        opened_at=SIGNED_AT - 5000,
        decided_at=SIGNED_AT + 1000,
        outcome=TransactionOutcome.COMMITTED,
        policy=policy_digest(part.assurance for part in parts),
        count=len(parts),
        root=parts_root(changes.get("transaction_id", TRANSACTION_ID), parts),
        nonce=nonce_digest(TRANSACTION_ID, NONCE),
    )
    return replace(good, **changes)


def bundle(
    shown: Sequence[BundledPart] | None = None,
    *,
    signed: Sequence[BundledPart] | None = None,
    key: VectorKey = GOOD,
    **changes: Any,
) -> TransactionBundle:
    """Return a transaction that shows some parts and signed others, or the same."""
    shown = shown_parts() if shown is None else shown
    said = transaction_statement([each.part for each in signed or shown], **changes)
    envelope = sign_envelope(
        said.encode(),
        content_type=TRANSACTION_TYPE,
        issuer=ISSUER,
        subject=said.transaction_id.hex(),
        signer=key,
    )
    return TransactionBundle(envelope, said, tuple(shown))


def disclosed(index: int, whole: TransactionBundle | None = None) -> DisclosedPart:
    """Return one part of a transaction with its path."""
    whole = whole or bundle()
    path = part_path(whole.statement.transaction_id, [each.part for each in whole.parts], index)
    return DisclosedPart(whole.envelope, whole.statement, whole.parts[index], tuple(path))


def of_part(shown: Sequence[BundledPart], index: int, **changes: Any) -> list[BundledPart]:
    """Return the parts with changes to the leaf of one."""
    changed = [*shown]
    changed[index] = replace(shown[index], part=replace(shown[index].part, **changes))
    return changed


def _case(
    name: str,
    description: str,
    data: bytes | TransactionBundle | DisclosedPart,
    result: str,
    reason: str | None,
    *,
    now: int = NOW,
) -> Case:
    inputs = {
        "transaction": (data if isinstance(data, bytes) else data.encode()).hex(),
        "trustedRoot": trusted_root(),
        "policy": policy(),
        "now": now,
    }
    return name, description, inputs, result, reason


def transactions() -> Iterator[Case]:
    """Yield every case."""
    good = shown_parts()
    refused = "refused"
    mismatch = (refused, "transaction-mismatch")
    yield _case("accept", "three parts, each fed by the one before", bundle(), "verified", None)
    yield _case(
        "accept-one", "one part", bundle(shown_parts([part_receipt(0, count=1)])), "verified", None
    )
    opened = [part_receipt(index, count=0) for index in range(COUNT)]
    yield _case(
        "accept-open", "the number of parts was open", bundle(shown_parts(opened)), "verified", None
    )
    closed = [replace(each, openings=None) for each in good]
    yield _case("accept-closed", "no content is opened", bundle(closed), "verified", None)
    for index in range(COUNT):
        yield _case(
            f"accept-part-{index}",
            "one part, the others closed",
            disclosed(index),
            "verified",
            None,
        )

    yield _case("dropped", "the last part is left out", bundle(good[:2], signed=good), *mismatch)
    yield _case("dropped-signed", "left out before it was signed", bundle(good[:2]), *mismatch)
    yield _case("added", "a part more than was signed", bundle(good, signed=good[:2]), *mismatch)
    twice = [*good[:2], replace(good[1], part=replace(good[1].part, index=2))]
    yield _case("twice", "one receipt at two places", bundle(twice), *mismatch)
    swapped = [good[1], good[0], good[2]]
    yield _case("swapped", "two parts exchanged", bundle(swapped, signed=good), *mismatch)
    moved = [
        replace(each, part=replace(each.part, index=index, dependencies=()))
        for index, each in enumerate(swapped)
    ]
    yield _case("swapped-signed", "exchanged before it was signed", bundle(moved), *mismatch)
    foreign = [part_receipt(0), part_receipt(1, transaction_id=OTHER_ID), part_receipt(2)]
    yield _case("foreign", "a part of another transaction", bundle(shown_parts(foreign)), *mismatch)
    alone = [part_receipt(0), part_receipt(1, transaction=None), part_receipt(2)]
    yield _case("alone", "an inference that is part of none", bundle(shown_parts(alone)), *mismatch)
    count = [part_receipt(index, count=4) for index in range(COUNT)]
    yield _case("count", "parts of a larger transaction", bundle(shown_parts(count)), *mismatch)
    exchanged = [replace(good[0], receipt=part_receipt(0, finish_reasons=["length"])[0]), *good[1:]]
    yield _case("receipt", "another receipt than that of the leaf", bundle(exchanged), *mismatch)
    assured = of_part(good, 1, assurance=sha256(b"another policy"))
    yield _case("assurance", "the leaf states another policy", bundle(assured), *mismatch)
    yield _case("policy", "another policy of the whole", bundle(policy=sha256(b"other")), *mismatch)
    yield _case("root", "another root", bundle(root=sha256(b"other")), *mismatch)
    unmet = of_part(good, 1, outcome=PartOutcome.FAILED, reason="policy-unmet")
    yield _case("unmet", "committed, though a part failed", bundle(unmet), *mismatch)
    waiting = of_part(good, 1, outcome=PartOutcome.PENDING)
    yield _case("waiting", "committed, though a part is pending", bundle(waiting), *mismatch)
    reused = [part_receipt(0), part_receipt(1, nonce=part_nonce(NONCE, 0)), part_receipt(2)]
    yield _case(
        "nonce", "two parts of one nonce", bundle(shown_parts(reused)), refused, "nonce-reused"
    )
    cut = [part_receipt(0), part_receipt(1, finish_reasons=["cancelled"]), part_receipt(2)]
    yield _case(
        "cut",
        "an answer that is not whole",
        bundle(shown_parts(cut)),
        refused,
        "transaction-incomplete",
    )
    hidden = [good[0], replace(good[1], receipt=None, openings=None), good[2]]
    yield _case(
        "hidden", "a receipt is not shown", bundle(hidden), "undetermined", "content-not-opened"
    )

    invalid = (refused, "dependency-invalid")
    lied = [part_receipt(0), part_receipt(1, message="Something else"), part_receipt(2)]
    yield _case(
        "fed-other", "the input is not the earlier output", bundle(shown_parts(lied)), *invalid
    )
    other = shown_parts(source_commitment=sha256(b"other"))
    yield _case("fed-commitment", "a commitment that the receipt has not", bundle(other), *invalid)
    yield _case(
        "fed-pointer",
        "a place where nothing stands",
        bundle(shown_parts(source_pointer="/7")),
        *invalid,
    )
    yield _case(
        "fed-role",
        "another place of the input",
        bundle(shown_parts(target_pointer="/0/role")),
        *invalid,
    )

    failure = Failure("policy-unmet", 1)
    failed = bundle(unmet, outcome=TransactionOutcome.FAILED, failure=failure)
    yield _case("failed", "a good signature over a failure", failed, refused, "transaction-failed")
    gone = bundle(waiting, outcome=TransactionOutcome.ABORTED, failure=Failure("request-timeout"))
    yield _case("aborted", "a good signature over an abort", gone, refused, "transaction-aborted")
    pending = bundle(waiting, outcome=TransactionOutcome.PENDING, due_at=NOW + 1)
    yield _case("pending", "evidence may still come", pending, "undetermined", "evidence-pending")
    yield _case(
        "overdue", "evidence did not come", pending, refused, "evidence-overdue", now=NOW + 2
    )

    yield _case(
        "key-unlisted", "signed with an unknown key", bundle(key=UNLISTED), refused, "key-unknown"
    )
    yield _case(
        "key-revoked", "signed with a revoked key", bundle(key=REVOKED), refused, "key-revoked"
    )
    yield _case(
        "key-development",
        "signed with a development key",
        bundle(key=DEVELOPMENT),
        refused,
        "development-key",
    )
    whole = bundle()
    forged = replace(
        whole.envelope,
        payload=transaction_statement([each.part for each in good], opened_at=1).encode(),
    )
    _, said = open_transaction(forged.encode())
    yield _case(
        "changed",
        "changed after it was signed",
        TransactionBundle(forged, said, whole.parts),
        refused,
        "signature-invalid",
    )
    yield _case(
        "future",
        "decided in the future",
        bundle(decided_at=NOW + 60_001),
        refused,
        "signed-in-future",
    )
    yield _case(
        "times",
        "decided before it was opened",
        bundle(opened_at=SIGNED_AT + 1001),
        refused,
        "times-inconsistent",
    )

    one = disclosed(1)
    path = replace(one, path=(sha256(b"other"), *one.path[1:]))
    yield _case("path", "a path to another root", path, refused, "inclusion-invalid")
    yield _case(
        "path-short",
        "a path that is too short",
        replace(one, path=one.path[:1]),
        refused,
        "inclusion-invalid",
    )
    place = replace(one, shown=replace(one.shown, part=replace(one.shown.part, index=2)))
    yield _case("path-place", "the path of another place", place, refused, "inclusion-invalid")

    form = ("malformed", "malformed-transaction")
    yield _case(
        "truncated", "the last byte is missing", whole.encode()[:-1], "malformed", "malformed-cbor"
    )
    rows = [each.to_row() for each in good]
    signed = whole.envelope.encode()
    yield _case("magic", "another file", encode(["verispect-something", 1, signed, rows]), *form)
    yield _case(
        "version",
        "a later version",
        encode(["verispect-transaction", 2, signed, rows]),
        "unsupported",
        "unsupported-version",
    )
    forward = [*rows]
    forward[1] = [[*rows[1][0][:5], [[1, *rows[1][0][5][0][1:]]]], *rows[1][1:]]
    yield _case(
        "cycle",
        "a part that depends on itself",
        encode(["verispect-transaction", 1, signed, forward]),
        *form,
    )
    many = encode(["verispect-transaction", 1, signed, [rows[0]] * 257])
    yield _case("parts-257", "more parts than the limit", many, *form)
    bare = sign1(b"\xa0")
    yield _case(
        "statement",
        "a receipt in the place of the transaction",
        encode(["verispect-transaction", 1, bare, rows]),
        "malformed",
        "malformed-envelope",
    )
