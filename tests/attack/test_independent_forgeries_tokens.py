"""Tokens of NVIDIA's and Google's verifiers, forged with own keys and spoilt one claim at a time.

The forger's root is trusted wherever only one claim is spoilt, so that nothing else refuses it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from independent_keys import Issued, b64url, issue, p384, point, token

from verispect.core.errors import Reason
from verispect.evidence.attestation import (
    Anchor,
    AttestationAppraisal,
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Expectation,
)
from verispect.evidence.technologies import appraise_evidence

NOW = 1_750_000_000
AT = (NOW + 60) * 1000
NONCE = b"n" * 32
NVIDIA, GOOGLE = "nvidia-nras", "gcp-confidential-space"
EVERY_CLASS = AttestationPolicy(accepted_classes=frozenset(EvidenceClass))
ABSENT: Any = object()
SIGNATURE, ROOT = Reason.ATTESTATION_SIGNATURE_INVALID, Reason.ATTESTATION_ROOT_UNTRUSTED
BINDING, MALFORMED = Reason.ATTESTATION_BINDING_INVALID, Reason.MALFORMED_EVIDENCE
NEGATIVE = Reason.ATTESTATION_NEGATIVE


class Authority:
    """A root, an intermediate and a signer, with names that look right."""

    def __init__(self, *names: str, google: bool = False) -> None:
        def key() -> Any:
            return rsa.generate_private_key(65537, 2048) if google else p384()

        self.root = issue(names[0], None, ca=True, key=key())
        self.middle = issue(names[1], self.root, ca=True, key=key())
        self.leaf = issue(names[2], self.middle, key=key())
        self.chain = (self.leaf, self.middle, self.root)


def _nvidia() -> Authority:
    return Authority(
        "NVIDIA Attestation Service Root", "NVIDIA Attestation Service GPU Intermediate 004", "eat"
    )


def _google() -> Authority:
    return Authority(
        "Confidential Space Root CA", "Confidential Space Intermediate CA", "leaf", google=True
    )


@pytest.fixture(scope="module")
def nvidia() -> Authority:
    return _nvidia()


@pytest.fixture(scope="module")
def google() -> Authority:
    return _google()


def appraise(technology: str, anchors: list[Anchor] | None, **files: bytes) -> AttestationAppraisal:
    return appraise_evidence(
        technology,
        files,
        anchors=anchors,
        expected=Expectation(nonce=NONCE, audience="me" if technology == GOOGLE else None),
        policy=EVERY_CLASS,
        at=AT,
    )


def assert_refused(appraisal: AttestationAppraisal, *reasons: Reason) -> None:
    assert appraisal.verdict is AttestationVerdict.REJECT
    assert not appraisal.acceptable
    assert appraisal.reason in reasons


# -- NVIDIA's service -----------------------------------------------------------------------------

HEADER = {"alg": "ES384", "kid": "k", "typ": "JWT"}


def _x5c(chain: tuple[Issued, ...]) -> list[str]:
    return [base64.b64encode(certificate.der).decode() for certificate in chain]


def _jwk(signer: Issued, chain: tuple[Issued, ...]) -> dict[str, Any]:
    xy = point(signer.key)
    half = len(xy) // 2
    return {"kty": "EC", "crv": "P-384", "kid": "k", "x": b64url(xy[:half]), "y": b64url(xy[half:]),
            "x5c": _x5c(chain)}  # fmt: skip


def _keys(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def _times() -> dict[str, Any]:
    return {"iss": "https://nras.attestation.nvidia.com", "iat": NOW, "nbf": NOW,
            "exp": NOW + 3600, "eat_nonce": NONCE.hex()}  # fmt: skip


def _device(**changes: Any) -> dict[str, Any]:
    claims = {**_times(), "measres": "success", "secboot": True, "dbgstat": "disabled", "ueid": "1"}
    return claims | changes


def _bundle(
    authority: Authority, devices: dict[str, Any], header: Any = HEADER, **overall: Any
) -> bytes:
    """Return a bundle whose overall token lists exactly these devices, unless told otherwise."""
    tokens = {name: token(header, claims, authority.leaf.key) for name, claims in devices.items()}
    listed = {
        name: ["DIGEST", ["SHA-256", hashlib.sha256(text).hexdigest()]]
        for name, text in tokens.items()
    }
    claims = {**_times(), "x-nvidia-overall-att-result": True, "submods": listed} | overall
    whole = token(header, claims, authority.leaf.key).decode()
    return json.dumps([["JWT", whole], {n: t.decode() for n, t in tokens.items()}]).encode()


def _ask_nvidia(
    authority: Authority, text: bytes, jwks: bytes | None = None
) -> AttestationAppraisal:
    jwks = _keys(_jwk(authority.leaf, authority.chain)) if jwks is None else jwks
    return appraise(NVIDIA, [authority.root.anchor(NVIDIA)], token=text, jwks=jwks)


def test_the_nvidia_forger_is_able(nvidia: Authority) -> None:
    """Two different devices under a trusted root are accepted, and under NVIDIA's are nobody's."""
    good = _bundle(nvidia, {"GPU-0": _device(), "GPU-1": _device(ueid="2")})
    assert _ask_nvidia(nvidia, good).verdict is AttestationVerdict.ACCEPT
    jwks = _keys(_jwk(nvidia.leaf, nvidia.chain))
    assert_refused(appraise(NVIDIA, None, token=good, jwks=jwks), ROOT)
    other = [nvidia.root.anchor("nvidia-gpu"), nvidia.root.anchor("nvidia-rim")]
    assert_refused(appraise(NVIDIA, other, token=good, jwks=jwks), ROOT)


def test_one_device_is_not_two(nvidia: Authority) -> None:
    """A positive bundle in which one device stands twice is refused as a broken binding."""
    twice = _bundle(nvidia, {"GPU-0": _device(), "GPU-1": _device()})
    assert_refused(_ask_nvidia(nvidia, twice), BINDING)


@pytest.mark.parametrize(
    ("claim", "value", "reason"),
    [
        ("measres", "fail", NEGATIVE),
        ("measres", True, NEGATIVE),
        ("measres", ["success"], NEGATIVE),
        ("measres", {}, NEGATIVE),
        ("secboot", "true", Reason.ATTESTATION_ATTRIBUTES),
        ("secboot", 1, Reason.ATTESTATION_ATTRIBUTES),
        ("dbgstat", "enabled", Reason.ATTESTATION_DEBUG),
        ("dbgstat", "Disabled", Reason.ATTESTATION_DEBUG),
        ("x-nvidia-gpu-attestation-report-signature-verified", False, NEGATIVE),
        ("x-nvidia-gpu-attestation-report-nonce-match", "true", NEGATIVE),
        ("eat_nonce", "00" * 32, BINDING),
        ("iss", "https://nras.attestation.nvidia.com/", Reason.ATTESTATION_ATTRIBUTES),
        ("exp", NOW + 1, Reason.ATTESTATION_EXPIRED),
        ("exp", NOW + 3600.0, MALFORMED),
        ("exp", str(NOW + 3600), MALFORMED),
        ("exp", 1 << 70, MALFORMED),
        ("nbf", NOW + 600, Reason.ATTESTATION_NOT_YET_VALID),
    ],
)
def test_a_validly_signed_device_that_is_not_good_is_refused(
    nvidia: Authority, claim: str, value: Any, reason: Reason
) -> None:
    """A device's token that is signed but bad, odd or out of date refuses the whole bundle."""
    bundle = _bundle(nvidia, {"GPU-0": _device(**{claim: value})})
    assert_refused(_ask_nvidia(nvidia, bundle), reason)


