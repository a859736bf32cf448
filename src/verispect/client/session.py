"""Ask a gateway, and check what came back before believing it.

Every request carries a fresh nonce. What was sent and what was shown is compared with what was
committed to, the stream's chunks with the signed chain, and the receipt with the caller's own
trusted root and policy. An answer that does not verify is an exception, never a warning.

With a `ConfidentialChannel` requests are sent encrypted to an attested key, or not at all.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self

import httpx

from verispect.appraisal.asked import expect, read_request
from verispect.appraisal.policy import AssurancePolicy, expand, is_sum_of_presets
from verispect.appraisal.result import VerifiedReceipt
from verispect.appraisal.transcript import MAX_ANSWER_BYTES, Answer, read_answer
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Verifier
from verispect.client.confidential import (
    MAX_ATTESTATION_BYTES,
    NONCE_BYTES,
    ConfidentialChannel,
    GatewayKey,
    SealedRequest,
    requires_attestation,
    seal_request,
)
from verispect.client.reading import read_pieces, refuse
from verispect.core.claims import Claim, Source
from verispect.core.commitments import MAX_OPENINGS_BYTES, Opening, Part, decode_openings
from verispect.core.confidential import REQUEST_TYPE
from verispect.core.encoding import Digest, from_hex, to_base64url
from verispect.core.errors import (
    MalformedError,
    NetworkError,
    Reason,
    RequestError,
    UnsupportedError,
    VerificationError,
)
from verispect.core.receipt import InferenceReceipt

_OWN_NONCE_BYTES: Final = 16
_MAX_RECEIPT_BYTES: Final = 64 * 1024 * 1024
_INFERENCE: Final = re.compile(r"[0-9a-f]{32}")
_OPENING_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer, as bytes, with receipt and openings: not yet verified."""

    request: bytes
    response: bytes
    receipt: bytes
    openings: bytes
    nonce: bytes
    assurance: str | AssurancePolicy
    """The word with which assurance was asked for, or the policy of one's own."""
    confidential: Digest | None = None
    """Digest of the key to which the request was sent encrypted."""

    @property
    def answer(self) -> Answer:
        """The answer as the caller was shown it."""
        return read_answer(self.response)

    def opened(self) -> dict[Part, Opening]:
        """Return the openings."""
        return decode_openings(self.openings)


