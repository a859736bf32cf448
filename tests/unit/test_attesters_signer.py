"""The software signer: RFC 8032's own signatures, whichever way libsodium is called."""

from __future__ import annotations

import ctypes
import threading

import pytest

from verispect.attesters import signer
from verispect.attesters.signer import SoftwareSigner

# RFC 8032 section 7.1, test 3.
SEED = bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
MESSAGE = bytes.fromhex("af82")
SIGNATURE = bytes.fromhex(
    "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
    "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
)


@pytest.fixture
def _choose_again():
    signer._sign_detached.cache_clear()
    yield
    signer._sign_detached.cache_clear()


def test_a_signature_is_that_of_rfc_8032() -> None:
    """A message of the RFC gets the signature of the RFC."""
    assert SoftwareSigner(SEED).sign(MESSAGE) == SIGNATURE


@pytest.mark.usefixtures("_choose_again")
def test_a_library_that_shows_no_functions_is_called_through_its_binding(monkeypatch) -> None:
    """Where libsodium's function cannot be found, signatures are the same."""

    def hidden(_path):
        raise OSError

    monkeypatch.setattr(ctypes, "PyDLL", hidden)
    own = SoftwareSigner(SEED)
    assert own._sign is signer._sign_through_binding
    assert own.sign(MESSAGE) == SIGNATURE


def test_threads_share_a_signer() -> None:
    """Signatures made by several threads at once are each their own message's."""
    own = SoftwareSigner(SEED)
    messages = [bytes((number,)) * (number + 1) for number in range(64)]
    expected = [signer._sign_through_binding(message, own._secret) for message in messages]
    found: list[list[bytes]] = []

    def work() -> None:
        found.append([own.sign(message) for message in messages])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_a_signer_does_not_show_its_key() -> None:
    """The text of a signer has nothing of the private key."""
    assert SEED.hex() not in repr(SoftwareSigner(SEED))
