"""What services answer at their attestation endpoints, read into evidence and members.

A recording is one JSON document as a service delivered it, kept byte for byte. It is read here
into the files of the CPU's evidence, the evidence of each GPU, and the members of the service's
binding profile. Nothing in it is believed: a nonce that it repeats, a verdict that it reports and
a digest that it states are not evidence. The shapes are those of the services' public software;
a document of no known shape is refused, and never searched for something that looks right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.encoding import sha256
from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.evidence.event_log import Event, read_event_log
from verispect.evidence.json_text import (
    from_base64,
    from_hex_member,
    raw_member,
    read_json,
    read_object,
)

MAX_RECORDING_BYTES: Final = 8 * 1024 * 1024
MAX_INSTANCES: Final = 256
MAX_GPUS: Final = 64
TINFOIL_FORMAT: Final = "https://tinfoil.sh/predicate/attestation/v3"

_POINT_HEX_DIGITS: Final = 128


@dataclass(frozen=True, slots=True)
class Recording:
    """One instance of a service, as it described itself."""

    profile: str
    technology: str
    """Of the CPU's evidence."""
    cpu: Mapping[str, bytes]
    gpus: bytes | None
    """All GPUs as one JSON list, as `nvidia-gpu` reads it."""
    members: Mapping[str, bytes]
    """Of the profile, without the nonce."""
    echoed_nonce: bytes | None
    """What the service says it was asked with."""
    gpu_text: bytes | None = None
    """The GPU evidence byte for byte, where a digest of it is bound."""
    app_compose: bytes | None = None
    events: tuple[Event, ...] = ()
    instances: int = 1
    """How many the document holds; one is appraised."""


def read_recording(data: bytes, *, profile: str | None = None, instance: int = 0) -> Recording:
    """Read a recording of the profile, or of the only one that its shape allows.

    Args:
        data: the document.
        profile: needed where one shape serves several services.
        instance: which one, where the document holds several.

    Raises:
        MalformedError: `malformed-json`, `malformed-evidence` or `too-large`.
        UnsupportedError: `unsupported-evidence` for an unknown shape, or one that several
            services share where none was named.
    """
    document = read_object(data, limit=MAX_RECORDING_BYTES)
    if document.get("format") == TINFOIL_FORMAT and profile in (None, "tinfoil/3"):
        return _tinfoil(data, document)
    if "evidence" in document and profile in (None, "chutes/1"):
        return _chutes(document, instance)
    if document.get("attestation_type") == "chutes" and profile in (None, "chutes/1"):
        return _chutes_behind_gateway(document, instance)
    if profile in ("near/tls-v1", "venice/1", "nanogpt/1", "phala/1") or profile is None:
        return _dstack(document, profile, instance)
    raise UnsupportedError(
        f"the document is no recording of {profile[:64]}", reason=Reason.UNSUPPORTED_EVIDENCE
    )


# -- dstack and its descendants ------------------------------------------------------------------


def _dstack(document: dict[str, Any], profile: str | None, instance: int) -> Recording:
    entries = document.get("model_attestations") or document.get("all_attestations") or [document]
    if not isinstance(entries, list):
        raise _malformed("the attestations are not a list")
    entry = _pick(entries, instance)
    if not isinstance(entry.get("intel_quote"), str):
        raise UnsupportedError(
            "the document has no shape that is known here", reason=Reason.UNSUPPORTED_EVIDENCE
        )
    profile = profile or _dstack_profile(document, entry)
    members = _dstack_members(profile, entry)
    nonce = entry.get("request_nonce", entry.get("nonce"))
    info = _object(entry.get("info", {}))
    tcb_info = _object(_maybe_text(info.get("tcb_info", {})))
    compose = tcb_info.get("app_compose")
    log = _maybe_text(entry.get("event_log", tcb_info.get("event_log", [])))
    return Recording(
        profile=profile,
        technology="intel-tdx",
        cpu={"quote": from_hex_member(entry["intel_quote"])},
        gpus=_nvidia_payload(entry.get("nvidia_payload")),
        members=members,
        echoed_nonce=None if nonce is None else from_hex_member(nonce),
        app_compose=compose.encode() if isinstance(compose, str) else None,
        events=read_event_log(log),
        instances=len(entries),
    )