@pytest.mark.parametrize("value", [False, 1, "true", [True], None])
def test_an_overall_result_that_is_not_true_is_negative(nvidia: Authority, value: Any) -> None:
    """Only `true` is a positive overall result, whatever the devices say."""
    bundle = _bundle(nvidia, {"GPU-0": _device()}, **{"x-nvidia-overall-att-result": value})
    assert_refused(_ask_nvidia(nvidia, bundle), NEGATIVE)


def test_a_result_about_nothing_is_negative(nvidia: Authority) -> None:
    """An overall result without a device, or with a bad one in the same token, is refused."""
    nothing = _times() | {"x-nvidia-overall-att-result": True, "submods": {}}
    assert_refused(_ask_nvidia(nvidia, token(HEADER, nothing, nvidia.leaf.key)), NEGATIVE)
    hidden = nothing | _device(measres="fail")
    assert_refused(_ask_nvidia(nvidia, token(HEADER, hidden, nvidia.leaf.key)), NEGATIVE)


def test_devices_are_exactly_those_listed(nvidia: Authority) -> None:
    """A device too many, too few or under another digest is refused as a broken binding."""
    other = ["DIGEST", ["SHA-256", "00" * 32]]
    for listed in ({}, {"GPU-0": other}, {"GPU-1": other}):
        bundle = _bundle(nvidia, {"GPU-0": _device()}, submods=listed)
        assert_refused(_ask_nvidia(nvidia, bundle), BINDING)


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"}, {"alg": "None"}, {"alg": "HS256"}, {"alg": "RS256"}, {"alg": "ES256"},
        {"alg": ["ES384"]}, {"jku": "https://example.org"}, {"jwk": {}}, {"x5c": []},
        {"crit": ["b64"], "b64": False},
    ],
)  # fmt: skip
def test_the_token_chooses_neither_algorithm_nor_key(
    nvidia: Authority, header: dict[str, Any]
) -> None:
    """A header with another algorithm, a key or critical parameters is refused as unsigned."""
    bundle = _bundle(nvidia, {"GPU-0": _device()}, HEADER | header)
    assert_refused(_ask_nvidia(nvidia, bundle), SIGNATURE)


