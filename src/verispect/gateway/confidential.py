"""Opens requests that came encrypted to this process's key, and encrypts their answers.

The private key is made here, lives in memory and goes with the process; attestation evidence
vouches for its public half (spec/confidential.md). Each encrypted request is answered once: copies
are refused for as long as they could still pass for new ones, and an old one never passes.

This module refuses to write anything down, and to answer an opened request in the clear.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from verispect.core.confidential import (
    KEY_BYTES,
    NONCE_BYTES,
    RESPONSE_TYPE,
    SUITE,
    ConfidentialRequest,
    ResponseHead,
    ResponseSealer,
    invalid_request,
    key_digest,
    request_info,
    seal_openings,
    split_request,
)
from verispect.core.encoding import Digest, sha256
from verispect.core.errors import Reason, RequestError
from verispect.gateway.http import HttpRequest, HttpResponse, StreamedResponse
from verispect.gateway.limits import Limits

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from verispect.gateway.state import GatewayState

_SEAL_NONCE_BYTES: Final = 12


class ConfidentialDoor:
    """Holds the key of one process and what was sent to it.

    Args:
        limits: how long and how many requests are remembered.
    """

    def __init__(self, limits: Limits) -> None:
        self._key = X25519PrivateKey.generate()
        self.public_key: Final = self._key.public_key().public_bytes_raw()
        self.key_digest: Final = key_digest(self.public_key)
        self._memory = _RequestMemory(limits)

    def open(self, request: HttpRequest) -> ConfidentialExchange:
        """Open an encrypted request, once.

        Raises:
            RequestError: `confidential-request-invalid`, `confidential-key-unknown`,
                `confidential-replayed` or `server-overloaded`.
        """
        if request.query:
            raise invalid_request("a confidential request has no query")
        header, addressed_to, sealed = split_request(request.body)
        if addressed_to != self.key_digest:
            raise RequestError(
                "encrypted to a key that this server does not have: fetch /v1/attestation again",
                reason=Reason.CONFIDENTIAL_KEY_UNKNOWN,
            )
        info = request_info(request.method, request.path, header)
        try:
            plaintext = SUITE.decrypt(sealed, self._key, info)
        except InvalidTag as error:
            raise invalid_request(
                "does not open: changed, cut, or made for another path or key"
            ) from error
        content = ConfidentialRequest.decode(plaintext)
        self._memory.admit(sha256(sealed), content.sent_at, time.time_ns() // 1_000_000)
        return ConfidentialExchange(request, content, sealed[:KEY_BYTES], self.key_digest)


class ConfidentialExchange:
    """One request that was opened; its answer must go through `seal`."""

    def __init__(
        self, outer: HttpRequest, content: ConfidentialRequest, enc: bytes, digest: Digest
    ) -> None:
        self.key_digest: Final = digest
        self._response_key = content.response_key
        self._enc = enc
        self.request: Final = replace(
            outer,
            headers={
                # Where it was sent to is seen by everybody anyhow, and names what is sold.
                "host": outer.headers.get("host", ""),
                **content.headers,
                "content-type": content.content_type,
            },
            body=content.body,
            confidential=self,
        )

    def restrict(self, state: GatewayState) -> GatewayState:
        """Return `state` without what would keep the answer in the clear."""
        return replace(state, responses=None)

    def seal_openings(self, openings: bytes, inference_id: bytes) -> bytes:
        """Return the openings as only the caller can read them."""
        return seal_openings(
            openings,
            response_key=self._response_key,
            enc=self._enc,
            inference_id=inference_id,
            nonce=os.urandom(_SEAL_NONCE_BYTES),
        )

    def seal(self, response: HttpResponse | StreamedResponse) -> HttpResponse | StreamedResponse:
        """Return the answer with everything of it encrypted to the caller."""
        sealer = ResponseSealer(self._response_key, self._enc, os.urandom(NONCE_BYTES))
        head = ResponseHead(response.status, response.content_type, response.headers).encode()
        if isinstance(response, StreamedResponse):
            return StreamedResponse(200, _sealed(sealer, head, response.body), RESPONSE_TYPE)
        body = b"".join(
            (sealer.nonce, sealer.frame(head), *sealer.frames(response.body, last=True))
        )
        return HttpResponse(200, body, RESPONSE_TYPE)


async def _sealed(
    sealer: ResponseSealer, head: bytes, body: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    # Closed with this generator, so that the work behind it ends and its receipt is written.
    async with aclosing(cast("AsyncGenerator[bytes, None]", body)) as pieces:
        yield sealer.nonce + sealer.frame(head)
        async for piece in pieces:
            yield b"".join(sealer.frames(piece, last=False))
        yield sealer.frame(b"", last=True)


class _RequestMemory:
    """Remembers requests for as long as a copy of one could pass for new."""

    def __init__(self, limits: Limits) -> None:
        self._window = int(limits.confidential_seconds * 1000)
        self._maximum = limits.maximum_confidential_remembered
        self._seen: set[bytes] = set()
        self._expiries: list[tuple[int, bytes]] = []
        self._latest = 0

    def admit(self, digest: bytes, sent_at: int, now: int) -> None:
        # A clock that is set back must not make an old request new again.
        self._latest = now = max(now, self._latest)
        if abs(now - sent_at) > self._window:
            raise _replayed(
                f"made over {self._window // 1000} s before or after this server's time"
            )
        while self._expiries and self._expiries[0][0] < now:
            self._seen.remove(heapq.heappop(self._expiries)[1])
        if digest in self._seen:
            raise _replayed("this very request came before")
        if len(self._seen) >= self._maximum:
            raise RequestError(
                f"the server remembers at most {self._maximum} confidential requests",
                reason=Reason.SERVER_OVERLOADED,
            )
        self._seen.add(digest)
        heapq.heappush(self._expiries, (sent_at + self._window, digest))


def _replayed(what: str) -> RequestError:
    return RequestError(what, reason=Reason.CONFIDENTIAL_REPLAYED)
