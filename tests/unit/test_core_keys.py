"""Ed25519 keys: the standard's vectors, thumbprints, and keys and signatures that must not pass."""

from __future__ import annotations

import hashlib

import cbor2
import pytest

from verispect.core.errors import Error, MalformedError, Reason, VerificationError
from verispect.core.keys import PublicKey

# RFC 8032, section 7.1: tests 1 to 3 (public key, message, signature).
RFC_8032 = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]

# Points of small order: with such a key, or such an R, one signature fits many messages.
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
]


@pytest.mark.parametrize(("key", "message", "signature"), RFC_8032)
def test_vectors_of_the_standard(key, message, signature):
    """The standard's signatures verify, and not over one byte more."""
    public_key = PublicKey(bytes.fromhex(key))
    public_key.verify(bytes.fromhex(message), bytes.fromhex(signature))
    with pytest.raises(VerificationError) as caught:
        public_key.verify(bytes.fromhex(message) + b"\0", bytes.fromhex(signature))
    assert caught.value.reason is Reason.SIGNATURE_INVALID


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_small_order_keys_verify_nothing(point):
    """A key of small order, which would fit any message, verifies nothing."""
    key = PublicKey(bytes.fromhex(point))
    for first in SMALL_ORDER:
        for scalar in (b"\0" * 32, b"\1" + b"\0" * 31):
            with pytest.raises(VerificationError):
                key.verify(b"message", bytes.fromhex(first) + scalar)


@pytest.mark.parametrize("length", [0, 63, 65, 128])
def test_signature_length(length):
    """A signature of another length is refused, not cut or padded."""
    with pytest.raises(VerificationError):
        PublicKey(bytes.fromhex(RFC_8032[0][0])).verify(b"", b"\0" * length)


def test_identifier_is_the_cose_thumbprint():
    """Anyone with a CBOR library computes the same key identifier (RFC 9679)."""
    raw = bytes.fromhex(RFC_8032[0][0])
    required = {1: 1, -1: 6, -2: raw}
    assert PublicKey(raw).key_id == hashlib.sha256(cbor2.dumps(required)).digest()


@pytest.mark.parametrize("text", ["", "AA", "A" * 42 + "=", "A" * 42 + "B", "A" * 44, "A" * 5000])
def test_text_form_is_strict(text):
    """Other lengths and loose base64 are refused with the reason of a key."""
    with pytest.raises(MalformedError) as caught:
        PublicKey.from_text(text)
    assert caught.value.reason is Reason.MALFORMED_KEY


def test_text_form_comes_back():
    """A key comes back from its text."""
    key = PublicKey(bytes.fromhex(RFC_8032[1][0]))
    assert PublicKey.from_text(key.to_text()) == key


def test_malformed_key_is_our_error():
    """A key of another length is refused with our error."""
    with pytest.raises(Error):
        PublicKey(b"k" * 31)
