"""Confidential Space tokens: what a good one shows, and the one check that each bad one fails."""

from __future__ import annotations

import json
from typing import Any

import pytest

from confidential_space_forge import (
    AT,
    AUDIENCE,
    DIGEST,
    NONCE,
    SECONDS,
    anchors,
    claims,
    jwks,
    token,
)
from verispect.core.encoding import from_base64url, to_base64url
from verispect.core.errors import Reason
from verispect.evidence.attestation import (
    Anchor,
    AttestationAppraisal,
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Expectation,
    TrustClaim,
)
from verispect.evidence.confidential_space import (
    GENUINE_ANCHORS,
    ConfidentialSpaceEvidence,
    appraise_confidential_space,
)

LENIENT = AttestationPolicy(accepted_classes=frozenset(EvidenceClass))
KNOWN = Expectation(nonce=NONCE, audience=AUDIENCE)


def appraise(
    data: bytes,
    *,
    key_set: bytes | None = None,
    trusted: tuple[Anchor, ...] | None = None,
    expected: Expectation = KNOWN,
    policy: AttestationPolicy = LENIENT,
    at: int = AT,
) -> AttestationAppraisal:
    """Appraise a token under our own root."""
    return appraise_confidential_space(
        ConfidentialSpaceEvidence(data, key_set),
        anchors=anchors() if trusted is None else trusted,
        expected=expected,
        policy=policy,
        at=at,
    )


def refused(data: bytes, **arguments: Any) -> Reason | None:
    """Return the reason of an appraisal that must be a refusal."""
    appraisal = appraise(data, **arguments)
    assert appraisal.verdict is AttestationVerdict.REJECT
    assert not appraisal.acceptable
    return appraisal.reason


def submods(**changes: Any) -> dict[str, Any]:
    """Return claims whose submodules differ."""
    good = claims()["submods"]
    return claims(submods={name: changes.get(name, value) for name, value in good.items()})


def test_a_good_token_is_accepted_and_labelled_by_its_anchor() -> None:
    """Facts, class and what was not checked of a token that passes everything."""
    appraisal = appraise(token())
    assert appraisal.verdict is AttestationVerdict.ACCEPT
    assert appraisal.evidence_class is EvidenceClass.DEVELOPMENT
    assert appraisal.facts["image_digest"] == DIGEST
    assert appraisal.facts["eat_nonce"] == [NONCE.hex()]
    assert appraisal.trust_vector[TrustClaim.HARDWARE] == 2
    assert any("own report" in line for line in appraisal.not_checked)


def test_the_workloads_environment_is_never_repeated() -> None:
    """Tokens carry environment variables, which may be secrets."""
    assert "do-not-repeat" not in json.dumps(appraise(token()).to_json())


def test_a_token_under_another_root_is_refused_by_default() -> None:
    """The genuine root is pinned by key; names count for nothing."""
    assert refused(token(), trusted=GENUINE_ANCHORS) is Reason.ATTESTATION_ROOT_UNTRUSTED


def test_development_evidence_is_refused_by_the_default_policy() -> None:
    """An anchor of the caller's does not lift the class."""
    assert refused(token(), policy=AttestationPolicy()) is Reason.ATTESTATION_CLASS_REFUSED


