"""What a binding profile is: a pure function from named members to the guest's field.

Every attestation has one field that the guest chose (`report_data`, `user_data`, a nonce). It
proves nothing until somebody says what was hashed into it. A profile says exactly that: it
recomputes the field from its members, and names what is bound thereby and what is not. A profile
never reads a member out of the field itself, and never takes one on trust from beside it: equal
bytes are the only evidence.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from verispect.core.errors import MalformedError, Reason, VerificationError

MAX_MEMBER_BYTES: Final = 64 * 1024
"""Upper limit of one member of any profile."""

MAX_SHOWN_CHARACTERS: Final = 64


class Bound(StrEnum):
    """What a profile can bind."""

    SIGNING_KEY = "signing-key"
    TLS_KEY = "tls-key"
    HPKE_KEY = "hpke-key"
    NONCE = "nonce"
    GPU_EVIDENCE = "gpu-evidence"
    GPU_NONCE = "gpu-nonce"
    MODEL = "model"
    REQUEST = "request"
    RESPONSE = "response"
    WORKLOAD = "workload"


@dataclass(frozen=True, slots=True)
class Member:
    """One named input of a profile."""

    name: str
    sizes: frozenset[int] | None
    """Accepted lengths in bytes; `None` for any length up to `MAX_MEMBER_BYTES`."""
    binds: Bound
    required: bool = True


@dataclass(frozen=True, slots=True)
class BindingProfile:
    """One way of filling the guest's field."""

    name: str
    """With its version, for example `tinfoil/3`."""
    field_name: str
    """The fact that holds the field: `report_data`, `user_data`, `mr_config_id`, `eat_nonce`."""
    widths: frozenset[int]
    """Accepted lengths of the whole field."""
    members: tuple[Member, ...]
    compute: Callable[[Mapping[str, bytes], int], bytes] = field(repr=False)
    """From checked members and the width to the bytes that the field must begin with."""
    not_bound: tuple[str, ...] = ()
    """What a reader might expect and this profile does not give, in words."""

    def recompute(self, members: Mapping[str, bytes], width: int) -> bytes:
        """Return what the field must begin with; the whole field in all profiles but `chutes/1`.

        Raises:
            MalformedError: `malformed-evidence` for a missing, unknown or wrongly sized member or
                a width that the profile does not have.
        """
        if width not in self.widths:
            raise _malformed(f"{self.name} has no field of {width} bytes")
        known = {member.name: member for member in self.members}
        for name in members:
            if name not in known:
                raise _malformed(f"{self.name} has no member {shown(name)}")
        for member in self.members:
            value = members.get(member.name)
            if value is None:
                if member.required:
                    raise _malformed(f"{self.name} needs the member {member.name}")
            elif (
                len(value) not in member.sizes
                if member.sizes is not None
                else not 0 < len(value) <= MAX_MEMBER_BYTES
            ):
                raise _malformed(f"{member.name} has an unexpected length")
        return self.compute(members, width)

    def check(self, members: Mapping[str, bytes], found: bytes) -> Binding:
        """Compare the field of verified evidence with its recomputation.

        Args:
            members: the named pre-image.
            found: the whole field, out of evidence that was verified.

        Raises:
            MalformedError: as `recompute`.
            VerificationError: `attestation-binding-invalid`.
        """
        expected = self.recompute(members, len(found))
        if not hmac.compare_digest(expected, found[: len(expected)]):
            raise VerificationError(
                f"{self.field_name} is not what {self.name} makes of its members",
                reason=Reason.ATTESTATION_BINDING_INVALID,
            )
        binds = frozenset(member.binds for member in self.members if member.name in members)
        not_bound = list(self.not_bound)
        absent = [
            member.binds.value
            for member in self.members
            if member.name not in members and member.binds not in binds
        ]
        not_bound.extend(f"{what}: no such member was given" for what in absent)
        return Binding(self.name, binds, dict(members), tuple(not_bound))


@dataclass(frozen=True, slots=True)
class Binding:
    """A field that was recomputed and found equal."""

    profile: str
    binds: frozenset[Bound]
    members: Mapping[str, bytes]
    not_bound: Sequence[str]


def fixed(name: str, size: int, binds: Bound, *, required: bool = True) -> Member:
    """Return a member of one length."""
    return Member(name, frozenset({size}), binds, required)


def shown(name: str) -> str:
    """Return a name out of evidence as messages show it: short, and without control characters."""
    return "".join(c if c.isprintable() else "?" for c in name[:MAX_SHOWN_CHARACTERS])


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_EVIDENCE)
