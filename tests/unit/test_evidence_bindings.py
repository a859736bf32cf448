"""Binding profiles: what each field is made of, and that nothing else makes the same field."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import cbor2
import pytest

from verispect.core.encoding import Digest
from verispect.core.errors import Error, MalformedError, Reason, UnsupportedError, VerificationError
from verispect.core.keys import KeyId
from verispect.evidence.bindings.interface import BindingProfile, Bound
from verispect.evidence.bindings.key_v1 import KEY_V1, KeyBinding
from verispect.evidence.bindings.registry import BINDING_PROFILES, binding_profile
from verispect.evidence.keccak import ethereum_address


def _sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


A, B, C, D, E = (bytes([value]) * 32 for value in range(1, 6))
POINT = bytes(range(64))
ADDRESS = ethereum_address(POINT)
KEY = KeyBinding(receipt_key_id=KeyId(A), epoch=1_700_000_000_000)

# Each field is put together here by hand, with nothing of the profile's own code.
CASES: list[tuple[str, dict[str, bytes], bytes]] = [
    (
        "nitriding/1",
        {"tls_certificate_digest": A, "app_key_digest": B},
        b"\x12\x20" + A + b"\x12\x20" + B,
    ),
    (
        "near/tls-v1",
        {"signing_address": ADDRESS, "tls_fingerprint": B, "nonce": C},
        _sha(ADDRESS + B) + C,
    ),
    ("near/tls-v1", {"signing_address": A, "tls_fingerprint": B, "nonce": C}, _sha(A + B) + C),
    ("venice/1", {"signing_public_key": POINT, "nonce": C}, ADDRESS + bytes(12) + C),
    ("venice/1", {"signing_public_key": b"\x04" + POINT, "nonce": C}, ADDRESS + bytes(12) + C),
    ("nanogpt/1", {"signing_address": ADDRESS, "nonce": C}, ADDRESS + bytes(12) + C),
    (
        "nanogpt/1",
        {"signing_address": ADDRESS, "signing_public_key": POINT, "nonce": C},
        ADDRESS + bytes(12) + C,
    ),
    ("phala/1", {"signing_address": ADDRESS, "nonce": C}, ADDRESS + bytes(12) + C),
    ("phala/1", {"signing_address": A, "nonce": C}, A + C),
    ("dstack/compose-v1", {"app_compose": b"{}"}, b"\x01" + _sha(b"{}") + bytes(15)),
    (
        "chutes/1",
        {"nonce": C, "e2e_public_key": b"a2V5"},
        _sha(C.hex().encode() + b"a2V5") + bytes(32),
    ),
    (
        "tinfoil/3",
        {
            "tls_key_digest": A,
            "hpke_key": B,
            "nonce": C,
            "gpu_evidence_digest": D,
            "nvswitch_evidence_digest": E,
        },
        _sha(A + B + C + D + E) + bytes(32),
    ),
    ("tinfoil/3", {"tls_key_digest": A, "hpke_key": B, "nonce": C}, _sha(A + B + C) + bytes(32)),
    ("secretvm/1", {"tls_spki_digest": A, "gpu_nonce": B}, A + B),
    (
        "gcp-cs/nonce-v1",
        {
            "session_id": A,
            "model_digest": B,
            "input_commitment": C,
            "output_commitment": D,
        },
        _sha(_sha(b"NEUROLIX/attestation/nonce/v1") + A + B + C + D).hex().encode(),
    ),
]


@pytest.mark.parametrize(("name", "members", "field"), CASES)
def test_each_field_is_recomputed_from_its_members(
    name: str, members: dict[str, bytes], field: bytes
) -> None:
    """The field that was put together by hand is the one that the profile accepts."""
    binding = binding_profile(name).check(members, field)
    assert binding.profile == name
    assert binding.binds
    assert binding.not_bound


@pytest.mark.parametrize(("name", "members", "field"), CASES)
def test_every_member_and_every_bound_byte_counts(
    name: str, members: dict[str, bytes], field: bytes
) -> None:
    """Another value of any member, or another byte of the field, is another binding."""
    profile = binding_profile(name)
    for member, value in members.items():
        changed = {**members, member: value[:-1] + bytes([value[-1] ^ 1])}
        with pytest.raises(Error):
            profile.check(changed, field)
    bound = 32 if name == "chutes/1" else len(field)
    for place in range(bound):
        spoilt = bytearray(field)
        spoilt[place] ^= 1
        with pytest.raises(VerificationError) as caught:
            profile.check(members, bytes(spoilt))
        assert caught.value.reason is Reason.ATTESTATION_BINDING_INVALID


@pytest.mark.parametrize("name", sorted(BINDING_PROFILES))
def test_missing_unknown_and_misshapen_members_are_malformed(name: str) -> None:
    """A profile is never computed from less, more or other than it has."""
    profile = BINDING_PROFILES[name]
    good = {
        member.name: bytes(min(member.sizes) if member.sizes else 4) for member in profile.members
    }
    width = max(profile.widths)
    for member in profile.members:
        if member.required:
            _malformed(profile, {k: v for k, v in good.items() if k != member.name}, width)
        _malformed(profile, {**good, member.name: b""}, width)
        _malformed(profile, {**good, member.name: bytes(64 * 1024 + 1)}, width)
    _malformed(profile, {**good, "something_else": A}, width)
    _malformed(profile, good, width + 1)


def _malformed(profile: BindingProfile, members: dict[str, bytes], width: int) -> None:
    with pytest.raises(MalformedError):
        profile.recompute(members, width)


def test_every_profile_is_tested() -> None:
    """The table above covers the registry but for our own profiles, which have their own tests."""
    assert {name for name, _, _ in CASES} == {
        name for name in BINDING_PROFILES if not name.startswith("verispect/")
    }


def test_an_unknown_profile_is_unsupported_and_never_a_pass() -> None:
    """A binding that nobody here knows is could-not-tell."""
    with pytest.raises(UnsupportedError) as caught:
        binding_profile("tinfoil/4")
    assert caught.value.reason is Reason.UNSUPPORTED_EVIDENCE


def test_switch_evidence_never_stands_in_for_gpu_evidence() -> None:
    """In a layout without tags, a digest of one kind cannot pass for one of another."""
    profile = binding_profile("tinfoil/3")
    members = {"tls_key_digest": A, "hpke_key": B, "nonce": C, "nvswitch_evidence_digest": D}
    with pytest.raises(MalformedError):
        profile.check(members, _sha(A + B + C + D) + bytes(32))


def test_an_address_of_another_key_is_malformed() -> None:
    """Where a service gives key and address, they have to belong together."""
    members = {"signing_address": A[:20], "signing_public_key": POINT, "nonce": C}
    with pytest.raises(MalformedError):
        binding_profile("nanogpt/1").check(members, A[:20] + bytes(12) + C)


# -- Our own profile -----------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "algorithm"), [(64, "sha512"), (32, "sha256")])
def test_our_field_is_what_the_specification_says(width: int, algorithm: str) -> None:
    """A tag, a zero byte and deterministic CBOR of the members, hashed for the field's width."""
    binding = replace(KEY, nonce=b"n" * 16, gpu_evidence_digest=Digest(B))
    content = {
        "epoch": 1_700_000_000_000,
        "nonce": b"n" * 16,
        "profile": "verispect/key-v1",
        "receipt_key_id": A,
        "gpu_evidence_digest": B,
    }
    message = b"verispect/key-v1\x00" + cbor2.dumps(content, canonical=True)
    assert binding.field(width) == hashlib.new(algorithm, message).digest()


