"""The nonce that commits a transfer to its request."""

from __future__ import annotations

import pytest

from verispect.payments.nonce import request_bound_nonce, request_digest

REQUEST = request_digest("POST", "/v1/chat/completions", b"{}")
SALT = bytes(range(16))


def test_a_nonce_opens_to_one_request_and_salt() -> None:
    """Another request, another salt or another split between them gives another nonce."""
    nonce = request_bound_nonce(REQUEST, SALT)
    assert nonce == "0x2d99da85875ea6e67319569d04b76916e16c298c2f083cbe154f084a01706b71"
    others = {
        request_bound_nonce(request_digest("POST", "/v1/chat/completions", b"{ }"), SALT),
        request_bound_nonce(request_digest("GET", "/v1/chat/completions", b"{}"), SALT),
        request_bound_nonce(REQUEST, SALT + b"\0"),
    }
    assert len(others | {nonce}) == 4


@pytest.mark.parametrize("size", [0, 15, 65])
def test_a_salt_that_hides_nothing_is_refused(size: int) -> None:
    """A short salt would let a request be guessed from the chain."""
    with pytest.raises(ValueError, match="salt"):
        request_bound_nonce(REQUEST, bytes(size))