@pytest.mark.parametrize("technology", ["aws-nitro", "nvidia-nras"])
def test_an_anchor_for_another_technology_is_none_here(technology: str) -> None:
    """A root is trusted for what it is trusted for."""
    (anchor,) = anchors()
    other = Anchor(technology, anchor.key_digest, anchor.evidence_class, anchor.label)
    assert refused(token(), trusted=(other,)) is Reason.ATTESTATION_ROOT_UNTRUSTED


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"signed_by": "stranger"}, Reason.ATTESTATION_SIGNATURE_INVALID),
        ({"leaf_signed_by": "stranger"}, Reason.ATTESTATION_SIGNATURE_INVALID),
        ({"intermediate_signed_by": "stranger"}, Reason.ATTESTATION_SIGNATURE_INVALID),
        ({"root": "stranger"}, Reason.ATTESTATION_ROOT_UNTRUSTED),
        ({"intermediate_is_ca": False}, Reason.ATTESTATION_ROOT_UNTRUSTED),
        ({"leaf_days": (-10, -1)}, Reason.ATTESTATION_EXPIRED),
        ({"leaf_days": (1, 9)}, Reason.ATTESTATION_NOT_YET_VALID),
        ({"header": {"alg": "none"}}, Reason.ATTESTATION_SIGNATURE_INVALID),
        ({"header": {"alg": "HS256"}}, Reason.ATTESTATION_SIGNATURE_INVALID),
        ({"header": {"alg": "PS256"}}, Reason.ATTESTATION_SIGNATURE_INVALID),
        ({"header": {"alg": None}}, Reason.ATTESTATION_SIGNATURE_INVALID),
        ({"header": {"crit": ["exp"]}}, Reason.ATTESTATION_SIGNATURE_INVALID),
        ({"header": {"x5c": []}}, Reason.MALFORMED_EVIDENCE),
        ({"header": {"x5c": ["AAAA", "AAAA"]}}, Reason.MALFORMED_EVIDENCE),
        ({"header": {"x5c": "AAAA"}}, Reason.MALFORMED_EVIDENCE),
        ({"with_path": False}, Reason.ATTESTATION_ROOT_UNTRUSTED),
    ],
)
def test_what_is_wrong_with_signature_or_path_refuses(
    changes: dict[str, Any], reason: Reason
) -> None:
    """Each of these is a forgery of one thing."""
    assert refused(token(**changes)) is reason


def test_an_unsigned_token_is_refused_as_unsigned() -> None:
    """`alg` none with an empty signature is no signature, and HS256 under the public key none."""
    header, payload, _ = token(header={"alg": "none"}).split(b".")
    assert refused(header + b"." + payload + b".") is Reason.ATTESTATION_SIGNATURE_INVALID


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "https://accounts.google.com"}, Reason.ATTESTATION_ROOT_UNTRUSTED),
        ({"iss": None}, Reason.ATTESTATION_ROOT_UNTRUSTED),
        ({"aud": "https://somebody-else.example"}, Reason.ATTESTATION_BINDING_INVALID),
        ({"aud": [AUDIENCE]}, Reason.MALFORMED_EVIDENCE),
        ({"exp": SECONDS}, Reason.ATTESTATION_EXPIRED),
        ({"exp": None}, Reason.MALFORMED_EVIDENCE),
        ({"exp": 1e300}, Reason.MALFORMED_EVIDENCE),
        ({"exp": True}, Reason.MALFORMED_EVIDENCE),
        ({"nbf": SECONDS + 1}, Reason.ATTESTATION_NOT_YET_VALID),
        ({"iat": SECONDS + 1}, Reason.ATTESTATION_NOT_YET_VALID),
        ({"dbgstat": "enabled"}, Reason.ATTESTATION_DEBUG),
        ({"dbgstat": None}, Reason.ATTESTATION_DEBUG),
        ({"secboot": False}, Reason.ATTESTATION_ATTRIBUTES),
        ({"secboot": "true"}, Reason.MALFORMED_EVIDENCE),
        ({"swname": "GCE"}, Reason.ATTESTATION_ATTRIBUTES),
        ({"hwmodel": "GCP_SHIELDED_VM"}, Reason.ATTESTATION_ATTRIBUTES),
        ({"hwmodel": None}, Reason.ATTESTATION_ATTRIBUTES),
        ({"eat_nonce": []}, Reason.ATTESTATION_NONCE_MISMATCH),
        ({"eat_nonce": None}, Reason.ATTESTATION_NONCE_MISMATCH),
        ({"eat_nonce": "00" * 32}, Reason.ATTESTATION_NONCE_MISMATCH),
        ({"eat_nonce": ["short"]}, Reason.MALFORMED_EVIDENCE),
        ({"eat_nonce": ["x" * 89]}, Reason.MALFORMED_EVIDENCE),
        ({"eat_nonce": [NONCE.hex()] * 7}, Reason.MALFORMED_EVIDENCE),
        ({"eat_nonce": [1]}, Reason.MALFORMED_EVIDENCE),
        ({"submods": None}, Reason.ATTESTATION_ATTRIBUTES),
        ({"submods": []}, Reason.ATTESTATION_ATTRIBUTES),
    ],
)
def test_what_is_wrong_with_a_claim_refuses(changes: dict[str, Any], reason: Reason) -> None:
    """Each claim is held to its value, correctly signed as it may be."""
    assert refused(token(claims=claims(**changes))) is reason


