"""The binding profile of our own attesters, `verispect/key-v1`; see spec/bindings.md.

The field is a hash over a domain tag and a deterministic CBOR map, so that no two different sets
of members can meet in one field, and members can be left out without another taking their place.
It binds the key that signs receipts; it refuses to exist without one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.encoding import Digest, encode
from verispect.core.keys import KeyId
from verispect.evidence.bindings.interface import BindingProfile, Bound, Member, fixed

NAME: Final = "verispect/key-v1"

_DOMAIN: Final = b"verispect/key-v1\x00"
_EPOCH_BYTES: Final = 8
_MAX_NONCE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class KeyBinding:
    """What an enclave of ours binds to its evidence, and the field that commits to it."""

    receipt_key_id: KeyId
    """The COSE Key Thumbprint of the key that signs receipts, as receipts name it."""
    epoch: int
    """When the session began, milliseconds: evidence of one session is not that of another."""
    nonce: bytes | None = None
    """The caller's, 1 to 64 bytes, where one was given."""
    hpke_key_digest: Digest | None = None
    tls_spki_digest: Digest | None = None
    gpu_evidence_digest: Digest | None = None
    model_manifest_digest: Digest | None = None

    def members(self) -> dict[str, bytes]:
        """Return the members as profiles take them."""
        members = {
            "receipt_key_id": bytes(self.receipt_key_id),
            "epoch": self.epoch.to_bytes(_EPOCH_BYTES, "big"),
        }
        optional = {
            "nonce": self.nonce,
            "hpke_key_digest": self.hpke_key_digest,
            "tls_spki_digest": self.tls_spki_digest,
            "gpu_evidence_digest": self.gpu_evidence_digest,
            "model_manifest_digest": self.model_manifest_digest,
        }
        members.update({name: value for name, value in optional.items() if value is not None})
        return members

    def field(self, width: int) -> bytes:
        """Return the field for `report_data` or `user_data` (64 bytes), or a field of 32 bytes.

        Raises:
            MalformedError: `malformed-evidence` for a member of the wrong length or another width.
        """
        return KEY_V1.recompute(self.members(), width)


def _compute(members: Mapping[str, bytes], width: int) -> bytes:
    content: dict[str, Any] = dict(members)
    content["epoch"] = int.from_bytes(members["epoch"], "big")
    content["profile"] = NAME
    message = _DOMAIN + encode(content)
    return (hashlib.sha512 if width == 64 else hashlib.sha256)(message).digest()


KEY_V1: Final = BindingProfile(
    name=NAME,
    field_name="report_data",
    widths=frozenset({32, 64}),
    members=(
        fixed("receipt_key_id", 32, Bound.SIGNING_KEY),
        fixed("epoch", _EPOCH_BYTES, Bound.SIGNING_KEY),
        Member("nonce", frozenset(range(1, _MAX_NONCE_BYTES + 1)), Bound.NONCE, required=False),
        fixed("hpke_key_digest", 32, Bound.HPKE_KEY, required=False),
        fixed("tls_spki_digest", 32, Bound.TLS_KEY, required=False),
        fixed("gpu_evidence_digest", 32, Bound.GPU_EVIDENCE, required=False),
        fixed("model_manifest_digest", 32, Bound.MODEL, required=False),
    ),
    compute=_compute,
    not_bound=("request and response: the receipt's signature binds them to the key",),
)
"""The profile itself."""
