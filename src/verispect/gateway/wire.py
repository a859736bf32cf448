"""From the bytes of a JSON body to a checked structure, and what all JSON routes share.

Reading is strict, because what is signed must be what was meant: an unknown field, a key given
twice, text that is not UTF-8, `NaN` and numbers beyond 64 bits are errors, never guesses. Two
parsers that disagree on which of two equal keys counts would read two requests in one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from verispect.core.encoding import to_base64url
from verispect.core.errors import MalformedError, Reason, RequestError
from verispect.engines.interface import EngineIdentity, Lane
from verispect.gateway.http import HttpRequest
from verispect.gateway.limits import Limits

_LANE_HEADER: Final = "verispect-lane"
_MAXIMUM_SHOWN: Final = 64
_MAXIMUM_INTEGER: Final = (1 << 64) - 1
_MINIMUM_INTEGER: Final = -(1 << 63)

_Shape = TypeVar("_Shape")


class _DuplicateKeyError(Exception):
    pass


def decode_body(body: bytes, shape: type[_Shape], limits: Limits) -> _Shape:
    """Decode one JSON document into `shape`.

    Args:
        body: the bytes as received.
        shape: a msgspec structure, best one that forbids unknown fields.
        limits: for the depth.

    Returns:
        The structure; everything untyped in it can be committed to.

    Raises:
        RequestError: `invalid-request` with the field at fault, for a document of another shape.
        MalformedError: `malformed-json` for bytes that are not strict JSON, `too-deep`.
    """
    if not body:
        raise MalformedError("the body is empty", reason=Reason.MALFORMED_JSON)
    try:
        document = msgspec.json.decode(body, type=shape)
        # A second pass with another parser: the first one keeps the last of two equal keys.
        content = json.loads(body, object_pairs_hook=_refuse_duplicates)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except RecursionError:
        raise _too_deep(limits) from None
    except _DuplicateKeyError:
        raise RequestError("a key is given twice in one object") from None
    except UnicodeDecodeError:
        raise MalformedError("the body is not UTF-8", reason=Reason.MALFORMED_JSON) from None
    except ValueError as error:
        where = str(error) if isinstance(error, msgspec.DecodeError) else "another reading differs"
        raise MalformedError(
            f"the body is not JSON: {where}", reason=Reason.MALFORMED_JSON
        ) from None
    _check_content(content, limits)
    return document


def convert(value: Any, shape: type[_Shape], parameter: str) -> _Shape:
    """Check a decoded JSON value against `shape`.

    Raises:
        RequestError: `invalid-request`, naming the field below `parameter`.
    """
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), parameter) from None


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _DuplicateKeyError
    return members


def _invalid(message: str, parent: str = "") -> RequestError:
    """Turn msgspec's message into ours; it names types and fields, never values."""
    what, _, path = message.partition(" - at `$")
    field = parent + path.rstrip("`")
    if what.startswith("Object contains unknown field `"):
        name = what.split("`")[1]
        field = f"{field}.{name}".strip(".")
        what = "unknown parameter"
    elif what.startswith("Object missing required field `"):
        name = what.split("`")[1]
        field = f"{field}.{name}".strip(".")
        what = "required parameter is missing"
    else:
        what = what[:1].lower() + what[1:]
    shown = _shown(field.strip("."))
    return RequestError(f"{what}: {shown}" if shown else what, parameter=shown or None)


def _shown(text: str) -> str:
    """Return a field name as an answer may show it."""
    clean = "".join(c if c.isprintable() else "?" for c in text[:_MAXIMUM_SHOWN])
    return clean + "…" if len(text) > _MAXIMUM_SHOWN else clean


def _too_deep(limits: Limits) -> MalformedError:
    return MalformedError(
        f"expected at most {limits.maximum_json_depth} nested arrays and objects",
        reason=Reason.TOO_DEEP,
    )