def _dstack_profile(document: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    if "tls_cert_fingerprint" in entry:
        return "near/tls-v1"
    if "server_verification" in document or "tee_provider" in document:
        return "venice/1"
    raise UnsupportedError(
        "several services use this shape: name the profile", reason=Reason.UNSUPPORTED_EVIDENCE
    )


def _dstack_members(profile: str, entry: Mapping[str, Any]) -> dict[str, bytes]:
    if profile == "venice/1":
        key = entry.get("signing_key", entry.get("signing_public_key"))
        return {"signing_public_key": from_hex_member(key)}
    members = {"signing_address": from_hex_member(entry.get("signing_address"))}
    if profile == "near/tls-v1":
        members["tls_fingerprint"] = from_hex_member(entry.get("tls_cert_fingerprint"))
    key = entry.get("signing_public_key")
    if profile == "nanogpt/1" and isinstance(key, str) and len(key) >= _POINT_HEX_DIGITS:
        members["signing_public_key"] = from_hex_member(key)
    return members


def _nvidia_payload(text: Any) -> bytes | None:
    if text in (None, ""):
        return None
    payload = _object(_maybe_text(text))
    items = payload.get("evidence_list", [])
    return _gpu_list(items, arch=payload.get("arch"))


# -- Chutes --------------------------------------------------------------------------------------


def _chutes(document: dict[str, Any], instance: int) -> Recording:
    entries = document["evidence"]
    if not isinstance(entries, list):
        raise _malformed("the evidence is not a list")
    entry = _pick(entries, instance)
    known = document.get("instances", [])
    keys = [
        item.get("e2e_pubkey")
        for item in (known if isinstance(known, list) else [])[:MAX_INSTANCES]
        if isinstance(item, dict) and item.get("instance_id") == entry.get("instance_id")
    ]
    key = entry.get("e2e_pubkey", keys[0] if len(keys) == 1 else None)
    return _chutes_entry(entry, entry.get("quote"), key, document.get("nonce"), len(entries))


def _chutes_behind_gateway(document: dict[str, Any], instance: int) -> Recording:
    entries = document.get("all_attestations")
    if not isinstance(entries, list):
        raise _malformed("the attestations are not a list")
    entry = _pick(entries, instance)
    nonce = entry.get("nonce", document.get("nonce"))
    return _chutes_entry(
        entry, entry.get("intel_quote"), entry.get("e2e_pubkey"), nonce, len(entries)
    )


def _chutes_entry(
    entry: Mapping[str, Any], quote: Any, key: Any, nonce: Any, instances: int
) -> Recording:
    if not isinstance(key, str) or not key.isascii():
        raise _malformed("the instance has no e2e_pubkey")
    return Recording(
        profile="chutes/1",
        technology="intel-tdx",
        cpu={"quote": from_base64(quote)},
        gpus=_gpu_list(entry.get("gpu_evidence", [])),
        # The text as it stands is hashed, and not the key that it encodes.
        members={"e2e_public_key": key.encode()},
        echoed_nonce=None if nonce is None else from_hex_member(nonce),
        instances=instances,
    )


# -- Tinfoil -------------------------------------------------------------------------------------


def _tinfoil(data: bytes, document: dict[str, Any]) -> Recording:
    fields, cpu = _object(document.get("report_data", {})), _object(document.get("cpu", {}))
    technology = {"tdx": "intel-tdx", "sev-snp": "amd-sev-snp"}.get(str(cpu.get("platform")))
    if technology is None or not fields:
        raise UnsupportedError(
            "a tinfoil document of another revision", reason=Reason.UNSUPPORTED_EVIDENCE
        )
    gpu_text = raw_member(data, "gpu", limit=MAX_RECORDING_BYTES)
    switch_text = raw_member(data, "nvswitch", limit=MAX_RECORDING_BYTES)
    members = {
        "tls_key_digest": from_hex_member(fields.get("tls_key_fp"), length=32),
        "hpke_key": from_hex_member(fields.get("hpke_key"), length=32),
    }
    # Digests are taken over what is here; the document's own word for them counts for nothing.
    if gpu_text is not None:
        members["gpu_evidence_digest"] = sha256(gpu_text)
    if switch_text is not None:
        members["nvswitch_evidence_digest"] = sha256(switch_text)
    report = "quote" if technology == "intel-tdx" else "report"
    gpus = _object(document.get("gpu", {})).get("evidences", [])
    return Recording(
        profile="tinfoil/3",
        technology=technology,
        cpu={report: from_base64(cpu.get("report"))},
        gpus=_gpu_list(gpus),
        members=members,
        echoed_nonce=from_hex_member(fields.get("nonce"), length=32),
        gpu_text=gpu_text,
    )


# -- Pieces --------------------------------------------------------------------------------------


def _pick(entries: list[Any], instance: int) -> dict[str, Any]:
    if not entries or len(entries) > MAX_INSTANCES or not 0 <= instance < len(entries):
        raise _malformed("there is no such instance")
    return _object(entries[instance])


def _gpu_list(items: Any, *, arch: Any = None) -> bytes | None:
    if not isinstance(items, list) or len(items) > MAX_GPUS:
        raise _malformed("the gpu evidence is not a list")
    entries = [_object(item) for item in items]
    if arch is not None:
        entries = [{"arch": arch, **entry} for entry in entries]
    return json.dumps(entries).encode() if entries else None


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _malformed("a member is not an object")
    return value


def _maybe_text(value: Any) -> Any:
    """Return a member that some versions write as JSON inside a text."""
    if isinstance(value, str):
        return read_json(value.encode(), limit=MAX_RECORDING_BYTES)
    return value


def _malformed(what: str) -> MalformedError:
    return MalformedError(f"recording: {what}", reason=Reason.MALFORMED_EVIDENCE)