def test_keys_count_only_through_their_own_certificates(nvidia: Authority) -> None:
    """Own keys under an own, a spliced or a stolen chain, or beside the good key, are refused."""
    evil = _nvidia()
    text = token(HEADER, _device(), evil.leaf.key)
    for chain, reason in (
        (evil.chain, ROOT),
        ((evil.leaf, evil.middle, nvidia.root), SIGNATURE),
        (nvidia.chain, BINDING),
    ):
        assert_refused(_ask_nvidia(nvidia, text, _keys(_jwk(evil.leaf, chain))), reason)
    both = _keys(_jwk(nvidia.leaf, nvidia.chain), _jwk(evil.leaf, evil.chain))
    assert_refused(_ask_nvidia(nvidia, text, both), MALFORMED)
    below = issue("eat", nvidia.leaf, key=p384())
    longer = _keys(_jwk(below, (below, *nvidia.chain)))
    assert_refused(_ask_nvidia(nvidia, token(HEADER, _device(), below.key), longer), ROOT)


def test_a_token_has_one_spelling(nvidia: Authority) -> None:
    """Padding, white space, duplicate members, sixteen megabytes and deep nesting are malformed."""
    good = token(HEADER, _device(), nvidia.leaf.key)
    assert _ask_nvidia(nvidia, good).verdict is AttestationVerdict.ACCEPT
    claims = json.dumps(_device())[:-1]
    key = nvidia.leaf.key
    for bad in (
        good + b"=", b" " + good, good + b"\r\n", good + b".e30", good.replace(b".", b". ", 1),
        token('{"alg":"ES384","alg":"none","kid":"k"}', _device(), key),
        token(HEADER, claims + ',"measres":"success"}', key),
        token(HEADER, claims + ',"meas\\u0072es":"fail"}', key),
        token(HEADER, claims + ',"x":1e999}', key),
        token(HEADER, claims + ',"x":' + "[" * 5000 + "]" * 5000 + "}", key),
        b"a" * (1 << 24), b"[" * (1 << 19), b"[]", b'[["JWT",null],{}]', b"..", b"",
    ):  # fmt: skip
        assert_refused(_ask_nvidia(nvidia, bad), MALFORMED)


# -- Google's verifier ----------------------------------------------------------------------------


def _claims(**changes: Any) -> dict[str, Any]:
    claims = {
        "iss": "https://confidentialcomputing.googleapis.com", "aud": "me", "sub": "s",
        "iat": NOW, "nbf": NOW, "exp": NOW + 3600, "eat_nonce": [NONCE.decode()], "secboot": True,
        "dbgstat": "disabled-since-boot", "swname": "CONFIDENTIAL_SPACE", "swversion": ["250101"],
        "hwmodel": "GCP_INTEL_TDX",
        "submods": {
            "confidential_space": {"support_attributes": ["STABLE", "USABLE"]},
            "container": {"image_digest": "sha256:" + "ab" * 32},
        },
    } | changes  # fmt: skip
    return {name: value for name, value in claims.items() if value is not ABSENT}


def _space(authority: Authority, **changes: Any) -> dict[str, Any]:
    return {"alg": "RS256", "typ": "JWT", "x5c": _x5c(authority.chain)} | changes


def _ask_google(authority: Authority, text: bytes) -> AttestationAppraisal:
    return appraise(GOOGLE, [authority.root.anchor(GOOGLE)], token=text)


def test_the_google_forger_is_able(google: Authority) -> None:
    """A whole token under a trusted root is accepted, and under Google's is nobody's."""
    good = token(_space(google), _claims(), google.leaf.key)
    assert _ask_google(google, good).verdict is AttestationVerdict.ACCEPT
    assert_refused(appraise(GOOGLE, None, token=good), ROOT)
    assert_refused(appraise(GOOGLE, [google.root.anchor(NVIDIA)], token=good), ROOT)


