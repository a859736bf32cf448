"""Tokens of NVIDIA's attestation service (NRAS): entity attestation tokens as JWTs.

A bundle is `[["JWT", overall], {"GPU-0": token, …}]`; a single token may also stand alone. The
key set that was published when the token was made must be kept with it: its certificates live 48
hours, and without it the token says nothing.

1. Bundle, tokens and key set are read strictly: no duplicate member, one spelling of base64url.
2. Each token has `alg` ES384 and a `kid` that stands exactly once in the key set.
3. The key's certificates (`x5c`) lead from exactly this key to an anchor for `nvidia-nras`, or to
   a stored issuer that does, and are valid at the given time.
4. The signature of each token is good.
5. `iss` is the service; the time of judgement lies between `nbf` and `exp`, not before `iat`.
6. The devices of the bundle are exactly those that the overall token lists, by SHA-256 of their
   tokens.
7. `eat_nonce` is the expected one, the same in every token.
8. The result is positive: the overall result is true and is about a device at least; for each
   device the measurements agree, secure boot is on, debugging off, and no single check failed. A
   good signature over a negative result is a refusal.
9. No device is there twice: the service would judge one device's report eight times over.

What the service measured is its word: this is an attestation result by a third party, and the
appraisal says so. This module refuses `alg` none and every algorithm but one.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from verispect.core.encoding import sha256
from verispect.core.errors import (
    MalformedError,
    Reason,
)
from verispect.evidence.attestation import (
    Anchor,
    Examination,
    Expectation,
    TrustClaim,
    TrustTier,
)
from verispect.evidence.json_text import from_hex_member, read_json
from verispect.evidence.nvidia.key_set import read_issuers, read_key_set, verify_token
from verispect.evidence.signed_token import (
    moment_claim,
    text_claim,
)

ISSUER: Final = "https://nras.attestation.nvidia.com"

MAX_BUNDLE_BYTES: Final = 1024 * 1024
MAX_DEVICES: Final = 64
_MAX_NONCE_BYTES: Final = 64

_DEVICE_NAME: Final = re.compile(r"\A(?:GPU|SWITCH|NVSWITCH)-(?:0|[1-9][0-9]?)\Z")
# A tuple, because a claim may be of any type and a set can only be asked about some.
_GOOD_MEASUREMENTS: Final = ("success", "comparison-successful")

_SHARED: Final = "attestation-report-"
_CHECKS: Final = (
    "arch-check",
    f"{_SHARED}cert-chain-validated",
    f"{_SHARED}cert-chain-fwid-match",
    f"{_SHARED}parsed",
    f"{_SHARED}nonce-match",
    f"{_SHARED}signature-verified",
    "driver-rim-fetched",
    "driver-rim-schema-validated",
    "driver-rim-cert-validated",
    "driver-rim-signature-verified",
    "driver-rim-version-match",
    "driver-rim-measurements-available",
    "vbios-rim-fetched",
    "vbios-rim-schema-validated",
    "vbios-rim-cert-validated",
    "vbios-rim-signature-verified",
    "vbios-rim-version-match",
    "vbios-rim-measurements-available",
    "vbios-index-no-conflict",
    "bios-rim-fetched",
    "bios-rim-signature-verified",
    "bios-rim-version-match",
    "bios-rim-measurements-available",
)
_CHECK_CLAIMS: Final = frozenset(
    f"x-nvidia-{device}-{check}" for device in ("gpu", "switch") for check in _CHECKS
)
"""Claims of a device's token that must not be false where they stand."""


@dataclass(frozen=True, slots=True)
class ServiceToken:
    """A token or bundle with what is needed to verify it later."""

    token: bytes
    """JSON of a bundle, or one compact JWT."""
    key_set: bytes
    """The JWKS that was published when the token was made."""
    issuers: tuple[bytes, ...] = ()
    """Stored DER certificates above those of the key set, where its last one is no anchor."""


def verify_service_token(
    examination: Examination,
    evidence: ServiceToken,
    anchors: Sequence[Anchor],
    expected: Expectation,
    at: int,
) -> None:
    """Walk the steps of the module, noting each.

    Raises:
        verispect.core.errors.Error: the decisive failure.
    """
    overall_text, device_texts = _read_bundle(evidence.token)  # 1
    keys = read_key_set(evidence.key_set)
    issuers = read_issuers(evidence.issuers)
    examination.passed("structure", f"{1 + len(device_texts)} tokens, {len(keys)} keys")

    def verify(text: bytes, name: str) -> Mapping[str, Any]:
        verified = verify_token(text, keys, issuers, anchors, at)  # 2. to 4.
        examination.evidence_class = verified.anchor.evidence_class
        examination.passed("signature", f"{name}: signed by a key under {verified.anchor.label}")
        _check_times(examination, name, verified.claims, at)  # 5
        return verified.claims

    overall = verify(overall_text, "overall")
    devices = {name: verify(text, name) for name, text in device_texts.items()}
    _note(examination, overall, devices)
    _check_digests(examination, overall, device_texts)  # 6
    _check_nonces(examination, [overall, *devices.values()], expected)  # 7
    _check_registers(examination, expected)
    _check_results(examination, overall, devices)  # 8
    _check_distinct(examination, devices)  # 9


