"""Errors as OpenAI clients read them."""

from __future__ import annotations

import json
import logging

import pytest

from verispect.core import errors
from verispect.core.errors import Reason
from verispect.gateway.errors import HttpError, error_response
from verispect.gateway.limits import Limits
from verispect.gateway.wire import read_logit_bias, read_stops


@pytest.mark.parametrize(
    ("error", "status", "code", "kind"),
    [
        (errors.RequestError("no"), 400, "invalid-request", "invalid_request_error"),
        (
            errors.RequestError("no", reason=Reason.ASSURANCE_UNKNOWN),
            400,
            "assurance-unknown",
            "invalid_request_error",
        ),
        (
            errors.MalformedError("no", reason=Reason.MALFORMED_JSON),
            400,
            "malformed-json",
            "invalid_request_error",
        ),
        (
            errors.ModelError("no", reason=Reason.MODEL_NOT_FOUND),
            404,
            "model_not_found",
            "invalid_request_error",
        ),
        (
            errors.ModelError("no", reason=Reason.MODEL_CHANGED),
            503,
            "model-changed",
            "server_error",
        ),
        (
            errors.EngineError("no", reason=Reason.ENGINE_OVERLOADED),
            503,
            "engine-overloaded",
            "server_error",
        ),
        (
            errors.EngineError("no", reason=Reason.ENGINE_FAILED),
            500,
            "engine-failed",
            "server_error",
        ),
        (
            errors.NetworkError("no", reason=Reason.UPSTREAM_FAILED),
            502,
            "upstream-failed",
            "server_error",
        ),
        (
            errors.RequestError("no", reason=Reason.OPENING_FORBIDDEN),
            403,
            "opening-forbidden",
            "permission_error",
        ),
        (HttpError("no", status=429), 429, "invalid-request", "rate_limit_error"),
    ],
)
def test_an_error_of_ours_keeps_its_message_and_code(error, status, code, kind):
    """Status, type and code follow from the class and the reason."""
    response = error_response(error)
    assert response.status == status
    assert json.loads(response.body) == {
        "error": {"message": "no", "type": kind, "param": None, "code": code}
    }


def test_every_reason_has_a_status():
    """No reason code falls through as a success, whatever class it comes in."""
    for kind in (errors.RequestError, errors.EngineError, errors.ModelError, errors.StoreError):
        for reason in Reason:
            assert 400 <= error_response(kind("no", reason=reason)).status <= 599


@pytest.mark.parametrize("reason", [Reason.ENGINE_OVERLOADED, Reason.SERVER_OVERLOADED])
def test_overload_says_when_to_come_back(reason):
    """Clients wait as long as the server asks for."""
    response = error_response(errors.EngineError("busy", reason=reason), retry_after_seconds=7)
    assert ("retry-after", "7") in response.headers


@pytest.mark.parametrize(
    "error",
    [
        ValueError("my-secret-words"),
        KeyError("my-secret-words"),
        errors.TrustError("my-secret-words", reason=Reason.TRUSTED_ROOT_STALE),
    ],
)
def test_what_is_not_the_callers_business_is_a_number(error, caplog):
    """The answer has a number, the log has the number and the place, neither has the message."""
    with caplog.at_level(logging.DEBUG):
        try:
            raise error
        except type(error) as raised:
            response = error_response(raised)
    assert response.status == 500
    number = json.loads(response.body)["error"]["message"].split()[5].rstrip(",")
    assert number in caplog.text
    assert type(error).__name__ in caplog.text
    assert "test_gateway_errors" in caplog.text
    assert "my-secret-words" not in caplog.text + response.body.decode()


def test_a_failing_store_is_told_to_the_operator_only(caplog):
    """The log has the words about files; the answer has the code and a number."""
    error = errors.StoreError("cannot write /secret/place", reason=Reason.STORE_FAILED)
    response = error_response(error)
    assert response.status == 503
    assert json.loads(response.body)["error"]["code"] == "store-failed"
    assert b"/secret/place" not in response.body
    assert "/secret/place" in caplog.text


def test_stop_strings_are_read_from_either_form():
    """One string is a list of one."""
    assert read_stops(None, Limits()) == ()
    assert read_stops("a", Limits()) == ("a",)
    assert read_stops(["a", "b"], Limits()) == ("a", "b")


@pytest.mark.parametrize("key", ["", "-1", "+1", "01", "1.0", "1_0", "٣", " 1", "10000000000"])
def test_a_bias_key_is_a_plain_decimal(key):
    """Python reads more forms of a number than JSON clients mean."""
    with pytest.raises(errors.RequestError):
        read_logit_bias({key: 1.0}, Limits())
