"""What the caller of a transaction knows of each part: what it sent there, and what it was shown.

A reference in a request stands for an earlier output; it is filled here as the gateway had to fill
it, from the opened output, which must itself equal the answer that the caller was shown. This
module refuses to judge: what it returns is compared by the verifier.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Final
from urllib.parse import unquote

from verispect.appraisal.asked import expect, read_request
from verispect.appraisal.expected import Expected
from verispect.appraisal.policy import AssurancePolicy, expand
from verispect.appraisal.references import fill, operation_of, read_references, source_value
from verispect.appraisal.transcript import read_answer
from verispect.core.encoding import from_base64url, from_hex
from verispect.core.errors import MalformedError, Reason
from verispect.core.transaction import part_nonce
from verispect.core.transaction_files import TransactionBundle

_DEFAULT_ASSURANCE: Final = "signed"


def expect_parts(
    asked: Sequence[Mapping[str, Any]],
    answers: Sequence[Any],
    bundle: TransactionBundle,
    nonce: bytes,
) -> dict[int, Expected]:
    """Return what each part's receipt must say to be of the caller's request and answer.

    Args:
        asked: the parts as they were sent, in order.
        answers: the bodies of their answers, as far as there are any.
        bundle: the transaction, with its openings; nothing of it is believed.
        nonce: the nonce of the transaction.

    Raises:
        MalformedError: `malformed-transcript` where an answer is none, or a receipt is not shown.
            An assurance that was asked for is unknown: `malformed-policy`.
        RequestError: `dependency-invalid` where a reference names what the earlier part has not.
    """
    return {
        index: _expect_part(index, asked, answers, bundle, nonce)
        for index in range(min(len(asked), len(bundle.parts)))
    }


def _expect_part(
    index: int,
    asked: Sequence[Mapping[str, Any]],
    answers: Sequence[Any],
    bundle: TransactionBundle,
    nonce: bytes,
) -> Expected:
    part, receipt = asked[index], bundle.parts[index].receipt
    if receipt is None:
        raise MalformedError(
            "the receipt of a part is not shown", reason=Reason.MALFORMED_TRANSCRIPT
        )
    own = part.get("nonce")
    assurance = part.get("assurance") or _DEFAULT_ASSURANCE
    body = _filled(index, asked, bundle)
    expected = expect(
        read_request(_encode(body)),
        read_answer(_encode(answers[index])) if index < len(answers) else None,
        inference_id=from_hex(receipt.claimed_inference),
        nonce=part_nonce(nonce, index) if own is None else from_base64url(own),
        assurance=_policy(assurance).digest(),
    )
    if operation_of(part["path"]) == "infer":
        # The request itself does not name its model: the address does.
        named = unquote(part["path"].split("/")[3])
        expected = replace(expected, models=expected.models | {named})
    return expected


def _policy(assurance: str | Mapping[str, Any]) -> AssurancePolicy:
    if isinstance(assurance, str):
        return expand(assurance)
    return AssurancePolicy.from_document(assurance)


def _filled(
    index: int, asked: Sequence[Mapping[str, Any]], bundle: TransactionBundle
) -> dict[str, Any]:
    """Return the body of a part with earlier outputs in the place of references."""
    body: dict[str, Any] = deepcopy(dict(asked[index]["body"]))
    operations = [operation_of(each["path"]) or "" for each in asked[:index]]
    references = read_references(
        body, path=asked[index]["path"], index=index, operations=operations
    )
    values = []
    for reference in references:
        opened = bundle.parts[reference.link.source].openings or {}
        values.append(source_value(reference.link, opened.get(reference.link.source_part)))
    fill(body, references, values)
    return body


def _encode(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()