def test_our_profile_binds_what_was_given_and_says_what_was_not() -> None:
    """Absent members are listed as not bound; the signing key is always bound."""
    binding = KEY_V1.check(KEY.members(), KEY.field(64))
    assert binding.binds == {Bound.SIGNING_KEY}
    assert any(line.startswith("nonce") for line in binding.not_bound)
    assert any(line.startswith("gpu-evidence") for line in binding.not_bound)


def test_no_two_sets_of_members_share_a_field() -> None:
    """A digest that moves to another member, or a nonce that is left out, is another field."""
    bindings = [
        KEY,
        replace(KEY, epoch=KEY.epoch + 1),
        replace(KEY, nonce=B),
        replace(KEY, hpke_key_digest=Digest(B)),
        replace(KEY, tls_spki_digest=Digest(B)),
        replace(KEY, gpu_evidence_digest=Digest(B)),
        replace(KEY, model_manifest_digest=Digest(B)),
        replace(KEY, receipt_key_id=KeyId(B)),
    ]
    for width in (32, 64):
        assert len({binding.field(width) for binding in bindings}) == len(bindings)


def test_a_field_of_one_binding_is_refused_for_another() -> None:
    """Evidence of one key is not evidence of another."""
    other = replace(KEY, receipt_key_id=KeyId(B))
    with pytest.raises(VerificationError) as caught:
        KEY_V1.check(other.members(), KEY.field(64))
    assert caught.value.reason is Reason.ATTESTATION_BINDING_INVALID
