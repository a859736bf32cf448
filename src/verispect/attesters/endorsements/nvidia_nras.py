"""NVIDIA's remote attestation service (NRAS): its keys, and its own word on GPU evidence.

    GET  {base}/.well-known/jwks.json      the key set; its certificates live for 48 hours
    POST {base}/v3/attest/{gpu or switch}  JSON: `nonce`, `arch`, `evidence_list`

With a `token` the key set is fetched with which it is verified: it must be kept while the service
still publishes it. With GPU evidence instead, the service is asked to appraise that evidence, and
its `token` comes back too. Such a token is the word of a third party, and may say no. It is never
kept in a cache: who asks wants an answer of now.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from verispect.attesters.endorsements.cache import Answer
from verispect.attesters.endorsements.interface import HOUR
from verispect.attesters.endorsements.nvidia import chip_of, devices_of
from verispect.attesters.endorsements.retrieval import Question, Reading, Retriever, base_address
from verispect.core.encoding import from_base64url
from verispect.core.errors import Error, MalformedError, Reason, UnsupportedError
from verispect.evidence.json_text import read_json, read_object
from verispect.evidence.nvidia.anchors import SERVICE
from verispect.evidence.nvidia.eat import MAX_BUNDLE_BYTES
from verispect.evidence.nvidia.report import DeviceEvidence, DeviceKind
from verispect.evidence.nvidia.spdm import parse_report
from verispect.evidence.pem import is_pem

NVIDIA_NRAS_URL: Final = "https://nras.attestation.nvidia.com"

KEY_SET_LIFETIME: Final = HOUR
"""The service exchanges its keys at any time; a token of an unknown key is asked about anew."""

MAX_KEY_SET_BYTES: Final = 256 * 1024

_ARCHITECTURES: Final = {"GH": "HOPPER", "GB": "BLACKWELL", "GR": "RUBIN"}
_SWITCH_ARCHITECTURE: Final = "LS10"
_MAX_TOKEN_HEADER_BYTES: Final = 4096


class NvidiaNrasFetcher:
    """Fetches `jwks` for a `token`, or `token` and `jwks` for evidence of `nvidia-gpu`.

    Args:
        retriever: asks and keeps.
        base_url: the service.

    Raises:
        RequestError: `invalid-request` for an address that is not HTTPS.
    """

    technology: Final = SERVICE

    def __init__(self, retriever: Retriever, base_url: str = NVIDIA_NRAS_URL) -> None:
        self._retriever = retriever
        self._base = base_address(base_url)

    async def fetch(self, evidence: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Fetch the key set, and the token if there is none; see `EndorsementFetcher.fetch`."""
        files: dict[str, bytes] = {}
        token = evidence.get("token")
        if token is None:
            token = files["token"] = await self._attest(devices_of(evidence))
        identifier = _key_identifier(token)
        files["jwks"] = await self._retriever.obtain(
            Question(f"{self._base}/.well-known/jwks.json", MAX_KEY_SET_BYTES),
            _read_key_set,
            lifetime=KEY_SET_LIFETIME,
            usable=lambda key_set: identifier in _identifiers(key_set),
        )
        return files

    async def _attest(self, devices: tuple[DeviceEvidence, ...]) -> bytes:
        kinds = {device.kind for device in devices}
        nonces = {parse_report(device.report).request_nonce for device in devices}
        architectures = {_architecture(device) for device in devices}
        if not len(kinds) == len(nonces) == len(architectures) == 1:
            raise UnsupportedError(
                "the service is asked about devices of one kind under one nonce",
                reason=Reason.UNSUPPORTED_EVIDENCE,
            )
        request = {
            "nonce": nonces.pop().hex(),
            "arch": architectures.pop(),
            "evidence_list": [
                {
                    "evidence": base64.b64encode(device.report).decode(),
                    "certificate": _certificate_text(device.path),
                }
                for device in devices
            ],
        }
        question = Question(
            f"{self._base}/v3/attest/{kinds.pop().value}",
            MAX_BUNDLE_BYTES,
            json.dumps(request).encode(),
            "application/json",
        )
        return await self._retriever.obtain(question, _read_token, lifetime=0)


def _architecture(device: DeviceEvidence) -> str:
    if device.kind is DeviceKind.SWITCH:
        return _SWITCH_ARCHITECTURE
    architecture = _ARCHITECTURES.get(chip_of(device)[:2])
    if architecture is None:
        raise UnsupportedError(
            "a device of an unknown architecture", reason=Reason.UNSUPPORTED_EVIDENCE
        )
    return architecture


def _certificate_text(path: bytes) -> str:
    # A path comes as PEM or as base64 of PEM; the service takes the latter.
    if is_pem(path):
        return base64.b64encode(path).decode()
    return b"".join(path.split()).decode("ascii", "replace")


def _read_token(answer: Answer) -> Reading[bytes]:
    _key_identifier(answer.body)
    return Reading(answer.body)


def _read_key_set(answer: Answer) -> Reading[bytes]:
    _identifiers(answer.body)
    return Reading(answer.body)


def _identifiers(key_set: bytes) -> frozenset[str]:
    keys = read_object(key_set, limit=MAX_KEY_SET_BYTES).get("keys")
    if not isinstance(keys, list) or not keys:
        raise _malformed("not a key set")
    return frozenset(str(key.get("kid")) for key in keys if isinstance(key, dict))


def _key_identifier(token: bytes) -> str:
    """Return which key signed a token or a bundle's overall token, by the token's own word."""
    if len(token) > MAX_BUNDLE_BYTES:
        raise MalformedError("the token is too large", reason=Reason.TOO_LARGE)
    value: Any = token.decode("ascii", "replace").strip()
    if value.startswith("["):
        bundle = read_json(token, limit=MAX_BUNDLE_BYTES)
        try:
            value = bundle[0][1]
        except (IndexError, KeyError, TypeError) as error:
            raise _malformed("not a bundle of tokens") from error
    try:
        head = from_base64url(str(value).partition(".")[0], limit=_MAX_TOKEN_HEADER_BYTES)
        identifier = read_object(head, limit=_MAX_TOKEN_HEADER_BYTES).get("kid")
    except Error as error:
        raise _malformed("not a token") from error
    if not isinstance(identifier, str):
        raise _malformed("a token that names no key")
    return identifier


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_EVIDENCE)
