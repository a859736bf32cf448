"""Google Confidential Space attestation tokens: JWTs by Google's verifier about a workload.

Two kinds: a PKI token carries its certificate path (`x5c`) and needs nothing else; an OIDC token
names a key of a rotating set (JWKS), which has to be kept beside it. A key set vouches for
nothing by itself: its key must be an anchor of the caller, so that whoever kept the set can not
have made it. Only RS256 is read; the algorithm is never taken from the token. See
spec/evidence-confidential-space.md for the numbered steps.

The token is a result of somebody else's appraisal: it shows that Google's verifier accepted the
machine and what was started on it. The hardware's own report is not in it, and this module says
so. It refuses to repeat the workload's environment, which tokens carry and which may hold secrets.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from verispect.core.encoding import Digest, sha256
from verispect.core.errors import Error, MalformedError, Reason, VerificationError
from verispect.evidence.attestation import (
    Anchor,
    AttestationAppraisal,
    AttestationPolicy,
    EvidenceClass,
    Examination,
    Expectation,
    TrustClaim,
    TrustTier,
    lowest_anchor,
)
from verispect.evidence.certificates import (
    check_chain_validity,
    find_anchor,
    load_certificate,
    verify_chain,
)
from verispect.evidence.json_text import from_base64, read_object
from verispect.evidence.signed_token import (
    MAX_TOKEN_BYTES,
    Token,
    claim,
    moment_claim,
    nonce_texts,
    read_token,
    rsa_key,
    text_claim,
    texts_claim,
)

TECHNOLOGY: Final = "gcp-confidential-space"
ISSUER: Final = "https://confidentialcomputing.googleapis.com"

MAX_JWKS_BYTES: Final = 64 * 1024
MAX_JWKS_KEYS: Final = 32
MAX_PATH: Final = 4
MAX_NONCES: Final = 6
NONCE_BYTES: Final = range(8, 89)
"""Accepted lengths of one nonce, as the issuer documents them."""

GENUINE_ANCHORS: Final = (
    Anchor(
        TECHNOLOGY,
        Digest(bytes.fromhex("40b464f4d4ff947572c6b23869a7bccae3f69ba9c81ade6c09d035e4657e40c4")),
        EvidenceClass.HARDWARE,
        "Google Confidential Space Root CA (2024 to 2034)",
    ),
)
"""The root of PKI tokens. The keys of OIDC tokens rotate and are never pinned here."""

_HARDWARE: Final = frozenset({"GCP_AMD_SEV", "GCP_AMD_SEV_ES", "GCP_AMD_SEV_SNP", "GCP_INTEL_TDX"})
_COMPARABLE: Final = ("image_digest", "image_id", "hwmodel", "swversion", "project_id")


@dataclass(frozen=True, slots=True)
class ConfidentialSpaceEvidence:
    """A token, and the key set where the token has no path of its own."""

    token: bytes
    jwks: bytes | None = None


def appraise_confidential_space(
    evidence: ConfidentialSpaceEvidence,
    *,
    anchors: Sequence[Anchor] = GENUINE_ANCHORS,
    expected: Expectation,
    policy: AttestationPolicy,
    at: int,
) -> AttestationAppraisal:
    """Verify one Confidential Space token at the time `at`; never raises for bad evidence.

    Args:
        evidence: the token, and its key set for an OIDC token.
        anchors: the root of the path, or the very key of the set, by SPKI digest.
        expected: nonce (also as text of its hexadecimal or base64url form), audience, and
            measurements named `image_digest`, `image_id`, `hwmodel`, `swversion`, `project_id`.
        policy: what is acceptable of genuine evidence.
        at: milliseconds since the epoch.
    """
    examination = Examination(TECHNOLOGY, policy)
    step = "structure"
    try:
        token = read_token(evidence.token)
        examination.passed(step, "three parts, strict JSON, one spelling")
        step = "algorithm"
        _check_algorithm(examination, token)
        step = "path"
        if "x5c" in token.header:
            key = _key_of_path(examination, token, anchors, at)
        else:
            key = _key_of_set(examination, token, evidence.jwks, anchors)
        step = "signature"
        _check_signature(examination, token, key)
        step = "claims"
        claims = read_object(token.claims, limit=MAX_TOKEN_BYTES)
        _read_facts(examination, claims)
        _check_audience(examination, expected)
        _check_time(examination, at)
        _check_attributes(examination, claims, policy)
        _check_nonce(examination, expected)
        _check_age(examination, policy, at)
        _check_measurements(examination, expected)
        examination.not_checked.append(
            "the hardware's own report: the token is the result of google's verifier, and the "
            "report that it appraised is not in it"
        )
        examination.check_class()
    except Error as error:
        examination.error(step, error)
    return examination.conclude()


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_EVIDENCE)


def _check_algorithm(examination: Examination, token: Token) -> None:
    if token.header.get("alg") != "RS256":
        examination.fail(
            "algorithm",
            "not signed with RS256, which is all these tokens are signed with",
            Reason.ATTESTATION_SIGNATURE_INVALID,
        )
    if "crit" in token.header or token.header.get("b64") is not None:
        examination.fail(
            "algorithm", "the header has critical fields", Reason.ATTESTATION_SIGNATURE_INVALID
        )
    examination.passed("algorithm", "RS256")


def _key_of_path(
    examination: Examination, token: Token, anchors: Sequence[Anchor], at: int
) -> rsa.RSAPublicKey:
    chain = token.header["x5c"]
    if not isinstance(chain, list) or not 2 <= len(chain) <= MAX_PATH:
        raise _malformed(f"x5c has 2 to {MAX_PATH} certificates")
    path = [load_certificate(from_base64(item, limit=MAX_TOKEN_BYTES)) for item in chain][::-1]
    examination.facts["key_from"] = "x5c"
    anchor = find_anchor(path[0], anchors, TECHNOLOGY)
    if anchor is None:
        examination.fail(
            "path", "the root of x5c is not trusted", Reason.ATTESTATION_ROOT_UNTRUSTED
        )
    # Google's leaf certificates have no key usage extension.
    verify_chain(path, key_usage_required=False)
    not_before, not_after = max(c.not_before for c in path), min(c.not_after for c in path)
    examination.facts["chain_valid_from_ms"] = not_before
    examination.facts["chain_valid_to_ms"] = not_after
    check_chain_validity(path, at)
    examination.evidence_class = anchor.evidence_class
    examination.passed("path", f"x5c leads from {anchor.label}")
    if examination.policy.require_revocation:
        examination.fail(
            "revocation", "no revocation list of the path is at hand", Reason.EVIDENCE_MISSING
        )
    examination.skipped("revocation", "revocation of the path: its lists are not at hand")
    key = path[-1].public_key
    if not isinstance(key, rsa.RSAPublicKey):
        raise _malformed("the leaf's key is not RSA")
    return key


def _key_of_set(
    examination: Examination, token: Token, jwks: bytes | None, anchors: Sequence[Anchor]
) -> rsa.RSAPublicKey:
    examination.facts["key_from"] = "jwks"
    if jwks is None:
        examination.fail(
            "path",
            "neither a path in the token nor a key set beside it",
            Reason.ATTESTATION_ROOT_UNTRUSTED,
        )
    kid = token.header.get("kid")
    keys = read_object(jwks, limit=MAX_JWKS_BYTES).get("keys")
    if not isinstance(kid, str) or not isinstance(keys, list) or len(keys) > MAX_JWKS_KEYS:
        raise _malformed("the token names no key, or the key set is none")
    found = [item for item in keys if isinstance(item, dict) and item.get("kid") == kid]
    if len(found) != 1:
        examination.fail(
            "path",
            f"the key set has {len(found)} keys of the token's name",
            Reason.ATTESTATION_ROOT_UNTRUSTED,
        )
    key = rsa_key(found[0])
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = sha256(spki)
    anchor = lowest_anchor(digest, anchors, TECHNOLOGY)
    if anchor is None:
        examination.fail(
            "path", "the key of the set is not an anchor", Reason.ATTESTATION_ROOT_UNTRUSTED
        )
    examination.evidence_class = anchor.evidence_class
    examination.passed("path", f"the key is {anchor.label}")
    examination.skipped("key lifetime", "how long the key of the set was in use")
    return key


def _check_signature(examination: Examination, token: Token, key: rsa.RSAPublicKey) -> None:
    try:
        key.verify(token.signature, token.signed, PKCS1v15(), SHA256())
    except InvalidSignature as error:
        raise VerificationError(
            "the token's signature does not verify", reason=Reason.ATTESTATION_SIGNATURE_INVALID
        ) from error
    examination.passed("signature", "signed by the key of the path")


def _read_facts(examination: Examination, claims: Mapping[str, Any]) -> None:
    facts = examination.facts
    if text_claim(claims, "iss") != ISSUER:
        examination.fail(
            "issuer",
            "the token is not of Google's Confidential Space verifier",
            Reason.ATTESTATION_ROOT_UNTRUSTED,
        )
    nonces = texts_claim(claims, "eat_nonce")
    if len(nonces) > MAX_NONCES or any(len(item.encode()) not in NONCE_BYTES for item in nonces):
        raise _malformed("eat_nonce is not up to six nonces of the documented length")
    secboot = claims.get("secboot")
    if not isinstance(secboot, bool):
        raise _malformed("secboot is not true or false")
    container = ("submods", "container")
    facts.update(
        {
            "issuer": ISSUER,
            "audience": text_claim(claims, "aud"),
            "subject": text_claim(claims, "sub"),
            "issued_at_ms": moment_claim(claims, "iat"),
            "not_before_ms": moment_claim(claims, "nbf"),
            "expires_at_ms": moment_claim(claims, "exp"),
            "eat_nonce": nonces,
            "secboot": secboot,
            "dbgstat": text_claim(claims, "dbgstat"),
            "swname": text_claim(claims, "swname"),
            "swversion": texts_claim(claims, "swversion"),
            "hwmodel": text_claim(claims, "hwmodel"),
            "support_attributes": texts_claim(
                claims, "submods", "confidential_space", "support_attributes"
            ),
            "image_digest": text_claim(claims, *container, "image_digest"),
            "image_reference": text_claim(claims, *container, "image_reference"),
            "image_id": text_claim(claims, *container, "image_id"),
            "project_id": text_claim(claims, "submods", "gce", "project_id"),
            "zone": text_claim(claims, "submods", "gce", "zone"),
            "instance_id": text_claim(claims, "submods", "gce", "instance_id"),
        }
    )
    examination.passed("issuer", ISSUER)


def _check_audience(examination: Examination, expected: Expectation) -> None:
    found = examination.facts["audience"]
    if expected.audience is None:
        examination.skipped("audience", f"audience: no expected one was given, found {found}")
    elif found != expected.audience:
        examination.fail(
            "audience",
            "the token was made for another audience",
            Reason.ATTESTATION_BINDING_INVALID,
        )
    else:
        examination.passed("audience", "the expected one")


def _check_time(examination: Examination, at: int) -> None:
    facts = examination.facts
    if at < max(facts["not_before_ms"], facts["issued_at_ms"]):
        examination.fail("lifetime", "the token is not valid yet", Reason.ATTESTATION_NOT_YET_VALID)
    if at >= facts["expires_at_ms"]:
        examination.fail("lifetime", "the token has expired", Reason.ATTESTATION_EXPIRED)
    examination.passed("lifetime", "valid at this time")


def _check_attributes(
    examination: Examination, claims: Mapping[str, Any], policy: AttestationPolicy
) -> None:
    facts = examination.facts
    vector = examination.trust_vector
    debug = facts["dbgstat"] != "disabled-since-boot"
    facts["debug"] = debug
    if debug and (facts["dbgstat"] != "enabled" or not policy.allow_debug):
        examination.fail("debug", "debugging was not disabled since boot", Reason.ATTESTATION_DEBUG)
    examination.passed("debug", "allowed by the policy" if debug else "disabled since boot")
    for holds, what in (
        (facts["swname"] == "CONFIDENTIAL_SPACE", "swname is not CONFIDENTIAL_SPACE"),
        (facts["hwmodel"] in _HARDWARE, "hwmodel is no confidential machine"),
        (facts["secboot"], "secure boot was off"),
        (debug or "STABLE" in facts["support_attributes"], "the image is not a STABLE one"),
        (facts["image_digest"] is not None, "no image digest"),
    ):
        if not holds:
            examination.fail("attributes", what, Reason.ATTESTATION_ATTRIBUTES)
    if claim(claims, "submods", "confidential_space", "monitoring_enabled", "memory") is True:
        examination.not_checked.append("what the operator sees through memory monitoring")
    examination.passed("attributes", f"{facts['swname']} on {facts['hwmodel']}, secure boot")
    vector[TrustClaim.HARDWARE] = TrustTier.AFFIRMING
    vector[TrustClaim.CONFIGURATION] = TrustTier.WARNING if debug else TrustTier.AFFIRMING


def _check_nonce(examination: Examination, expected: Expectation) -> None:
    nonces = examination.facts["eat_nonce"]
    wanted = [value for value in (expected.nonce, expected.report_data) if value is not None]
    if not wanted:
        examination.skipped("nonce", "freshness: no expected nonce was given")
    for value in wanted:
        texts = nonce_texts(value)
        if not any(
            hmac.compare_digest(found.encode(), text.encode()) for found in nonces for text in texts
        ):
            examination.fail(
                "nonce", "the nonce is not in the token", Reason.ATTESTATION_NONCE_MISMATCH
            )
        examination.passed("nonce", "the expected one is signed in the token")


def _check_age(examination: Examination, policy: AttestationPolicy, at: int) -> None:
    if policy.maximum_age_seconds is None:
        return
    if at - examination.facts["issued_at_ms"] > policy.maximum_age_seconds * 1000:
        examination.fail("age", "the token is older than allowed", Reason.ATTESTATION_NOT_FRESH)
    examination.passed("age", "young enough")


def _check_measurements(examination: Examination, expected: Expectation) -> None:
    if not expected.measurements:
        examination.skipped("measurements", "measurements: no reference values were given")
        return
    for name, accepted in expected.measurements.items():
        found = examination.facts.get(name) if name in _COMPARABLE else None
        values = found if isinstance(found, list) else [found]
        short = {str(value).lower().removeprefix("sha256:") for value in values if value}
        allowed = {value.lower().removeprefix("sha256:") for value in accepted}
        if not short or not short <= allowed:
            examination.fail(
                "measurements",
                f"{name} is none of the reference values",
                Reason.ATTESTATION_MEASUREMENT_MISMATCH,
            )
    examination.passed("measurements", ", ".join(sorted(expected.measurements)))
    if "image_digest" in expected.measurements:
        examination.trust_vector[TrustClaim.EXECUTABLES] = TrustTier.AFFIRMING
