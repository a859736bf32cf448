"""The trusted root: what it finds, what it prints, and how large it may be."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from verispect.appraisal.trusted_root import (
    MAX_KEYS,
    MAX_TRUSTED_ROOT_BYTES,
    AcceptedModel,
    TrustedRoot,
)
from verispect.core.encoding import Digest
from verispect.core.errors import MalformedError, Reason
from verispect.core.keys import PublicKey
from verispect.evidence.interface import IssuerKey

sys.path.insert(0, str(Path(__file__).parents[2] / "vectors"))

import material


def test_printed_root_comes_back():
    """A root that is printed and read again trusts the same things."""
    root = TrustedRoot.from_json(material.trusted_root().encode())
    assert TrustedRoot.from_json(root.to_json()) == root
    assert any(key.revoked_at for key in root.issuer_keys)
    assert any(key.not_after for key in root.issuer_keys)
    assert any(key.development for key in root.issuer_keys)


def test_finds_by_digest_only():
    """Keys and models are found by their digests; anything else is absent."""
    root = TrustedRoot.from_json(material.trusted_root().encode())
    found = root.issuer_key(material.GOOD.public_key.key_id)
    assert found is not None
    assert found.key == material.GOOD.public_key
    assert root.issuer_key(material.UNLISTED.public_key.key_id) is None
    assert root.accepted_model(Digest(hashlib.sha256(b"model").digest())) is not None
    assert root.accepted_model(Digest(bytes(32))) is None


def test_one_model_may_have_several_names():
    """An alias in a registry does not make its trusted root unreadable."""
    digest = Digest(bytes(32))
    root = TrustedRoot([], [AcceptedModel("a", digest), AcceptedModel("b", digest)])
    assert TrustedRoot.from_json(root.to_json()).accepted_model(digest) is not None


def test_key_listed_twice_is_refused_in_code_too():
    """Two entries for one key could contradict each other, so no root holds them."""
    key = PublicKey(bytes(32))
    twice = [IssuerKey("a", key, False, 0), IssuerKey("a", key, False, 0, revoked_at=1)]
    with pytest.raises(MalformedError) as caught:
        TrustedRoot(twice)
    assert caught.value.reason is Reason.MALFORMED_TRUSTED_ROOT


def test_size_and_number_are_limited():
    """A root beyond its limits is refused."""
    with pytest.raises(MalformedError) as caught:
        TrustedRoot.from_json(b" " * (MAX_TRUSTED_ROOT_BYTES + 1))
    assert caught.value.reason is Reason.TOO_LARGE
    with pytest.raises(MalformedError) as caught:
        TrustedRoot.from_json(material.trusted_root(issuerKeys=[0] * (MAX_KEYS + 1)).encode())
    assert caught.value.reason is Reason.MALFORMED_TRUSTED_ROOT
