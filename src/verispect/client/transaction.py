"""Ask for several inferences as one, and check the whole before believing any of it.

What comes back is fetched as one file with its openings, and judged offline: that the transaction
is committed and has this caller's nonce, that each part is there and meets its policy, and that
each reference was fed with the earlier output. This module refuses to call a transaction verified
that is not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self

import httpx

from verispect.appraisal.policy import AssurancePolicy
from verispect.appraisal.result import Verdict
from verispect.appraisal.transaction import ExpectedTransaction, TransactionVerifier
from verispect.appraisal.transaction_result import TransactionResult
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.client.transaction_asked import expect_parts
from verispect.core.commitments import decode_openings
from verispect.core.encoding import from_hex, to_base64url
from verispect.core.errors import (
    MalformedError,
    NetworkError,
    Reason,
    UnsupportedError,
    VerificationError,
)
from verispect.core.receipt import InferenceReceipt
from verispect.core.transaction import part_nonce
from verispect.core.transaction_files import BundledPart, TransactionBundle

_NONCE_BYTES: Final = 16
_SHOWN: Final = frozenset({200, 202, 422})


@dataclass(frozen=True, slots=True)
class TransactionExchange:
    """One transaction as it was asked for and answered: not yet verified."""

    transaction_id: bytes
    key: str
    nonce: bytes
    state: str
    answers: Sequence[Any]
    """The body of each part's answer, in order."""
    bundle: TransactionBundle
    """With the openings of every part."""
    asked: Sequence[Mapping[str, Any]] = ()
    """What was asked, in order: each part with `path`, `body` and perhaps `assurance`."""