def _check_content(content: Any, limits: Limits) -> None:
    """Refuse what has no encoding in a commitment: too deep, or integers beyond 64 bits."""
    level = [content]
    for _ in range(limits.maximum_json_depth + 1):
        following: list[Any] = []
        for value in level:
            kind = type(value)
            if kind is dict:
                following.extend(value.values())
            elif kind is list:
                following.extend(value)
            elif kind is int and not _MINIMUM_INTEGER <= value <= _MAXIMUM_INTEGER:
                raise RequestError("an integer must fit in 64 bits")
        if not following:
            return
        level = following
    raise _too_deep(limits)


def read_lane(request: HttpRequest) -> Lane:
    """Return the lane that `request` asks for.

    Raises:
        RequestError: for an unknown lane.
    """
    name = request.headers.get(_LANE_HEADER)
    if name is None:
        return Lane.THROUGHPUT
    try:
        return Lane(name)
    except ValueError:
        known = ", ".join(lane.value for lane in Lane)
        raise RequestError(
            f"unknown lane in header Verispect-Lane, expected one of {known}",
            parameter=_LANE_HEADER,
        ) from None


def refuse_unsupported(fields: Mapping[str, tuple[Any, tuple[Any, ...]]]) -> None:
    """Refuse every field that asks for something this server does not do.

    Args:
        fields: for each field its value and the values that ask for nothing; null is always one.

    Raises:
        RequestError: naming the field.
    """
    for name, (value, harmless) in fields.items():
        if value is not None and value not in harmless:
            raise RequestError(f"this server does not support {name}", parameter=name)


def check_metadata(metadata: Mapping[str, str] | None, limits: Limits) -> None:
    """Refuse metadata beyond OpenAI's limits.

    Raises:
        RequestError: naming `metadata`.
    """
    if metadata is None:
        return
    if len(metadata) > limits.maximum_metadata_entries:
        raise RequestError(
            f"expected at most {limits.maximum_metadata_entries} entries of metadata",
            parameter="metadata",
        )
    for key, value in metadata.items():
        if (
            len(key) > limits.maximum_metadata_key_characters
            or len(value) > limits.maximum_metadata_value_characters
        ):
            raise RequestError("a key or value of metadata is too long", parameter="metadata")


def read_stops(stop: str | Sequence[str] | None, limits: Limits) -> tuple[str, ...]:
    """Return the stop strings.

    Raises:
        RequestError: for too many, empty or overlong ones.
    """
    if stop is None:
        return ()
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > limits.maximum_stops:
        raise RequestError(
            f"expected at most {limits.maximum_stops} stop strings, got {len(stops)}",
            parameter="stop",
        )
    for item in stops:
        if not item or len(item) > limits.maximum_stop_characters:
            raise RequestError(
                f"a stop string must have 1 to {limits.maximum_stop_characters} characters",
                parameter="stop",
            )
    return stops


def read_logit_bias(bias: Mapping[str, float] | None, limits: Limits) -> dict[int, float]:
    """Return the bias by token id.

    Raises:
        RequestError: for too many entries, keys that are not token ids, values beyond ±100.
    """
    if bias is None:
        return {}
    if len(bias) > limits.maximum_logit_bias:
        raise RequestError(
            f"expected at most {limits.maximum_logit_bias} entries of logit_bias",
            parameter="logit_bias",
        )
    result: dict[int, float] = {}
    for key, value in bias.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and str(int(key)) == key):
            raise RequestError("a key of logit_bias is not a token id", parameter="logit_bias")
        if not -100 <= value <= 100:
            raise RequestError("a value of logit_bias is beyond ±100", parameter="logit_bias")
        result[int(key)] = value
    return result


def system_fingerprint(identity: EngineIdentity) -> str:
    """Return the fingerprint that OpenAI's answers carry: of the engine and all its settings."""
    return f"fp_{identity.digest().hex()[:12]}"


def receipt_member(receipt: bytes, receipt_id: str, inference: str) -> dict[str, str]:
    """Return the `verispect` member of a JSON answer."""
    return {"receipt_id": receipt_id, "receipt": to_base64url(receipt), "inference": inference}
