"""What a node fetches, over HTTP, from an operator or a peer: bytes, within limits, never believed.

Absent, refused and unreachable are three different answers; nothing that comes back raises
anything but our own errors.
"""

from __future__ import annotations

from typing import Final

import httpx

from verispect.core.encoding import Digest
from verispect.core.errors import NetworkError, Reason
from verispect.core.receipt import MAX_EVIDENCE_BYTES
from verispect.ledger.log.evidence_store import MAX_BLOB_BYTES
from verispect.tlog.note import MAX_NOTE_BYTES
from verispect.tlog.tiles import MAX_BUNDLE_BYTES

REQUEST_SECONDS: Final = 15.0
MAX_RECEIPT_BYTES: Final = 2 * MAX_EVIDENCE_BYTES
MAX_OPENINGS_BYTES: Final = 64 * 1024 * 1024
MAX_FORKS_BYTES: Final = 1024 * 1024
MAX_ANSWER_BYTES: Final = 64 * 1024

_ABSENT: Final = frozenset((404, 410))
_REFUSED: Final = frozenset((400, 401, 403, 413, 415))


class RefusedError(NetworkError):
    """The other side understood the request and says no."""


class HttpSource:
    """One operator's or peer's address.

    Args:
        url: without a slash at its end.
        client: shared by all addresses of a node.
    """

    def __init__(self, url: str, client: httpx.Client) -> None:
        self.url = url.rstrip("/")
        self._client = client

    def get(self, path: str, *, limit: int, **query: str) -> bytes | None:
        """Return the body; `None` where there is nothing of this name.

        Raises:
            NetworkError: `network-failed` for no answer, another status or too large a body.
        """
        return self._request("GET", path, limit=limit, query=query)

    def post(self, path: str, body: bytes, *, limit: int = MAX_ANSWER_BYTES) -> bytes | None:
        """Send a body and return the answer's; `None` where there is nothing of this name.

        Raises:
            RefusedError: the other side says no.
            NetworkError: `network-failed`.
        """
        return self._request("POST", path, limit=limit, body=body)

    def checkpoint(self) -> bytes:
        """Return the log's latest checkpoint.

        Raises:
            NetworkError: `network-failed`.
        """
        data = self.get("/log/checkpoint", limit=MAX_NOTE_BYTES)
        if data is None:
            raise _failed("there is no log")
        return data

    def tile(self, path: str) -> bytes | None:
        """Return a tile or a bundle of entries."""
        return self.get(f"/log/{path}", limit=MAX_BUNDLE_BYTES)

    def receipt(self, digest: Digest) -> bytes | None:
        """Return the receipt behind a leaf."""
        return self.get(f"/log/receipts/{digest.hex()}", limit=MAX_RECEIPT_BYTES)

    def evidence(self, digest: Digest) -> bytes | None:
        """Return bytes of evidence."""
        return self.get(f"/log/evidence/{digest.hex()}", limit=MAX_BLOB_BYTES)

    def openings(self, digest: Digest, request: bytes) -> bytes | None:
        """Return the openings of a receipt, against a signed request."""
        return self.post(f"/log/openings/{digest.hex()}", request, limit=MAX_OPENINGS_BYTES)

    def _request(
        self,
        method: str,
        path: str,
        *,
        limit: int,
        body: bytes | None = None,
        query: dict[str, str] | None = None,
    ) -> bytes | None:
        try:
            with self._client.stream(
                method, self.url + path, content=body, params=query or None
            ) as answer:
                status = answer.status_code
                if status in _ABSENT:
                    return None
                if status in _REFUSED:
                    raise RefusedError(f"refused with {status}", reason=Reason.NETWORK_FAILED)
                if not 200 <= status < 300:
                    raise _failed(f"answered {status}")
                data = bytearray()
                for part in answer.iter_bytes():
                    data += part
                    if len(data) > limit:
                        raise _failed("the answer is too large")
                return bytes(data)
        except httpx.HTTPError as error:
            raise _failed(f"not reachable: {type(error).__name__}") from error


def _failed(what: str) -> NetworkError:
    return NetworkError(what, reason=Reason.NETWORK_FAILED)


def make_client() -> httpx.Client:
    """Return the client of one node: no redirects, no proxies of the environment."""
    return httpx.Client(timeout=REQUEST_SECONDS, trust_env=False, follow_redirects=False)
