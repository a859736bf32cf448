"""The bytes of confidential messages: fixed by the specification, strict, whole or refused."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from verispect.core.confidential import (
    MAX_CONTENT_BYTES,
    PADDING_BYTES,
    SUITE,
    ConfidentialRequest,
    ResponseHead,
    ResponseOpener,
    ResponseSealer,
    _pad,
    _unpad,
    encode_header,
    key_digest,
    open_openings,
    request_info,
    seal_openings,
)
from verispect.core.encoding import decode, encode
from verispect.core.errors import Error, Reason, VerificationError

KEY, ENC, NONCE = b"k" * 32, b"e" * 32, b"n" * 32


def answer(*contents: bytes, last: bool = True) -> bytes:
    sealer = ResponseSealer(KEY, ENC, NONCE)
    frames = [
        sealer.frame(content, last=last and number == len(contents) - 1)
        for number, content in enumerate(contents)
    ]
    return NONCE + b"".join(frames)


def read(data: bytes, *, step: int = 1 << 20) -> list[bytes]:
    opener = ResponseOpener(KEY, ENC)
    contents: list[bytes] = []
    for start in range(0, len(data), step):
        contents += opener.feed(data[start : start + step])
    opener.finish()
    return contents


def refused(data: bytes) -> None:
    with pytest.raises(VerificationError) as caught:
        read(data)
    assert caught.value.reason is Reason.CONFIDENTIAL_RESPONSE_INVALID


def frames_of(data: bytes) -> list[bytes]:
    frames, offset = [], 32
    while offset < len(data):
        end = offset + 5 + int.from_bytes(data[offset + 1 : offset + 5], "big")
        frames.append(data[offset:end])
        offset = end
    return frames


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 by hand, for one block."""
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def test_frames_are_those_of_the_text():
    """An answer can be opened from the words of the specification alone."""
    data = answer(b"head", b"body")
    assert data[:32] == NONCE
    key = hkdf(KEY, ENC + NONCE, b"verispect/confidential-v1 response")
    for number, frame in enumerate(frames_of(data)):
        front, sealed = frame[:5], frame[5:]
        assert front[0] == number
        nonce = number.to_bytes(12, "big")
        padded = ChaCha20Poly1305(key).decrypt(nonce, sealed, front)
        assert len(padded) % 512 == 0
        assert padded == b"\0\0\0\x04" + (b"head", b"body")[number] + bytes(512 - 8)


def test_requests_are_those_of_the_text():
    """Header, `info` and plaintext are as written, byte for byte."""
    private = X25519PrivateKey.from_private_bytes(bytes(range(32)))
    raw = private.public_key().public_bytes_raw()
    assert key_digest(raw) == hashlib.sha256(raw).digest()
    header = encode_header(key_digest(raw))
    assert header == bytes.fromhex("01002000010003") + hashlib.sha256(raw).digest()
    info = request_info("POST", "/v1/x", header)
    expected = b"verispect/confidential-v1 request\x00\x83\x64POST\x65/v1/x\x58\x27" + header
    assert info == expected
    request = ConfidentialRequest(b"{}", {"verispect-nonce": "AA"}, 5, KEY)
    plaintext = request.encode()
    (length,) = (int.from_bytes(plaintext[:4], "big"),)
    assert decode(plaintext[4 : 4 + length]) == {
        "body": b"{}",
        "headers": {"verispect-nonce": "AA"},
        "sent_at": 5,
        "content_type": "application/json",
        "response_key": KEY,
    }
    sealed = SUITE.encrypt(plaintext, private.public_key(), info)
    assert ConfidentialRequest.decode(SUITE.decrypt(sealed, private, info)) == request


def test_openings_are_sealed_as_the_text_says():
    """Twelve bytes of nonce and the ciphertext, bound to the inference."""
    sealed = seal_openings(
        b"openings", response_key=KEY, enc=ENC, inference_id=b"i" * 16, nonce=b"o" * 12
    )
    content = decode(sealed)
    key = hkdf(KEY, ENC, b"verispect/confidential-v1 openings")
    assert ChaCha20Poly1305(key).decrypt(content[:12], content[12:], b"i" * 16) == b"openings"
    arguments = {"response_key": KEY, "enc": ENC, "inference_id": b"i" * 16}
    assert open_openings(sealed, **arguments) == b"openings"
    bad = [b"", b"\xff", encode(b"short"), encode("text"), encode(content[:-1]), sealed + b"\0"]
    for data in bad:
        with pytest.raises(VerificationError):
            open_openings(data, **arguments)
    for change in ({"response_key": ENC}, {"enc": KEY}, {"inference_id": b"j" * 16}):
        with pytest.raises(VerificationError):
            open_openings(sealed, **{**arguments, **change})


