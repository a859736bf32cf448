"""Links between the evidence of a CPU and that of its GPUs.

Two chains of evidence prove nothing about one machine unless one names the other. Three ways are
in use: the CPU's field holds a digest of the GPU evidence, the GPU's nonce is derived from the
CPU's field, or both were asked with one nonce. The functions here take facts of evidence that was
verified before; they refuse GPU evidence that was taken from elsewhere. Even the strongest link
is no proof that both sit in one box: a relay can forward questions.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from verispect.core.encoding import sha256
from verispect.core.errors import MalformedError, Reason, VerificationError
from verispect.evidence.bindings.interface import Binding

GPU_NONCE_BYTES: Final = 32
_REPORT_DATA_BYTES: Final = 64


class LinkKind(StrEnum):
    """How CPU and GPU evidence are tied, strongest first."""

    HASH_IN_REPORT_DATA = "hash-in-report-data"
    DERIVED_NONCE = "derived-nonce"
    SHARED_NONCE = "shared-nonce"


@dataclass(frozen=True, slots=True)
class Link:
    """A link that was checked and holds."""

    kind: LinkKind
    shows: str
    not_shown: Sequence[str]


_RELAY: Final = "cpu and gpu in one machine: a relay could answer for another"


def check_hash_link(
    binding: Binding, gpu_evidence: bytes, *, member: str = "gpu_evidence_digest"
) -> Link:
    """Check that the CPU's field commits to exactly these bytes of GPU evidence.

    Args:
        binding: the field, recomputed and found equal.
        gpu_evidence: the bytes as the service delivered them; re-serialised JSON has other bytes.
        member: the name of the digest in the binding.

    Raises:
        VerificationError: `attestation-binding-invalid`.
    """
    digest = binding.members.get(member)
    if digest is None:
        raise _broken("the binding commits to no gpu evidence")
    if not hmac.compare_digest(digest, sha256(gpu_evidence)):
        raise _broken("the gpu evidence is not that which the cpu committed to")
    return Link(
        LinkKind.HASH_IN_REPORT_DATA,
        "the cpu's evidence commits to the bytes of the gpu evidence",
        (_RELAY,),
    )


def check_derived_nonce(
    report_data: bytes, gpu_nonces: Sequence[bytes], *, offset: int = 0
) -> Link:
    """Check that every GPU was asked with bytes of the CPU's field.

    Args:
        report_data: the field of verified CPU evidence.
        gpu_nonces: the request nonce of each verified GPU report.
        offset: 0 for `chutes/1`, 32 for `secretvm/1`.

    Raises:
        MalformedError: `malformed-evidence` for a field that is too short.
        VerificationError: `attestation-binding-invalid`.
    """
    if len(report_data) != _REPORT_DATA_BYTES or offset not in (0, GPU_NONCE_BYTES):
        raise MalformedError("report_data is not 64 bytes", reason=Reason.MALFORMED_EVIDENCE)
    _all_equal(report_data[offset : offset + GPU_NONCE_BYTES], gpu_nonces)
    return Link(
        LinkKind.DERIVED_NONCE,
        "the gpu was asked with a nonce that the cpu's evidence contains",
        (_RELAY, "the order: a gpu can be asked with a field that is known beforehand"),
    )


def check_shared_nonce(nonce: bytes, gpu_nonces: Sequence[bytes]) -> Link:
    """Check that every GPU was asked with the nonce that the CPU's field is bound to.

    Args:
        nonce: the caller's nonce, out of a binding that was checked.
        gpu_nonces: the request nonce of each verified GPU report.

    Raises:
        VerificationError: `attestation-binding-invalid`.
    """
    _all_equal(nonce, gpu_nonces)
    return Link(
        LinkKind.SHARED_NONCE,
        "cpu and gpu answered the same nonce",
        (_RELAY, "that they answered together: anybody who knows the nonce can ask any gpu"),
    )


def _all_equal(expected: bytes, nonces: Sequence[bytes]) -> None:
    if not nonces:
        raise _broken("there is no gpu evidence to link")
    if len(expected) != GPU_NONCE_BYTES:
        raise _broken("the nonce to compare with is not 32 bytes")
    if not all(hmac.compare_digest(expected, nonce) for nonce in nonces):
        raise _broken("a gpu answered another nonce than the cpu's evidence names")


def _broken(what: str) -> VerificationError:
    return VerificationError(what, reason=Reason.ATTESTATION_BINDING_INVALID)
