"""A gateway that advises in its own favour: the caller's own table decides."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from verispect.appraisal.policy import SIGNED, expand
from verispect.appraisal.stakes import STAKES
from verispect.client.advice import MAX_ADVICE_BYTES, fetch_advice, read_advice
from verispect.core.errors import (
    Error,
    MalformedError,
    NetworkError,
    Reason,
    RequestError,
    UnsupportedError,
    VerificationError,
)


def advice(assurance: Any, *, encrypted: bool = False, **fields: Any) -> bytes:
    option = {"assurance": assurance, "encrypted": encrypted, "name": "x"}
    document = {
        "version": 1,
        "options": [option],
        "recommendation": {"option": 0, "assurance": assurance},
        "reason": "trust me",
    }
    return json.dumps({**document, **fields}).encode()


@pytest.mark.parametrize("stakes", ["moderate", "high", "critical"])
def test_less_than_the_stakes_require_is_refused(stakes: str) -> None:
    """`signed` is not enough for anything that matters, however warmly it is recommended."""
    with pytest.raises(VerificationError) as caught:
        read_advice(advice("signed"), STAKES[stakes])
    assert caught.value.reason is Reason.POLICY_UNMET


def test_a_policy_that_only_sounds_strong_is_refused() -> None:
    """A policy of the gateway's own is judged by its content, not by its name."""
    named = {**SIGNED.to_json(), "name": "proven"}
    with pytest.raises(VerificationError):
        read_advice(advice(named), STAKES["high"])
    enough = expand("proven+logged").to_json()
    assert read_advice(advice(enough), STAKES["critical"]).policy is not None


def test_alternatives_do_not_hide_a_weak_one() -> None:
    """A proof or the operator's word is the operator's word."""
    policy = expand("proven+logged").to_json()
    policy["claims"]["execution"] = ["asserted", "proven"]
    with pytest.raises(VerificationError):
        read_advice(advice(policy), STAKES["critical"])


def test_development_keys_are_not_slipped_in() -> None:
    """A policy that accepts development keys is not enough for high stakes."""
    policy = {**expand("proven+logged").to_json(), "development_keys": True}
    with pytest.raises(VerificationError):
        read_advice(advice(policy), STAKES["high"])


@pytest.mark.parametrize(
    ("word", "encrypted"),
    [("signed", True), ("attested", False), ("attested-development", True)],
)
def test_privacy_that_is_none_is_refused(word: str, encrypted: bool) -> None:
    """Without encryption to real hardware the operator reads, and no word changes that."""
    with pytest.raises(VerificationError):
        read_advice(advice(word, encrypted=encrypted), STAKES["low"], private=True)
    assert read_advice(advice("attested", encrypted=True), STAKES["low"], private=True).policy


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        advice("signed", version=True),
        advice("signed", options={}),
        advice("signed", options=[1]),
        advice("signed", reason=7),
        advice("signed", recommendation={"option": 1, "assurance": "signed"}),
        advice("signed", recommendation={"option": -1, "assurance": "signed"}),
        advice("signed", recommendation={"option": True, "assurance": "signed"}),
        advice("signed", recommendation={"option": 0, "assurance": "proven"}),
        advice("unheard-of"),
        advice(7),
        advice({"version": 1}),
        advice("signed", options=[{"assurance": "signed"}] * 300),
    ],
)
def test_what_is_no_advice_is_malformed(data: bytes) -> None:
    """Nothing but the format is read, and no accident becomes a recommendation."""
    with pytest.raises(MalformedError):
        read_advice(data, STAKES["low"])


def test_another_version_is_unsupported() -> None:
    """A version of tomorrow is named as what it is."""
    with pytest.raises(UnsupportedError):
        read_advice(advice("signed", version=2), STAKES["low"])


def _serving(answer: httpx.Response) -> httpx.BaseTransport:
    return httpx.MockTransport(lambda _: answer)


def test_endless_and_redirected_answers_are_refused() -> None:
    """A gateway can neither fill the memory nor send the caller elsewhere."""
    wishes = {"model": "m", "stakes": "low"}
    large = httpx.Response(200, stream=httpx.ByteStream(b" " * (MAX_ADVICE_BYTES + 1)))
    with pytest.raises(NetworkError) as caught:
        fetch_advice("http://gateway.example", wishes, transport=_serving(large))
    assert caught.value.reason is Reason.TOO_LARGE
    away = httpx.Response(
        302, headers={"location": "http://other.example/"}, stream=httpx.ByteStream(b"")
    )
    with pytest.raises(Error):
        fetch_advice("http://gateway.example", wishes, transport=_serving(away))
    with pytest.raises(RequestError):
        fetch_advice("http://gateway.example", {"model": "m", "stakes": "none"})
