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
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

import httpx

from verispect.appraisal.policy import AssurancePolicy
from verispect.appraisal.transcript import MAX_ANSWER_BYTES
from verispect.client.confidential import (
    MAX_ATTESTATION_BYTES,
    NONCE_BYTES,
    ConfidentialChannel,
    GatewayKey,
    SealedRequest,
    requires_attestation,
    seal_request,
)
from verispect.client.exchange import Exchange as Exchange
from verispect.client.exchange import policy_asked
from verispect.client.exchange import verify_exchange as verify_exchange
from verispect.client.paying import Payer
from verispect.client.paying_exchange import RESPONSE_HEADER, ask_paying, origin_of
from verispect.client.reading import read_pieces, refuse
from verispect.core.commitments import MAX_OPENINGS_BYTES
from verispect.core.confidential import REQUEST_TYPE
from verispect.core.encoding import from_base64url, to_base64url
from verispect.core.errors import (
    MalformedError,
    NetworkError,
    Reason,
    RequestError,
)
from verispect.core.receipt import InferenceReceipt

_OWN_NONCE_BYTES: Final = 16
_MAX_RECEIPT_BYTES: Final = 64 * 1024 * 1024
_INFERENCE: Final = re.compile(r"[0-9a-f]{32}")
_OPENING_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class GatewayClient:
    """Talks to one gateway.

    Args:
        url: for example `http://127.0.0.1:8402`.
        timeout_seconds: longest silence of the gateway.
        confidential: encrypt requests to a key that it lets through.
        payer: pays for requests that cost something; without one they are refused.
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
        payer: Payer | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if payer is not None and confidential is not None:
            # An encrypted answer is not kept, so that its payment could not be presented again.
            raise RequestError("a confidential request cannot be paid for", parameter="payer")
        self._confidential = confidential
        self._payer = payer
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

    @property
    def origin(self) -> str:
        """Scheme, host and port, by which a payer knows this gateway."""
        return origin_of(self._http.base_url)

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
            if self._payer is not None:
                return self._pay(self._payer, path, request, headers, on_text, assurance)
            sealed, head, received = self._ask(path, request, headers, on_text, assurance)
        except (UnicodeEncodeError, httpx.InvalidURL) as error:
            raise RequestError("the request holds text that cannot be sent") from error
        inference, receipt, openings = self._proof(head)
        if sealed is None:
            return Exchange(request, received, receipt, openings, nonce, assurance)
        openings = sealed.open_openings(openings, inference)
        return Exchange(request, received, receipt, openings, nonce, assurance, sealed.key_digest)

    def _pay(
        self,
        payer: Payer,
        path: str,
        request: bytes,
        headers: Mapping[str, str],
        on_text: Callable[[str], None],
        assurance: str | AssurancePolicy,
    ) -> Exchange:
        """Send a request, pay for it, and check receipt and bill."""
        url = self._http.build_request("POST", path).url
        purchase, head, received = ask_paying(payer, self._stream, url, request, headers, on_text)
        try:
            _, receipt, openings = self._proof(head)
            # That of the first asking, where this is a second one.
            nonce = from_base64url(purchase.headers["verispect-nonce"])
            exchange = Exchange(request, received, receipt, openings, nonce, assurance)
            purchase.settle(exchange, head.get(RESPONSE_HEADER))
        finally:
            purchase.end()
        return exchange

    def _proof(self, head: Mapping[str, str]) -> tuple[str, bytes, bytes]:
        """Fetch receipt and openings of an answer; return them after the inference's id."""
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
        return inference, receipt, openings

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
            asked = policy_asked(assurance)
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


def _with_policy(path: str, body: Mapping[str, Any], policy: AssurancePolicy) -> dict[str, Any]:
    """Return a body that asks for a policy of one's own, where its interface has the field."""
    if path.startswith("/v2/"):
        return {**body, "parameters": {**body.get("parameters", {}), "assurance": policy.to_json()}}
    return {**body, "assurance": policy.to_json()}


def now_milliseconds() -> int:
    """Return this machine's time, milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
