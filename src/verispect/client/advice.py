"""Ask a gateway for advice, and hold what it recommends to the caller's own table of stakes.

A gateway may lie in its own favour. Its figures cannot be checked here, but whether what it
recommends is enough can: this module refuses advice whose recommendation falls short of the
stakes, whatever the gateway says of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from verispect.appraisal.policy import AssurancePolicy, expand
from verispect.appraisal.stakes import StakesRule, stakes_rule
from verispect.client.confidential import requires_attestation
from verispect.client.reading import read_pieces, refuse
from verispect.core.errors import (
    Error,
    MalformedError,
    NetworkError,
    Reason,
    RequestError,
    UnsupportedError,
    VerificationError,
)
from verispect.evidence.attestation import EvidenceClass

ADVICE_VERSION: Final = 1
MAX_ADVICE_BYTES: Final = 4 * 1024 * 1024
MAX_OPTIONS: Final = 256


@dataclass(frozen=True, slots=True)
class Advice:
    """What a gateway advised; `policy` is checked against the stakes, the rest is its word."""

    document: Mapping[str, Any]
    options: tuple[Mapping[str, Any], ...]
    recommended: int | None
    """Which option, none where the gateway recommends none."""
    policy: AssurancePolicy | None
    """The policy of the recommended option, to verify the answer with."""
    reason: str
    """Why, in the gateway's words."""


def fetch_advice(
    url: str,
    wishes: Mapping[str, str],
    *,
    timeout_seconds: float = 60.0,
    transport: httpx.BaseTransport | None = None,
) -> Advice:
    """Ask a gateway for advice (spec/advice.md).

    Args:
        url: of the gateway.
        wishes: the fields of the query; `model` and `stakes` at least.
        timeout_seconds: longest silence of the gateway.
        transport: for tests and special networks.

    Raises:
        RequestError: `invalid-request`, here or there.
        NetworkError: `network-failed`, `too-large`.
        MalformedError: `malformed-transcript`: this is no advice.
        UnsupportedError: `unsupported-version`.
        VerificationError: `policy-unmet`: what is recommended is not enough for the stakes.
    """
    rule = stakes_rule(wishes.get("stakes", ""))
    try:
        with (
            httpx.Client(
                base_url=url, timeout=timeout_seconds, follow_redirects=False, transport=transport
            ) as client,
            client.stream(
                "GET", "/v1/advise", params=dict(wishes), headers={"accept-encoding": "identity"}
            ) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                refuse(answer.status_code, answer.iter_raw())
            received = read_pieces(answer.iter_raw(), "application/json", MAX_ADVICE_BYTES, None)
    except httpx.HTTPError as error:
        raise NetworkError(
            f"the gateway did not answer: {type(error).__name__}", reason=Reason.NETWORK_FAILED
        ) from error
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise RequestError("this is no address of a gateway", parameter="url") from error
    return read_advice(received, rule, private=wishes.get("privacy") == "operator")


def read_advice(data: bytes, rule: StakesRule, *, private: bool = False) -> Advice:
    """Read advice and judge what it recommends.

    Raises:
        MalformedError, UnsupportedError, VerificationError: as `fetch_advice`.
    """
    try:
        document = json.loads(data)
        if type(document) is not dict or type(document["version"]) is not int:
            raise _malformed()
        if document["version"] != ADVICE_VERSION:
            raise UnsupportedError(
                "the advice is of another version", reason=Reason.UNSUPPORTED_VERSION
            )
        options = tuple(document["options"])
        if len(options) > MAX_OPTIONS or not all(type(each) is dict for each in options):
            raise _malformed()
        reason = document["reason"]
        if type(reason) is not str:
            raise _malformed()
        index, policy, encrypted = _recommended(document["recommendation"], options)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _malformed() from error
    if policy is None:
        return Advice(document, options, None, None, reason)
    shortfalls = rule.shortfalls(policy)
    if private and not (encrypted and _is_attested_by_hardware(policy)):
        shortfalls.append("the operator can read request and answer")
    if shortfalls:
        raise VerificationError(
            f"what is recommended is not enough for {rule.name} stakes: {'; '.join(shortfalls)}",
            reason=Reason.POLICY_UNMET,
        )
    return Advice(document, options, index, policy, reason)


def _recommended(
    chosen: Any, options: Sequence[Mapping[str, Any]]
) -> tuple[int | None, AssurancePolicy | None, bool]:
    """Return which option is recommended, its policy, and whether it is asked for encrypted."""
    if chosen is None:
        return None, None, False
    index = chosen["option"]
    if type(index) is not int or not 0 <= index < len(options):
        raise _malformed()
    assurance = options[index]["assurance"]
    if chosen["assurance"] != assurance:
        raise _malformed()
    return index, _policy(assurance), options[index]["encrypted"] is True


def _is_attested_by_hardware(policy: AssurancePolicy) -> bool:
    classes = policy.attestation.accepted_classes
    return requires_attestation(policy) and classes == {EvidenceClass.HARDWARE}


def _policy(assurance: Any) -> AssurancePolicy:
    try:
        if isinstance(assurance, str):
            return expand(assurance)
        return AssurancePolicy.from_document(assurance)
    except Error as error:
        raise _malformed() from error


def _malformed() -> MalformedError:
    return MalformedError("this is no advice", reason=Reason.MALFORMED_TRANSCRIPT)