class TransactionClient:
    """Talks to one gateway.

    Args:
        url: for example `http://127.0.0.1:8402`.
        timeout_seconds: longest silence of the gateway.
    """

    def __init__(self, url: str, *, timeout_seconds: float = 120.0) -> None:
        self._http = httpx.Client(base_url=url, timeout=timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def run(self, parts: Sequence[Mapping[str, Any]], **options: Any) -> TransactionExchange:
        """Run several inferences as one.

        Args:
            parts: each with `path` and `body`, perhaps `assurance`, `lane` and others.
            options: further members of the request, such as `timeout_seconds`.

        Raises:
            NetworkError: the gateway did not answer.
            VerificationError: the transaction ended with an error; its reason is passed on.
        """
        nonce = os.urandom(_NONCE_BYTES)
        answer = self._post("/v1/transactions", {"parts": list(parts), **options}, nonce=nonce)
        keys = {each["inference"]: each["opening_key"] for each in answer["parts"]}
        answers = [each["body"] for each in answer["parts"]]
        return self._exchange(answer, nonce, keys, answers, deepcopy(list(parts)))

    def open(self, **options: Any) -> OpenTransaction:
        """Open a transaction that is joined part by part."""
        nonce = os.urandom(_NONCE_BYTES)
        answer = self._post("/v1/transactions", options, nonce=nonce)
        return OpenTransaction(self, answer["id"], answer["key"], nonce)

    def fetch(self, exchange: TransactionExchange) -> TransactionExchange:
        """Return the exchange with what the gateway has of it by now."""
        identifier = exchange.transaction_id.hex()
        headers = {"verispect-transaction-key": exchange.key}
        found = self._send("GET", f"/v1/transactions/{identifier}", headers=headers).json()
        bundle = self._bundle(identifier)
        shown = [
            replace(self._attached(new), openings=old.openings)
            for new, old in zip(bundle.parts, exchange.bundle.parts, strict=False)
        ]
        return replace(exchange, state=found["state"], bundle=replace(bundle, parts=tuple(shown)))

    def _exchange(
        self,
        answer: Mapping[str, Any],
        nonce: bytes,
        keys: Mapping[str, str],
        answers: Sequence[Any],
        asked: Sequence[Mapping[str, Any]],
    ) -> TransactionExchange:
        bundle = self._bundle(answer["id"])
        shown = []
        for each in bundle.parts:
            inference = "" if each.receipt is None else each.receipt.claimed_inference
            if inference not in keys:
                raise MalformedError(
                    "a part was not asked for here", reason=Reason.MALFORMED_TRANSCRIPT
                )
            headers = {"verispect-opening-key": keys[inference]}
            path = f"/v1/receipts/{inference}/openings"
            openings = self._send("GET", path, headers=headers).content
            shown.append(replace(self._attached(each), openings=decode_openings(openings)))
        return TransactionExchange(
            from_hex(answer["id"]),
            answer["key"],
            nonce,
            answer["state"],
            answers,
            replace(bundle, parts=tuple(shown)),
            asked,
        )

    def _attached(self, shown: BundledPart) -> BundledPart:
        """Return a part whose receipt carries the evidence that there is by now."""
        if shown.receipt is None:
            return shown
        where = f"/v1/receipts/{shown.receipt.receipt_id.hex()}?evidence=attached"
        try:
            data = self._send("GET", where).content
        except VerificationError as error:
            if error.reason is not Reason.RECEIPT_NOT_FOUND:
                raise
            return shown  # Whether it is enough without is the verifier's to say.
        return replace(shown, receipt=InferenceReceipt.parse(data))

    def _bundle(self, identifier: str) -> TransactionBundle:
        path = f"/v1/transactions/{identifier}/receipt"
        return TransactionBundle.parse(self._send("GET", path).content)

    def _post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        nonce: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        given = {"content-type": "application/json", **(headers or {})}
        if nonce is not None:
            given["verispect-nonce"] = to_base64url(nonce)
        content = json.dumps(body, ensure_ascii=False).encode()
        answer: dict[str, Any] = self._send("POST", path, content=content, headers=given).json()
        return answer

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise NetworkError(
                f"the gateway did not answer: {type(error).__name__}", reason=Reason.NETWORK_FAILED
            ) from error
        if response.status_code not in _SHOWN:
            raise _refusal(response)
        return response


class OpenTransaction:
    """A transaction that is joined part by part; made by `TransactionClient.open`."""

    def __init__(self, client: TransactionClient, identifier: str, key: str, nonce: bytes) -> None:
        self._client = client
        self._keys: dict[str, str] = {}
        self._answers: list[Any] = []
        self._asked: list[Mapping[str, Any]] = []
        self._key = key
        self._nonce = nonce
        self.identifier: Final = identifier

    def ask(
        self, path: str, body: Mapping[str, Any], *, assurance: str = "signed"
    ) -> dict[str, Any]:
        """Ask one of the ordinary interfaces, as a part; references may stand in the body."""
        headers = {
            "content-type": "application/json",
            "verispect-transaction": self.identifier,
            "verispect-transaction-key": self._key,
            "verispect-assurance": assurance,
            "verispect-nonce": to_base64url(part_nonce(self._nonce, len(self._answers))),
        }
        content = json.dumps(body, ensure_ascii=False).encode()
        response = self._client._send("POST", path, content=content, headers=headers)  # noqa: SLF001 - one class in two
        head = response.headers
        self._keys[head["verispect-inference"]] = head["verispect-opening-key"]
        answer: dict[str, Any] = response.json()
        self._answers.append(answer)
        asked = {"path": path, "body": deepcopy(dict(body)), "assurance": assurance}
        self._asked.append(asked)
        return answer

    def commit(self) -> TransactionExchange:
        """Commit, and fetch the whole."""
        answer = self._end("commit")
        return self._client._exchange(  # noqa: SLF001 - as above
            answer, self._nonce, self._keys, self._answers, self._asked
        )

    def abort(self) -> None:
        """Give it up."""
        self._end("abort")

    def _end(self, action: str) -> dict[str, Any]:
        headers = {"verispect-transaction-key": self._key}
        path = f"/v1/transactions/{self.identifier}/{action}"
        return self._client._post(path, {}, headers=headers)  # noqa: SLF001 - as above


def verify_transaction(
    exchange: TransactionExchange,
    *,
    trusted_root: TrustedRoot,
    policy: AssurancePolicy,
    now: int,
    part_policies: Mapping[int, AssurancePolicy] | None = None,
) -> TransactionResult:
    """Verify a transaction: committed, whole, of this caller, each part under its policy.

    Each receipt must be of what the caller asked at that place and of the answer it was shown.

    Args:
        exchange: what was asked and received.
        trusted_root: what the caller trusts.
        policy: what is required of each part.
        now: the time at which to judge, milliseconds since the epoch.
        part_policies: what is required instead of the parts with these indexes.

    Raises:
        VerificationError: the answer is no.
        UnsupportedError: could not tell.
        MalformedError: `malformed-transcript` where an answer is none.
        RequestError: `dependency-invalid` where a reference names what the earlier part has not.
    """
    count = len(exchange.asked)
    parts = expect_parts(exchange.asked, exchange.answers, exchange.bundle, exchange.nonce)
    result = TransactionVerifier(trusted_root).appraise(
        exchange.bundle,
        policy=policy,
        part_policies=part_policies,
        now=now,
        expected=ExpectedTransaction(exchange.transaction_id, exchange.nonce, count, parts),
    )
    if result.verdict is Verdict.VERIFIED:
        return result
    check = result.decisive_check()
    reason = check.reason or Reason.POLICY_UNMET
    if result.verdict is Verdict.REFUSED:
        raise VerificationError(f"{check.name}: {check.detail}", reason=reason)
    raise UnsupportedError(f"{check.name}: {check.detail}", reason=reason)


def _refusal(response: httpx.Response) -> VerificationError:
    """Return the gateway's refusal, its reason where it is one of ours."""
    try:
        code = response.json()["error"]["code"]
        reason = Reason(code)
    except (ValueError, KeyError, TypeError):
        reason = Reason.TRANSACTION_FAILED
    return VerificationError(
        f"the gateway refused with status {response.status_code}", reason=reason
    )