@pytest.mark.parametrize(
    "attributes",
    [{}, {"support_attributes": ["USABLE"]}, {"support_attributes": ["EXPERIMENTAL"]}],
)
def test_an_image_that_is_not_stable_is_refused(attributes: dict[str, Any]) -> None:
    """Only a supported production image counts."""
    changed = submods(confidential_space=attributes)
    assert refused(token(claims=changed)) is Reason.ATTESTATION_ATTRIBUTES


def test_a_container_without_digest_is_refused() -> None:
    """A name of an image says nothing about what ran."""
    changed = submods(container={"image_reference": "registry.example/workload:latest"})
    assert refused(token(claims=changed)) is Reason.ATTESTATION_ATTRIBUTES


def test_a_debug_image_is_accepted_only_where_the_policy_allows_it() -> None:
    """And then it is shown as debug, with a warning in the trust vector."""
    policy = AttestationPolicy(allow_debug=True, accepted_classes=frozenset(EvidenceClass))
    changed = submods(confidential_space={}) | {"dbgstat": "enabled"}
    appraisal = appraise(token(claims=changed), policy=policy)
    assert appraisal.verdict is AttestationVerdict.ACCEPT
    assert appraisal.facts["debug"] is True
    assert appraisal.trust_vector[TrustClaim.CONFIGURATION] == 32


@pytest.mark.parametrize("text", [NONCE.hex(), to_base64url(NONCE)])
@pytest.mark.parametrize("wrap", [lambda text: text, lambda text: ["another-nonce", text]])
def test_a_nonce_stands_as_text_alone_or_among_others(text: str, wrap: Any) -> None:
    """Hexadecimal and base64url are one nonce; one text is a list of one."""
    appraisal = appraise(token(claims=claims(eat_nonce=wrap(text))))
    assert appraisal.verdict is AttestationVerdict.ACCEPT


def test_a_nonce_of_text_is_compared_as_text() -> None:
    """A service may give the bytes of a text."""
    data = token(claims=claims(eat_nonce="a-nonce-in-words"))
    known = Expectation(nonce=b"a-nonce-in-words", audience=AUDIENCE)
    assert appraise(data, expected=known).verdict is AttestationVerdict.ACCEPT


def test_without_nonce_and_audience_the_gaps_are_said() -> None:
    """What the caller did not give was not checked."""
    appraisal = appraise(token(), expected=Expectation())
    assert appraisal.verdict is AttestationVerdict.ACCEPT
    assert any("freshness" in line for line in appraisal.not_checked)
    assert any("audience" in line for line in appraisal.not_checked)


@pytest.mark.parametrize(
    ("name", "value", "good"),
    [
        ("image_digest", "ab" * 32, True),
        ("image_digest", DIGEST, True),
        ("image_digest", "cd" * 32, False),
        ("hwmodel", "gcp_intel_tdx", True),
        ("hwmodel", "gcp_amd_sev", False),
        ("image_id", "ab" * 32, False),
        ("swversion", "250101", True),
        ("unknown", "ab" * 32, False),
    ],
)
def test_measurements_are_compared_and_absent_ones_fail(name: str, value: str, good: bool) -> None:
    """A register that is named and not in the token fails."""
    expected = Expectation(nonce=NONCE, audience=AUDIENCE, measurements={name: frozenset({value})})
    if good:
        assert appraise(token(), expected=expected).verdict is AttestationVerdict.ACCEPT
    else:
        reason = refused(token(), expected=expected)
        assert reason is Reason.ATTESTATION_MEASUREMENT_MISMATCH