@given(st.lists(st.binary(max_size=1200), min_size=1, max_size=4), st.integers(1, 700))
def test_an_answer_comes_whole_in_pieces_of_any_size(contents, step):
    """How a network divides the bytes does not matter."""
    assert read(answer(*contents), step=step) == contents


def test_a_content_beyond_one_frame_is_divided():
    """The pieces are the content, and only the last is marked."""
    content = bytes(range(256)) * (3 * MAX_CONTENT_BYTES // 256) + b"end"
    sealer = ResponseSealer(KEY, ENC, NONCE)
    data = NONCE + b"".join(sealer.frames(content, last=True))
    frames = frames_of(data)
    assert [frame[0] for frame in frames] == [0, 0, 0, 1]
    assert b"".join(read(data)) == content


@pytest.mark.parametrize("size", [0, 1, 507, 508, 509, 5000])
def test_padding_hides_the_size_within_a_block(size):
    """A padded content is a multiple of the block and no larger than it must be."""
    padded = _pad(b"x" * size)
    assert len(padded) % PADDING_BYTES == 0
    assert len(padded) - size - 4 < PADDING_BYTES
    assert _unpad(padded) == b"x" * size
    assert _unpad(padded + bytes(PADDING_BYTES)) is None
    assert _unpad(padded[:-1]) is None


GOOD = answer(b"head", b"one", b"two", b"")


def test_every_flipped_bit_of_an_answer_is_refused():
    """No bit of nonce, marks, lengths or ciphertexts can change."""
    assert read(GOOD) == [b"head", b"one", b"two", b""]
    for position in range(len(GOOD)):
        changed = bytearray(GOOD)
        changed[position] ^= 1 << (position % 8)
        refused(bytes(changed))


def test_every_truncation_of_an_answer_is_refused():
    """An answer that ends anywhere before its end is cut, also between two frames."""
    for length in range(len(GOOD)):
        refused(GOOD[:length])
    refused(answer(b"head", b"one", last=False))
    refused(GOOD + b"\0")
    refused(GOOD + frames_of(GOOD)[1])


def test_frames_cannot_change_places_or_number():
    """Swapped, dropped and doubled frames do not open in another's place."""
    head, one, two, end = frames_of(GOOD)
    other = NONCE[:-1] + b"o"
    for frames in (
        [head, two, one, end],
        [head, two, end],
        [head, one, two, two, end],
        [one, two, end],
        [head, end],
        [end],
        [],
    ):
        refused(NONCE + b"".join(frames))
    refused(other + b"".join([head, one, two, end]))
    marked = bytes([1]) + one[1:]
    refused(NONCE + head + marked)


def test_a_frame_beyond_the_limit_is_refused_before_it_arrives():
    """A length that no frame may have is not waited for."""
    opener = ResponseOpener(KEY, ENC)
    with pytest.raises(VerificationError):
        list(opener.feed(NONCE + b"\0" + (1 << 31).to_bytes(4, "big")))


@pytest.mark.parametrize(
    "row",
    [b"", b"\xff", [200], [200, "a"], ["200", "a", []], [200, 1, []], [200, "a", {}],
     [200, "a", [["n"]]], [200, "a", [["n", 1]]], [200, "a", ["nv"]]],
)  # fmt: skip
def test_a_head_of_another_form_is_refused(row):
    """The first frame is status, content type and headers, and nothing else."""
    data = row if isinstance(row, bytes) else encode(row)
    with pytest.raises(Error) as caught:
        ResponseHead.decode(data)
    assert caught.value.reason is Reason.CONFIDENTIAL_RESPONSE_INVALID
    head = ResponseHead(200, "a", [("n", "v")])
    assert ResponseHead.decode(head.encode()) == head


def test_nothing_secret_is_shown():
    """The text form of a request names neither prompt nor key."""
    assert repr(ConfidentialRequest(b"prompt", {}, 0, KEY)) == "ConfidentialRequest()"
