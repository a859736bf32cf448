"""Links between CPU and GPU evidence: which holds, and that spliced evidence is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from verispect.core.encoding import sha256
from verispect.core.errors import Error, Reason, VerificationError
from verispect.evidence.bindings.interface import Binding
from verispect.evidence.bindings.registry import binding_profile
from verispect.evidence.links import (
    LinkKind,
    check_derived_nonce,
    check_hash_link,
    check_shared_nonce,
)

A, B, C = (bytes([value]) * 32 for value in range(1, 4))
GPU = b'{"evidences": []}'


def _binding(gpu: bytes | None) -> Binding:
    members = {"tls_key_digest": A, "hpke_key": B, "nonce": C}
    if gpu is not None:
        members["gpu_evidence_digest"] = sha256(gpu)
    profile = binding_profile("tinfoil/3")
    return profile.check(members, profile.recompute(members, 64))


def test_each_link_that_holds_says_what_it_shows_and_what_not() -> None:
    """A link is named, and none claims that CPU and GPU sit in one machine."""
    links = [
        check_hash_link(_binding(GPU), GPU),
        check_derived_nonce(A + B, [A, A]),
        check_derived_nonce(A + B, [B], offset=32),
        check_shared_nonce(C, [C, C]),
    ]
    assert [link.kind for link in links] == [
        LinkKind.HASH_IN_REPORT_DATA,
        LinkKind.DERIVED_NONCE,
        LinkKind.DERIVED_NONCE,
        LinkKind.SHARED_NONCE,
    ]
    assert all(any("one machine" in gap for gap in link.not_shown) for link in links)


@pytest.mark.parametrize(
    "check",
    [
        lambda: check_hash_link(_binding(GPU), GPU + b" "),
        lambda: check_hash_link(_binding(None), GPU),
        lambda: check_derived_nonce(A + B, [A, B]),
        lambda: check_derived_nonce(A + B, [A], offset=32),
        lambda: check_derived_nonce(A + B, []),
        lambda: check_shared_nonce(C, [C, A]),
        lambda: check_shared_nonce(C, []),
        lambda: check_shared_nonce(C[:16], [C[:16]]),
    ],
)
def test_spliced_evidence_is_a_broken_binding(check: Callable[[], object]) -> None:
    """GPU evidence of another occasion, or none at all, never links."""
    with pytest.raises(VerificationError) as caught:
        check()
    assert caught.value.reason is Reason.ATTESTATION_BINDING_INVALID


@pytest.mark.parametrize(("data", "offset"), [(A, 0), (A + B, 16), (b"", 0)])
def test_a_field_of_another_length_is_not_cut_to_fit(data: bytes, offset: int) -> None:
    """Only 64 bytes have halves."""
    with pytest.raises(Error):
        check_derived_nonce(data, [data[:32]], offset=offset)
