"""Finds binding profiles by name; the list is fixed, so that an unknown name is never a pass."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from verispect.core.errors import Reason, UnsupportedError
from verispect.evidence.bindings.inference_v1 import INFERENCE_V1
from verispect.evidence.bindings.interface import BindingProfile
from verispect.evidence.bindings.key_v1 import KEY_V1
from verispect.evidence.bindings.services import PROFILES

BINDING_PROFILES: Final[Mapping[str, BindingProfile]] = MappingProxyType(
    {profile.name: profile for profile in (KEY_V1, INFERENCE_V1, *PROFILES)}
)
"""Every known profile by its name."""


def binding_profile(name: str) -> BindingProfile:
    """Return the profile of this name.

    Raises:
        UnsupportedError: `unsupported-evidence`: evidence is present and its binding is unknown.
    """
    profile = BINDING_PROFILES.get(name)
    if profile is None:
        raise UnsupportedError(
            f"no binding profile is named {name[:64]}", reason=Reason.UNSUPPORTED_EVIDENCE
        )
    return profile