def test_an_old_token_is_not_fresh() -> None:
    """A policy may ask for less than the token's own hour."""
    policy = AttestationPolicy(maximum_age_seconds=59, accepted_classes=frozenset(EvidenceClass))
    assert refused(token(), policy=policy) is Reason.ATTESTATION_NOT_FRESH


def test_a_policy_that_requires_revocation_refuses() -> None:
    """No list is ever at hand here, and a requirement is not a wish."""
    policy = AttestationPolicy(require_revocation=True, accepted_classes=frozenset(EvidenceClass))
    assert refused(token(), policy=policy) is Reason.EVIDENCE_MISSING


# -- OIDC ----------------------------------------------------------------------------------------


def test_a_token_with_a_key_set_is_good_where_its_key_is_an_anchor() -> None:
    """The set is kept beside the token, and the caller trusts its key."""
    appraisal = appraise(token(with_path=False), key_set=jwks(), trusted=anchors("leaf"))
    assert appraisal.verdict is AttestationVerdict.ACCEPT
    assert appraisal.facts["key_from"] == "jwks"


@pytest.mark.parametrize(
    ("key_set", "reason"),
    [
        (jwks("stranger"), Reason.ATTESTATION_ROOT_UNTRUSTED),
        (jwks(kid="key-2"), Reason.ATTESTATION_ROOT_UNTRUSTED),
        (jwks(kty="oct"), Reason.MALFORMED_EVIDENCE),
        (jwks(alg="PS256"), Reason.MALFORMED_EVIDENCE),
        (jwks(use="enc"), Reason.MALFORMED_EVIDENCE),
        (jwks(n="AQAB"), Reason.MALFORMED_EVIDENCE),
        (b'{"keys": 1}', Reason.MALFORMED_EVIDENCE),
        (b"[]", Reason.MALFORMED_EVIDENCE),
        (None, Reason.ATTESTATION_ROOT_UNTRUSTED),
    ],
)
def test_a_key_set_vouches_for_nothing_by_itself(key_set: bytes | None, reason: Reason) -> None:
    """A set whose key nobody trusts, or that is none, refuses."""
    data = token(with_path=False)
    assert refused(data, key_set=key_set, trusted=anchors("leaf")) is reason


def test_a_key_named_twice_is_no_key() -> None:
    """Which of two it was cannot be told."""
    entry = json.loads(jwks())["keys"][0]
    twice = json.dumps({"keys": [entry, entry]}).encode()
    reason = refused(token(with_path=False), key_set=twice, trusted=anchors("leaf"))
    assert reason is Reason.ATTESTATION_ROOT_UNTRUSTED


# -- Spelling ------------------------------------------------------------------------------------


def test_members_that_appear_twice_are_malformed() -> None:
    """Two parsers could read two tokens, however well it is signed."""
    good = json.dumps(claims())
    twice = (good[:-1] + ', "dbgstat": "disabled-since-boot"}').encode()
    assert refused(token(payload=twice)) is Reason.MALFORMED_EVIDENCE


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data + b".",
        lambda data: data + b"=",
        lambda data: b" " + data,
        lambda data: data + b"\r\n",
        lambda data: data.replace(b".", b"..", 1),
        lambda data: b"",
        lambda data: b"\xff" + data,
        lambda data: data * 9,
        lambda data: b"{}." + data,
    ],
)
def test_a_token_has_one_spelling(spoil: Any) -> None:
    """Text around it, padding and other alphabets are not read."""
    assert refused(spoil(token())) in {Reason.MALFORMED_EVIDENCE, Reason.TOO_LARGE}


def test_a_signature_covers_the_bytes_and_not_the_meaning() -> None:
    """The same claims written in another way are not what was signed."""
    header, payload, signature = token().split(b".")
    other = json.dumps(json.loads(from_base64url(payload.decode())), indent=1).encode()
    spoilt = b".".join((header, to_base64url(other).encode(), signature))
    assert refused(spoilt) is Reason.ATTESTATION_SIGNATURE_INVALID
