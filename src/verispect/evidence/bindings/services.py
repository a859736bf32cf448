"""Binding profiles of other people's services, as their published software and recordings show.

Each layout was established from the service's public verifier or server and from a recorded
attestation; spec/bindings.md says which. None of them is ours to change: where a layout is
ambiguous (members without tags or lengths), the sizes are pinned so that it is not. A service
whose layout could not be established has no profile, and is answered "binding unknown".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from verispect.core.encoding import sha256
from verispect.core.errors import MalformedError, Reason
from verispect.evidence.bindings.interface import BindingProfile, Bound, Member, fixed
from verispect.evidence.keccak import ethereum_address

_REPORT_DATA: Final = frozenset({64})
_ADDRESS: Final = frozenset({20, 32})
_POINT: Final = frozenset({64, 65})

_NO_MODEL: Final = "model: nothing of it is in the field"
_NO_EXCHANGE: Final = "request and response: only a separate signature by the key covers them"
_NO_GPU: Final = "gpu evidence: at most a nonce is shared with it"


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_EVIDENCE)


# -- Nitriding (Brave), used by OpenGradient's gateway -------------------------------------------

_MULTIHASH_SHA256: Final = b"\x12\x20"


def _nitriding(members: Mapping[str, bytes], _: int) -> bytes:
    return b"".join(
        _MULTIHASH_SHA256 + members[name] for name in ("tls_certificate_digest", "app_key_digest")
    )


NITRIDING: Final = BindingProfile(
    name="nitriding/1",
    field_name="user_data",
    widths=frozenset({68}),
    members=(
        fixed("tls_certificate_digest", 32, Bound.TLS_KEY),
        fixed("app_key_digest", 32, Bound.SIGNING_KEY),
    ),
    compute=_nitriding,
    not_bound=("nonce: it has its own field in the document", _NO_MODEL, _NO_EXCHANGE),
)


# -- dstack and its descendants ------------------------------------------------------------------


def _near_tls(members: Mapping[str, bytes], _: int) -> bytes:
    return sha256(members["signing_address"] + members["tls_fingerprint"]) + members["nonce"]


NEAR_TLS: Final = BindingProfile(
    name="near/tls-v1",
    field_name="report_data",
    widths=_REPORT_DATA,
    members=(
        Member("signing_address", _ADDRESS, Bound.SIGNING_KEY),
        fixed("tls_fingerprint", 32, Bound.TLS_KEY),
        fixed("nonce", 32, Bound.NONCE),
    ),
    compute=_near_tls,
    not_bound=(_NO_GPU, _NO_MODEL, _NO_EXCHANGE),
)


def _venice(members: Mapping[str, bytes], _: int) -> bytes:
    return ethereum_address(members["signing_public_key"]).ljust(32, b"\0") + members["nonce"]


VENICE: Final = BindingProfile(
    name="venice/1",
    field_name="report_data",
    widths=_REPORT_DATA,
    members=(
        Member("signing_public_key", _POINT, Bound.SIGNING_KEY),
        fixed("nonce", 32, Bound.NONCE),
    ),
    compute=_venice,
    not_bound=("tls key", _NO_GPU, _NO_MODEL, _NO_EXCHANGE),
)


def _address_and_nonce(members: Mapping[str, bytes], _: int) -> bytes:
    address = members["signing_address"]
    key = members.get("signing_public_key")
    if key is not None and ethereum_address(key) != address:
        raise _malformed("signing_public_key is not the key of signing_address")
    return address.ljust(32, b"\0") + members["nonce"]


NANOGPT: Final = BindingProfile(
    name="nanogpt/1",
    field_name="report_data",
    widths=_REPORT_DATA,
    members=(
        fixed("signing_address", 20, Bound.SIGNING_KEY),
        Member("signing_public_key", _POINT, Bound.SIGNING_KEY, required=False),
        fixed("nonce", 32, Bound.NONCE),
    ),
    compute=_address_and_nonce,
    not_bound=("tls key", _NO_GPU, _NO_MODEL, _NO_EXCHANGE),
)


def _identity_and_nonce(members: Mapping[str, bytes], _: int) -> bytes:
    return members["signing_address"].ljust(32, b"\0") + members["nonce"]


PHALA: Final = BindingProfile(
    name="phala/1",
    field_name="report_data",
    widths=_REPORT_DATA,
    members=(
        Member("signing_address", _ADDRESS, Bound.SIGNING_KEY),
        fixed("nonce", 32, Bound.NONCE),
    ),
    compute=_identity_and_nonce,
    not_bound=("tls key", _NO_GPU, _NO_MODEL, _NO_EXCHANGE),
)


def _dstack_compose(members: Mapping[str, bytes], width: int) -> bytes:
    return (b"\x01" + sha256(members["app_compose"])).ljust(width, b"\0")


DSTACK_COMPOSE: Final = BindingProfile(
    name="dstack/compose-v1",
    field_name="mr_config_id",
    widths=frozenset({48}),
    members=(Member("app_compose", None, Bound.WORKLOAD),),
    compute=_dstack_compose,
    not_bound=(
        "environment and secrets given to the workload",
        "images that the compose file names by tag instead of digest",
        "signing key and nonce: see report_data",
    ),
)


# -- Others --------------------------------------------------------------------------------------


def _chutes(members: Mapping[str, bytes], _: int) -> bytes:
    return sha256(members["nonce"].hex().encode() + members["e2e_public_key"])


CHUTES: Final = BindingProfile(
    name="chutes/1",
    field_name="report_data",
    widths=_REPORT_DATA,
    members=(
        fixed("nonce", 32, Bound.NONCE),
        Member("e2e_public_key", None, Bound.HPKE_KEY),
    ),
    compute=_chutes,
    not_bound=(
        "bytes 32 to 64 of the field: no meaning is published",
        "tls key",
        _NO_MODEL,
        "request and response: an encrypted channel to the key, no signature",
    ),
)


def _tinfoil(members: Mapping[str, bytes], width: int) -> bytes:
    if "nvswitch_evidence_digest" in members and "gpu_evidence_digest" not in members:
        # Without tags the two would be told apart by nothing.
        raise _malformed("nvswitch_evidence_digest stands only beside gpu_evidence_digest")
    names = (
        "tls_key_digest",
        "hpke_key",
        "nonce",
        "gpu_evidence_digest",
        "nvswitch_evidence_digest",
    )
    hashed = hashlib.sha256(b"".join(members.get(name, b"") for name in names)).digest()
    return hashed.ljust(width, b"\0")


TINFOIL: Final = BindingProfile(
    name="tinfoil/3",
    field_name="report_data",
    widths=_REPORT_DATA,
    members=(
        fixed("tls_key_digest", 32, Bound.TLS_KEY),
        fixed("hpke_key", 32, Bound.HPKE_KEY),
        fixed("nonce", 32, Bound.NONCE),
        fixed("gpu_evidence_digest", 32, Bound.GPU_EVIDENCE, required=False),
        fixed("nvswitch_evidence_digest", 32, Bound.GPU_EVIDENCE, required=False),
    ),
    compute=_tinfoil,
    not_bound=(
        "model: by the measured command line and not by this field",
        "request and response: an encrypted channel to the key, no signature",
    ),
)


def _secretvm(members: Mapping[str, bytes], _: int) -> bytes:
    return members["tls_spki_digest"] + members["gpu_nonce"]


SECRETVM: Final = BindingProfile(
    name="secretvm/1",
    field_name="report_data",
    widths=_REPORT_DATA,
    members=(
        fixed("tls_spki_digest", 32, Bound.TLS_KEY),
        fixed("gpu_nonce", 32, Bound.GPU_NONCE),
    ),
    compute=_secretvm,
    not_bound=(
        "nonce of the caller: the guest chooses the gpu nonce",
        "signing key",
        _NO_MODEL,
        _NO_EXCHANGE,
    ),
)

_GCP_NONCE_DOMAIN: Final = b"NEUROLIX/attestation/nonce/v1"


def _gcp_nonce(members: Mapping[str, bytes], _: int) -> bytes:
    names = ("session_id", "model_digest", "input_commitment", "output_commitment")
    preimage = sha256(_GCP_NONCE_DOMAIN) + b"".join(members[name] for name in names)
    return sha256(preimage).hex().encode()


GCP_NONCE: Final = BindingProfile(
    name="gcp-cs/nonce-v1",
    field_name="eat_nonce",
    widths=frozenset({64}),
    members=(
        fixed("session_id", 32, Bound.NONCE),
        fixed("model_digest", 32, Bound.MODEL),
        fixed("input_commitment", 32, Bound.REQUEST),
        fixed("output_commitment", 32, Bound.RESPONSE),
    ),
    compute=_gcp_nonce,
    not_bound=(
        "signing key: the token itself is the proof of one inference",
        "model: the digest is what the measured workload said it loaded",
    ),
)

PROFILES: Final = (
    NITRIDING,
    NEAR_TLS,
    VENICE,
    NANOGPT,
    PHALA,
    DSTACK_COMPOSE,
    CHUTES,
    TINFOIL,
    SECRETVM,
    GCP_NONCE,
)
"""Every profile of this module."""