class GatewayClient:
    """Talks to one gateway.

    Args:
        url: for example `http://127.0.0.1:8402`.
        timeout_seconds: longest silence of the gateway.
        confidential: encrypt requests to a key that it lets through.
        transport: for tests and special networks.

    Raises:
        RequestError: `url` is none.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = 120.0,
        confidential: ConfidentialChannel | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._confidential = confidential
        self._key: GatewayKey | None = None
        try:
            self._http = httpx.Client(
                base_url=url, timeout=timeout_seconds, follow_redirects=False, transport=transport
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise RequestError("the gateway's address is not a URL", parameter="url") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        stream: bool = False,
        assurance: str | AssurancePolicy = "signed",
        lane: str | None = None,
        options: Mapping[str, Any] | None = None,
        on_text: Callable[[str], None] = lambda _text: None,
        wait_for_proof: bool = False,
    ) -> Exchange:
        """Ask a language model, and fetch receipt and openings. Nothing is verified here.

        Args:
            model: the name the gateway serves it under.
            messages: OpenAI-shaped.
            stream: show text as it is generated.
            assurance: what the gateway must deliver: a preset, a sum, or a policy of one's own.
            lane: `throughput` or `deterministic`; the model's usual one where `None`.
            options: further fields of the request.
            on_text: told each piece of text as it arrives, unverified.
            wait_for_proof: have the answer wait for its proof; only where assurance needs one.

        Raises:
            NetworkError: `network-failed`.
            RequestError: the gateway refused; its message is passed on.
            MalformedError: the answer is not of a shape known here.
        """
        body = {"model": model, "messages": list(messages), **(options or {})}
        if stream:
            body["stream"] = True
        return self.exchange(
            "/v1/chat/completions", body, assurance, lane, on_text, wait_for_proof=wait_for_proof
        )

    def exchange(
        self,
        path: str,
        body: Mapping[str, Any],
        assurance: str | AssurancePolicy,
        lane: str | None = None,
        on_text: Callable[[str], None] = lambda _text: None,
        *,
        wait_for_proof: bool = False,
    ) -> Exchange:
        """Send one request to `path`; see `chat`.

        Raises:
            VerificationError: nothing was sent, because no good evidence vouches for the gateway's
                key; or an encrypted answer was cut or changed.
        """
        nonce = os.urandom(_OWN_NONCE_BYTES)
        headers = {"verispect-nonce": to_base64url(nonce)}
        if isinstance(assurance, AssurancePolicy):
            body = _with_policy(path, body, assurance)
        else:
            headers["verispect-assurance"] = assurance
        if lane is not None:
            headers["verispect-lane"] = lane
        if wait_for_proof:
            headers["verispect-proof"] = "wait"
        try:
            request = json.dumps(body, ensure_ascii=False).encode()
            sealed, head, received = self._ask(path, request, headers, on_text, assurance)
        except (UnicodeEncodeError, httpx.InvalidURL) as error:
            raise RequestError("the request holds text that cannot be sent") from error
        inference = head.get("verispect-inference", "")
        opening_key = head.get("verispect-opening-key", "")
        if not _INFERENCE.fullmatch(inference) or not _OPENING_KEY.fullmatch(opening_key):
            raise MalformedError("the answer names no receipt", reason=Reason.MALFORMED_TRANSCRIPT)
        where = f"/v1/receipts/{inference}"
        _, receipt = self._send("GET", f"{where}?evidence=attached", b"", {}, _MAX_RECEIPT_BYTES)
        _, openings = self._send(
            "GET",
            f"{where}/openings",
            b"",
            {"verispect-opening-key": opening_key},
            MAX_OPENINGS_BYTES,
        )
        if sealed is None:
            return Exchange(request, received, receipt, openings, nonce, assurance)
        openings = sealed.open_openings(openings, inference)
        return Exchange(request, received, receipt, openings, nonce, assurance, sealed.key_digest)

    def renewed(self, exchange: Exchange) -> Exchange:
        """Return an exchange with the evidence that the gateway has by now.

        Raises:
            NetworkError: `network-failed`.
            RequestError: the gateway refused.
            MalformedError: the exchange's receipt is not the format.
        """
        inference = InferenceReceipt.parse(exchange.receipt).claimed_inference
        where = f"/v1/receipts/{inference}?evidence=attached"
        _, receipt = self._send("GET", where, b"", {}, _MAX_RECEIPT_BYTES)
        return replace(exchange, receipt=receipt)

    def _ask(
        self,
        path: str,
        request: bytes,
        headers: Mapping[str, str],
        on_text: Callable[[str], None],
        assurance: str | AssurancePolicy,
    ) -> tuple[SealedRequest | None, Mapping[str, str], bytes]:
        """Send a request in the way that the caller chose."""
        if self._confidential is not None:
            asked = _policy(assurance)
            if asked is None or not requires_attestation(asked):
                raise RequestError(
                    "a confidential request asks for an attested assurance", parameter="assurance"
                )
            return self._ask_confidentially(self._confidential, path, request, headers, on_text)
        in_the_clear = {**headers, "content-type": "application/json"}
        head, received = self._send("POST", path, request, in_the_clear, MAX_ANSWER_BYTES, on_text)
        return None, head, received

    def _ask_confidentially(
        self,
        channel: ConfidentialChannel,
        path: str,
        request: bytes,
        headers: Mapping[str, str],
        on_text: Callable[[str], None],
    ) -> tuple[SealedRequest, Mapping[str, str], bytes]:
        renewed = self._key is None
        if self._key is None:
            self._key = self._attested_key(channel)
        while True:
            sealed = seal_request(self._key, path, request, headers, now=channel.clock())
            with self._stream("POST", path, sealed.body, {"content-type": REQUEST_TYPE}) as answer:
                if answer.status_code == httpx.codes.OK:
                    head, pieces = sealed.open_answer(answer.iter_raw())
                    if head.status != httpx.codes.OK:
                        refuse(head.status, pieces)
                    received = read_pieces(pieces, head.content_type, MAX_ANSWER_BYTES, on_text)
                    return sealed, dict(head.headers), received
                if answer.status_code != httpx.codes.UNPROCESSABLE_ENTITY or renewed:
                    refuse(answer.status_code, answer.iter_raw())
            # The gateway was restarted: its new key must be vouched for as the old one was.
            self._key, renewed = self._attested_key(channel), True

    def _attested_key(self, channel: ConfidentialChannel) -> GatewayKey:
        nonce = os.urandom(NONCE_BYTES)
        where = f"/v1/attestation?nonce={to_base64url(nonce)}"
        _, document = self._send("GET", where, b"", {}, MAX_ATTESTATION_BYTES)
        return channel.check_key(document, nonce)

    def _send(
        self,
        method: str,
        path: str,
        content: bytes,
        headers: Mapping[str, str],
        limit: int,
        on_text: Callable[[str], None] | None = None,
    ) -> tuple[httpx.Headers, bytes]:
        with self._stream(method, path, content, headers) as response:
            if response.status_code != httpx.codes.OK:
                refuse(response.status_code, response.iter_raw())
            kind = response.headers.get("content-type", "")
            return response.headers, read_pieces(response.iter_raw(), kind, limit, on_text)

    @contextmanager
    def _stream(
        self, method: str, path: str, content: bytes, headers: Mapping[str, str]
    ) -> Iterator[httpx.Response]:
        # Nothing compressed: a few bytes could become more than there is memory.
        all_headers = {**headers, "accept-encoding": "identity"}
        try:
            with self._http.stream(method, path, content=content, headers=all_headers) as response:
                yield response
        except httpx.HTTPError as error:
            raise NetworkError(
                f"the gateway did not answer: {type(error).__name__}",
                reason=Reason.NETWORK_FAILED,
            ) from error


def verify_exchange(
    exchange: Exchange, *, trusted_root: TrustedRoot, policy: AssurancePolicy, now: int
) -> VerifiedReceipt:
    """Verify an exchange: the receipt, that it is of *this* request, and of *this* answer.

    Args:
        exchange: what was sent and received.
        trusted_root: what the caller trusts.
        policy: what the caller requires.
        now: the time at which to judge, milliseconds since the epoch.

    Raises:
        VerificationError: the answer is no.
        TrustError: could not tell, because of the trusted root.
        UnsupportedError: could not tell, because of something unknown.
        MalformedError: receipt, openings or answer are not the format.
    """
    receipt = InferenceReceipt.parse(exchange.receipt)
    answer = exchange.answer
    if answer.receipt is not None and not _is_same(answer.receipt, receipt):
        raise VerificationError(
            "the receipt in the answer is not the one the gateway keeps",
            reason=Reason.CONTENT_MISMATCH,
        )
    asked = _policy(exchange.assurance)
    if asked is None:
        raise UnsupportedError(
            "the assurance asked for is unknown here", reason=Reason.ASSURANCE_UNKNOWN
        )
    expected = expect(
        read_request(exchange.request),
        answer,
        inference_id=from_hex(receipt.claimed_inference),
        nonce=exchange.nonce,
        assurance=asked.digest(),
    )
    verified = Verifier(trusted_root).verify(
        receipt, opened=exchange.opened(), policy=policy, now=now, expected=expected
    )
    if exchange.confidential is not None:
        _check_confidential(verified, exchange.confidential)
    return verified


def _policy(assurance: str | AssurancePolicy) -> AssurancePolicy | None:
    """Return the policy that was asked for; `None` for a word that is unknown here."""
    if isinstance(assurance, AssurancePolicy):
        return assurance
    return expand(assurance) if is_sum_of_presets(assurance) else None


def _with_policy(path: str, body: Mapping[str, Any], policy: AssurancePolicy) -> dict[str, Any]:
    """Return a body that asks for a policy of one's own, where its interface has the field."""
    if path.startswith("/v2/"):
        return {**body, "parameters": {**body.get("parameters", {}), "assurance": policy.to_json()}}
    return {**body, "assurance": policy.to_json()}


def _check_confidential(verified: VerifiedReceipt, key: Digest) -> None:
    if verified.statement.confidential != key:
        raise VerificationError(
            "the statement does not name the key the request was encrypted to",
            reason=Reason.CONTENT_MISMATCH,
        )
    if Source.HARDWARE not in verified.result.claims[Claim.CONFIDENTIALITY]:
        raise VerificationError(
            "the receipt's evidence does not show that the request was confidential",
            reason=Reason.POLICY_UNMET,
        )


def _is_same(data: bytes, receipt: InferenceReceipt) -> bool:
    """Tell whether `data` is the same signed statement, whatever evidence travels with either."""
    try:
        return InferenceReceipt.parse(data).receipt_id == receipt.receipt_id
    except (MalformedError, UnsupportedError):
        return False


def now_milliseconds() -> int:
    """Return this machine's time, milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