@pytest.mark.parametrize(
    ("claim", "value", "reason"),
    [
        ("aud", ["me"], MALFORMED),
        ("aud", "you", BINDING),
        ("aud", ABSENT, BINDING),
        ("iss", "https://confidentialcomputing.googleapis.com/", ROOT),
        ("iss", ABSENT, ROOT),
        ("eat_nonce", 5, MALFORMED),
        ("eat_nonce", {"n": 1}, MALFORMED),
        ("eat_nonce", [["n" * 32]], MALFORMED),
        ("eat_nonce", ["n" * 32] * 7, MALFORMED),
        ("eat_nonce", ["m" * 32], Reason.ATTESTATION_NONCE_MISMATCH),
        ("eat_nonce", ABSENT, Reason.ATTESTATION_NONCE_MISMATCH),
        ("dbgstat", "enabled", Reason.ATTESTATION_DEBUG),
        ("dbgstat", "Disabled-Since-Boot", Reason.ATTESTATION_DEBUG),
        ("dbgstat", ["disabled-since-boot"], MALFORMED),
        ("exp", NOW + 3600.0, MALFORMED),
        ("exp", str(NOW + 3600), MALFORMED),
        ("exp", True, MALFORMED),
        ("exp", 1 << 80, MALFORMED),
        ("exp", NOW + 1, Reason.ATTESTATION_EXPIRED),
        ("nbf", NOW + 600, Reason.ATTESTATION_NOT_YET_VALID),
        ("iat", NOW + 600, Reason.ATTESTATION_NOT_YET_VALID),
        ("secboot", "true", MALFORMED),
        ("hwmodel", "GCP_SHIELDED_VM", Reason.ATTESTATION_ATTRIBUTES),
        ("swname", "GCE", Reason.ATTESTATION_ATTRIBUTES),
        ("submods", [], Reason.ATTESTATION_ATTRIBUTES),
    ],
)
def test_a_validly_signed_claim_that_is_wrong_is_refused(
    google: Authority, claim: str, value: Any, reason: Reason
) -> None:
    """A token that is signed but says the wrong thing, or in the wrong type, is refused."""
    text = token(_space(google), _claims(**{claim: value}), google.leaf.key)
    assert_refused(_ask_google(google, text), reason)


@pytest.mark.parametrize("alg", ["none", "HS256", "PS256", "ES256", "rs256", None, ["RS256"]])
def test_only_rs256_signs_a_space(google: Authority, alg: Any) -> None:
    """Any other algorithm in the header is refused as unsigned."""
    assert_refused(
        _ask_google(google, token(_space(google, alg=alg), _claims(), google.leaf.key)), SIGNATURE
    )


def test_a_path_of_certificates_is_not_arranged_at_will(google: Authority) -> None:
    """Own roots of the same name, spliced, reversed, doubled and lengthened paths are refused."""
    evil = _google()
    leaf, middle, root = google.chain
    longer = issue("leaf", leaf, key=evil.leaf.key)
    for chain, reason in (
        (evil.chain, ROOT),
        ((*evil.chain, root), SIGNATURE),
        ((evil.leaf, evil.middle, root), SIGNATURE),
        (google.chain, SIGNATURE),
        ((root, middle, leaf), ROOT),
        ((leaf, middle), ROOT),
        ((longer, *google.chain), ROOT),
    ):
        header = _space(google, x5c=_x5c(chain))
        assert_refused(_ask_google(google, token(header, _claims(), evil.leaf.key)), reason)


def test_a_key_set_vouches_for_nothing(google: Authority) -> None:
    """Own keys, two keys of one name and keys of another kind in a JWKS are refused."""
    evil = _google()

    def jwk(key: Any, **changes: Any) -> dict[str, Any]:
        modulus = key.public_key().public_numbers().n.to_bytes(256, "big")
        return {"kty": "RSA", "kid": "k", "n": b64url(modulus), "e": "AQAB"} | changes

    anchors = [google.leaf.anchor(GOOGLE)]
    good, bad = jwk(google.leaf.key), jwk(evil.leaf.key)
    header = {"alg": "RS256", "kid": "k"}
    honest = token(header, _claims(), google.leaf.key)
    forged = token(header, _claims(), evil.leaf.key)
    accepted = appraise(GOOGLE, anchors, token=honest, jwks=_keys(good))
    assert accepted.verdict is AttestationVerdict.ACCEPT
    ec = {"kty": "EC", "kid": "k", "crv": "P-256", "x": "AA", "y": "AA"}
    for text, keys, reason in (
        (forged, [bad], ROOT),
        (forged, [good], SIGNATURE),
        (forged, [good, bad], ROOT),
        (honest, [good, good], ROOT),
        (honest, [ec], MALFORMED),
        (honest, [good | {"use": "enc"}], MALFORMED),
        (honest, [good | {"e": "AQ"}], MALFORMED),
        (honest, [good | {"n": [1]}], MALFORMED),
        (token(header | {"kid": ["k"]}, _claims(), google.leaf.key), [good], MALFORMED),
    ):
        found = appraise(GOOGLE, anchors, token=text, jwks=_keys(*keys))
        assert found.verdict is AttestationVerdict.REJECT
        assert found.reason in (reason, Reason.MALFORMED_JSON)