# -- 1. Structure ---------------------------------------------------------------------------------


def _read_bundle(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    if len(data) > MAX_BUNDLE_BYTES:
        raise MalformedError("the bundle is too large", reason=Reason.TOO_LARGE)
    if data.lstrip()[:1] != b"[":
        return data, {}
    bundle = read_json(data, limit=MAX_BUNDLE_BYTES)
    if len(bundle) not in (1, 2) or not isinstance(bundle[0], list) or len(bundle[0]) != 2:
        raise _malformed("a bundle holds the overall token and those of devices")
    kind, overall = bundle[0]
    devices = bundle[1] if len(bundle) == 2 else {}
    if kind != "JWT" or not isinstance(overall, str) or not isinstance(devices, dict):
        raise _malformed("a bundle holds the overall token and those of devices")
    if len(devices) > MAX_DEVICES:
        raise MalformedError("too many devices in a bundle", reason=Reason.TOO_LARGE)
    texts: dict[str, bytes] = {}
    for name, token in devices.items():
        if not _DEVICE_NAME.match(name) or not isinstance(token, str):
            raise _malformed("token of a device")
        texts[name] = token.encode()
    return overall.encode(), texts


# -- 5. to 7. Times, devices, nonce ---------------------------------------------------------------


def _check_times(examination: Examination, name: str, claims: Mapping[str, Any], at: int) -> None:
    if text_claim(claims, "iss") != ISSUER:
        examination.fail(
            "issuer",
            f"{name}: the issuer is not NVIDIA's attestation service",
            Reason.ATTESTATION_ATTRIBUTES,
        )
    issued, expires = moment_claim(claims, "iat"), moment_claim(claims, "exp")
    begins = moment_claim(claims, "nbf") if "nbf" in claims else issued
    if at < begins or at < issued:
        examination.fail(
            "times", f"{name}: the token is from later", Reason.ATTESTATION_NOT_YET_VALID
        )
    if at >= expires:
        examination.fail("times", f"{name}: the token has expired", Reason.ATTESTATION_EXPIRED)
    most = examination.policy.maximum_age_seconds
    if most is not None and at - issued > most * 1000:
        examination.fail("times", f"{name}: the token is too old", Reason.ATTESTATION_NOT_FRESH)
    examination.passed("times", f"{name}: issued by the service, valid at this time")


def _check_digests(
    examination: Examination, overall: Mapping[str, Any], texts: Mapping[str, bytes]
) -> None:
    listed = overall.get("submods", {})
    if not isinstance(listed, dict):
        raise _malformed("list of devices")
    if not texts:
        if listed:
            examination.skipped("devices", "tokens of the single devices, which were not shown")
        return
    if listed.keys() != texts.keys():
        examination.fail(
            "devices",
            "the devices shown are not those that the overall token lists",
            Reason.ATTESTATION_BINDING_INVALID,
        )
    for name, entry in listed.items():
        if not hmac.compare_digest(_digest(entry), sha256(texts[name])):
            examination.fail(
                "devices",
                f"{name}: the token is not the one that the overall token lists",
                Reason.ATTESTATION_BINDING_INVALID,
            )
    examination.passed("devices", f"{len(texts)} device tokens, each by its digest")


def _digest(entry: Any) -> bytes:
    if (
        not isinstance(entry, list)
        or len(entry) != 2
        or entry[0] != "DIGEST"
        or not isinstance(entry[1], list)
        or len(entry[1]) != 2
        or entry[1][0] != "SHA-256"
    ):
        raise _malformed("digest of a device's token")
    return from_hex_member(entry[1][1], length=32)


def _check_nonces(
    examination: Examination, tokens: Sequence[Mapping[str, Any]], expected: Expectation
) -> None:
    nonces = {_nonce(claims) for claims in tokens}
    if len(nonces) != 1:
        examination.fail(
            "nonce", "the tokens have different nonces", Reason.ATTESTATION_BINDING_INVALID
        )
    (found,) = nonces
    examination.facts["nonce"] = found.hex()
    if expected.report_data is not None or expected.public_key is not None:
        examination.fail(
            "expectation",
            "a token of this service carries no field and no key of the guest's",
            Reason.ATTESTATION_BINDING_INVALID,
        )
    if expected.nonce is None:
        examination.skipped("nonce", "freshness: no nonce was expected")
    elif not hmac.compare_digest(found, expected.nonce):
        examination.fail(
            "nonce", "nonce is not the expected one", Reason.ATTESTATION_NONCE_MISMATCH
        )
    else:
        examination.passed("nonce", "every token has the expected nonce")


def _nonce(claims: Mapping[str, Any]) -> bytes:
    nonce = from_hex_member(claims.get("eat_nonce"))
    if not 0 < len(nonce) <= _MAX_NONCE_BYTES:
        raise _malformed("nonce of a token")
    return nonce


def _check_registers(examination: Examination, expected: Expectation) -> None:
    for name in sorted(expected.measurements):
        examination.fail(
            "registers",
            f"{name}: a token of this service holds no measurements",
            Reason.ATTESTATION_MEASUREMENT_MISMATCH,
        )


# -- 8. Results -----------------------------------------------------------------------------------


def _check_results(
    examination: Examination,
    overall: Mapping[str, Any],
    devices: Mapping[str, Mapping[str, Any]],
) -> None:
    examined = dict(devices)
    if overall.get("x-nvidia-overall-att-result", True) is not True:
        _negative(examination, "the overall result is not true")
    if "measres" in overall:
        # A device's own token, or one that speaks for a device beside the others.
        examined["device"] = overall
    elif "x-nvidia-overall-att-result" not in overall:
        _negative(examination, "the token states no result")
    elif not examined and not overall.get("submods"):
        _negative(examination, "the result is about no device")
    for name, claims in examined.items():
        _check_device(examination, name, claims)
    if examination.policy.require_revocation:
        examination.fail(
            "revocation",
            "no revocation list for the service's certificates",
            Reason.EVIDENCE_MISSING,
        )
    examination.trust_vector[TrustClaim.HARDWARE] = TrustTier.AFFIRMING
    examination.trust_vector[TrustClaim.EXECUTABLES] = TrustTier.AFFIRMING
    examination.passed("result", f"positive for {len(examined)} devices")
    examination.not_checked += [
        "the device's own report: the service's word stands for it",
        "revocation of the service's certificates",
    ]


def _check_device(examination: Examination, name: str, claims: Mapping[str, Any]) -> None:
    if claims.get("measres") not in _GOOD_MEASUREMENTS:
        _negative(examination, f"{name}: measurements do not agree")
    failed = sorted(claim for claim in _CHECK_CLAIMS if claims.get(claim, True) is not True)
    if failed:
        _negative(examination, f"{name}: {failed[0]} is not true")
    if claims.get("secboot") is not True:
        examination.fail("result", f"{name}: secure boot is not on", Reason.ATTESTATION_ATTRIBUTES)
    if claims.get("dbgstat") != "disabled":
        if not examination.policy.allow_debug:
            examination.fail(
                "result", f"{name}: debugging is not disabled", Reason.ATTESTATION_DEBUG
            )
        examination.trust_vector[TrustClaim.CONFIGURATION] = TrustTier.CONTRAINDICATED


def _check_distinct(examination: Examination, devices: Mapping[str, Mapping[str, Any]]) -> None:
    names = [text_claim(claims, "ueid") for claims in devices.values()]
    known = [name for name in names if name is not None]
    if len(set(known)) != len(known):
        examination.fail("distinct", "a device is listed twice", Reason.ATTESTATION_BINDING_INVALID)
    if len(known) > 1:
        examination.passed("distinct", f"{len(known)} different devices")
    if len(known) != len(names) > 1:
        examination.skipped("distinct", "that the devices differ: a token names none")


def _negative(examination: Examination, detail: str) -> NoReturn:
    examination.fail("result", detail, Reason.ATTESTATION_NEGATIVE)


def _note(
    examination: Examination,
    overall: Mapping[str, Any],
    devices: Mapping[str, Mapping[str, Any]],
) -> None:
    shown = devices or {"device": overall}
    examination.facts["issued_at"] = moment_claim(overall, "iat")
    examination.facts["expires_at"] = moment_claim(overall, "exp")
    examination.facts["devices"] = {
        name: {
            fact: text_claim(claims, claim)
            for fact, claim in (
                ("hardware_model", "hwmodel"),
                ("device_id", "ueid"),
                ("dbgstat", "dbgstat"),
                ("driver_version", "x-nvidia-gpu-driver-version"),
                ("vbios_version", "x-nvidia-gpu-vbios-version"),
            )
            if claim in claims
        }
        | ({"secboot": claims["secboot"]} if isinstance(claims.get("secboot"), bool) else {})
        for name, claims in shown.items()
    }


def _malformed(detail: str) -> MalformedError:
    return MalformedError(detail, reason=Reason.MALFORMED_EVIDENCE)
