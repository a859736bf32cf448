"""The binding profile of per-inference attestation, `verispect/inference-v1`.

As `verispect/key-v1`, and one member more: a digest over what the statement says of the inference,
known before the statement has its number. Evidence under this profile is of one inference alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from verispect.core.encoding import Digest, encode, sha256
from verispect.core.statement import InferenceStatement
from verispect.evidence.bindings.interface import BindingProfile, Bound, fixed
from verispect.evidence.bindings.key_v1 import KEY_V1

NAME: Final = "verispect/inference-v1"
_DOMAIN: Final = b"verispect/inference-v1\x00"


def inference_digest(subject: str, statement: InferenceStatement) -> Digest:
    """Return the digest of everything a statement says but number, signing time and evidence.

    Args:
        subject: the inference, as the envelope names it.
        statement: the statement, or its draft.
    """
    fields = statement.to_map()
    for key in (2, 5, 13):
        del fields[key]
    return sha256(_DOMAIN + encode([subject, fields]))


def _compute(members: Mapping[str, bytes], width: int) -> bytes:
    content: dict[str, Any] = dict(members)
    content["epoch"] = int.from_bytes(members["epoch"], "big")
    content["profile"] = NAME
    message = _DOMAIN + encode(content)
    return (hashlib.sha512 if width == 64 else hashlib.sha256)(message).digest()


INFERENCE_V1: Final = BindingProfile(
    name=NAME,
    field_name="report_data",
    widths=KEY_V1.widths,
    members=(*KEY_V1.members, fixed("inference_digest", 32, Bound.REQUEST)),
    compute=_compute,
)
"""The profile itself."""
