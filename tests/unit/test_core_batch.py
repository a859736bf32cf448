"""One signature for many envelopes: each stands alone, and nothing but the batch verifies."""

from __future__ import annotations

import pytest
from nacl.signing import VerifyKey

from verispect.attesters.signer import SoftwareSigner
from verispect.core.batch import MAX_BATCH_STATEMENTS, sign_batch_messages
from verispect.core.envelope import (
    STATEMENT_TYPE,
    open_envelope,
    sign_envelope,
    sign_envelopes,
    signed_bytes,
)
from verispect.core.errors import Reason, VerificationError
from verispect.tlog.merkle import leaf_hashes, root_of
from verispect.tlog.proof import inclusion_root

SIGNER = SoftwareSigner(bytes(range(32)))
KEY = SIGNER.public_key
OTHER = SoftwareSigner(b"o" * 32).public_key


def batch(count: int):
    payloads = [(b"\x19" + number.to_bytes(2, "big"), f"{number:x}") for number in range(count)]
    return sign_envelopes(
        payloads, content_type=STATEMENT_TYPE, issuer="https://issuer.example", signer=SIGNER
    )


@pytest.mark.parametrize("count", [*range(1, 18), 33, 1000, 1023, 1024])
def test_every_envelope_of_a_batch_stands_alone(count):
    """Each verifies from its own bytes, and its path is the log's own kind of proof."""
    envelopes = batch(count)
    root = root_of(leaf_hashes([signed_bytes(each.protected, each.payload) for each in envelopes]))
    signature = envelopes[0].signature[:64]
    message = b"verispect-batch-v1" + count.to_bytes(2, "big") + root
    VerifyKey(KEY.raw).verify(message, signature)
    for index in {0, 1, count // 2, count - 2, count - 1} & set(range(count)):
        envelope = open_envelope(envelopes[index].encode(), content_type=STATEMENT_TYPE)
        envelope.verify(KEY)
        with pytest.raises(VerificationError):
            envelope.verify(OTHER)
        field = envelope.signature
        (leaf,) = leaf_hashes([signed_bytes(envelope.protected, envelope.payload)])
        path = [field[at : at + 32] for at in range(68, len(field), 32)]
        assert inclusion_root(leaf, index, count, path) == root


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_any_changed_byte_of_a_batch_signature_is_refused(count):
    """No byte of signature, count, index or path can be another."""
    messages = [b"message %d" % number for number in range(count)]
    payload = batch(count)[count - 1]
    assert len(sign_batch_messages(messages, SIGNER)[0]) >= 68
    for at in range(len(payload.signature)):
        changed = bytearray(payload.signature)
        changed[at] ^= 1
        data = payload.encode()[: -len(changed)] + bytes(changed)
        with pytest.raises(VerificationError) as failure:
            open_envelope(data, content_type=STATEMENT_TYPE).verify(KEY)
        assert failure.value.reason is Reason.SIGNATURE_INVALID


def test_a_single_signature_is_no_batch_s(monkeypatch):
    """What was signed alone never passes as one of a batch, nor the reverse."""
    single = sign_envelope(
        b"\x00", content_type=STATEMENT_TYPE, issuer="i", subject="s", signer=SIGNER
    )
    (of_one,) = sign_envelopes(
        [(b"\x00", "s")], content_type=STATEMENT_TYPE, issuer="i", signer=SIGNER
    )
    assert single.protected != of_one.protected
    crossed = of_one.encode().replace(of_one.protected, single.protected)
    assert crossed != of_one.encode()
    with pytest.raises(Exception, match="malformed"):
        open_envelope(crossed, content_type=STATEMENT_TYPE)


@pytest.mark.parametrize("count", [0, MAX_BATCH_STATEMENTS + 1])
def test_a_batch_has_a_size(count):
    """None, and more than the limit, is misuse."""
    with pytest.raises(ValueError, match="statements"):
        sign_batch_messages([b""] * count, SIGNER)
