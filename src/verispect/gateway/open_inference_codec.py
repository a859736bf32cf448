"""Bodies of the Open Inference Protocol v2, with Triton's binary-tensor extension, both ways.

Tensors become bytes here, in their one canonical form (`verispect.engines.interface.Tensor`), and
those bytes are what the model gets and the receipt commits to. The rules where JSON is loose:

- an integer tensor takes JSON integers only, exactly and within range; a boolean tensor takes
  `true` and `false`; a string tensor takes strings;
- a number of a floating-point tensor is read as a double and rounded to the element type; one that
  is too large for it is refused, and JSON has no NaN;
- `FP32` and `FP16` are written as the shortest decimal that reads back, as a double, to the same
  element; integers are written in full, beyond the 53 bits that some clients keep;
- an output with NaN or infinities cannot be written as JSON and is an error; binary carries it.

This module refuses members it does not know: nothing a caller asks for is ignored. It knows
nothing of models; whether tensors fit one is the engine's to say.
"""

from __future__ import annotations

import itertools
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import msgspec

from verispect.core.errors import EngineError, Reason, RequestError
from verispect.engines.interface import Tensor

HEADER_LENGTH: Final = "inference-header-content-length"
"""The header that says where JSON ends and binary tensors begin."""

MAX_TENSORS: Final = 256
"""Upper limit of the inputs, and of the outputs, named in one request."""

MAX_NAME_CHARACTERS: Final = 256
"""Upper limit of a request's `id` and of a tensor's name."""

MAX_RANK: Final = 8
"""Upper limit of the number of dimensions of a tensor."""

_CODES: Final[Mapping[str, tuple[str, type]]] = {
    "BOOL": ("?", bool),
    "UINT8": ("B", int),
    "UINT16": ("H", int),
    "UINT32": ("I", int),
    "UINT64": ("Q", int),
    "INT8": ("b", int),
    "INT16": ("h", int),
    "INT32": ("i", int),
    "INT64": ("q", int),
    "FP16": ("e", float),
    "FP32": ("f", float),
    "FP64": ("d", float),
}
"""Per datatype the `struct` code and the JSON type of an element."""

_DIGITS: Final = {"e": (3, 4, 5), "f": (6, 7, 8, 9)}
"""Significant digits to try: the least that always survive, up to the most ever needed."""

_NESTED: Final = re.compile(rb"\[[ \t\r\n]*\[")


_ABSENT: Final = msgspec.Raw()


class _InputParameters(msgspec.Struct, forbid_unknown_fields=True):
    binary_data_size: int | None = None


class _Input(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: list[int]
    datatype: str
    parameters: _InputParameters | None = None
    data: msgspec.Raw = _ABSENT


class _OutputParameters(msgspec.Struct, forbid_unknown_fields=True):
    binary_data: bool | None = None


class _Output(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: _OutputParameters | None = None


class _RequestParameters(msgspec.Struct, forbid_unknown_fields=True):
    binary_data_output: bool = False
    assurance: str | dict[str, Any] | None = None


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[_Input]
    id: str | None = None
    parameters: _RequestParameters | None = None
    outputs: list[_Output] = []


_request_decoder: Final = msgspec.json.Decoder(_Request)


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """One request for an inference, its tensors as bytes."""

    identifier: str | None
    """`id`, to be echoed."""
    inputs: list[Tensor]
    """In the caller's order."""
    outputs: list[str]
    """Names of the outputs asked for; empty for all."""
    binary_outputs: Mapping[str, bool]
    """For the outputs named, whether each is wanted in binary."""
    binary_by_default: bool
    """Whether outputs that were not named are wanted in binary."""
    assurance: str | dict[str, Any] | None


def parse(body: bytes, headers: Mapping[str, str]) -> InferenceRequest:
    """Read the body of an inference request.

    Args:
        body: the whole body.
        headers: names in lower case.

    Raises:
        RequestError: `malformed-json` for what is not JSON, `invalid-request` for the rest.
    """
    length_text = headers.get(HEADER_LENGTH)
    if length_text is None:
        binary: memoryview | None = None
        request: _Request = _decode(_request_decoder.decode, body, "body")
    else:
        length = _header_length(length_text, len(body))
        binary = memoryview(body)[length:]
        request = _decode(_request_decoder.decode, memoryview(body)[:length], "body")
    if len(request.inputs) > MAX_TENSORS or len(request.outputs) > MAX_TENSORS:
        raise RequestError(f"expected at most {MAX_TENSORS} tensors", parameter="inputs")
    if request.id is not None:
        _check_name(request.id, "id")
    parameters = request.parameters or _RequestParameters()
    default = parameters.binary_data_output
    wanted: dict[str, bool] = {}
    for output in request.outputs:
        _check_name(output.name, "outputs")
        if output.name in wanted:
            raise RequestError("an output is named twice", parameter="outputs")
        choice = output.parameters.binary_data if output.parameters else None
        wanted[output.name] = default if choice is None else choice
    return InferenceRequest(
        identifier=request.id,
        inputs=_read_inputs(request.inputs, binary),
        outputs=list(wanted),
        binary_outputs=wanted,
        binary_by_default=default,
        assurance=parameters.assurance,
    )


def _header_length(text: str, available: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise RequestError("expected a number of bytes", parameter=HEADER_LENGTH)
    length = int(text)
    if length > available:
        raise RequestError(
            f"expected at most the {available} bytes of the body", parameter=HEADER_LENGTH
        )
    return length


def _decode(decoder: Callable[[Any], Any], data: Any, parameter: str) -> Any:
    """Decode JSON, turning every way to fail into our own error.

    The cause is not chained: it can quote the caller's data. msgspec's own messages name types
    and member names only.
    """
    try:
        return decoder(data)
    except msgspec.ValidationError as error:
        raise RequestError(_lower(str(error)), parameter=parameter) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RequestError(
            "expected JSON in UTF-8", reason=Reason.MALFORMED_JSON, parameter=parameter
        ) from None
    except RecursionError:
        raise RequestError(
            "JSON is nested too deep", reason=Reason.TOO_DEEP, parameter=parameter
        ) from None


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:300]


def _check_name(name: str, parameter: str) -> None:
    if len(name) > MAX_NAME_CHARACTERS:
        raise RequestError(
            f"expected at most {MAX_NAME_CHARACTERS} characters", parameter=parameter
        )


def _read_inputs(inputs: Sequence[_Input], binary: memoryview | None) -> list[Tensor]:
    tensors: list[Tensor] = []
    offset = 0
    for item in inputs:
        name = item.name
        _check_name(name, "inputs")
        if len(item.shape) > MAX_RANK:
            raise RequestError(f"expected at most {MAX_RANK} dimensions", parameter=name)
        size = item.parameters.binary_data_size if item.parameters else None
        if (size is None) == (item.data is _ABSENT):
            raise RequestError("expected either data or binary_data_size", parameter=name)
        if size is None:
            data = _from_json(item)
        else:
            if binary is None:
                raise RequestError(f"binary data needs the header {HEADER_LENGTH}", parameter=name)
            if not 0 <= size <= len(binary) - offset:
                raise RequestError("binary_data_size exceeds the body", parameter=name)
            data = bytes(binary[offset : offset + size])
            offset += size
        tensors.append(Tensor(name, item.datatype, tuple(item.shape), data))
    if binary is not None and offset != len(binary):
        raise RequestError(
            f"{len(binary) - offset} bytes of the body belong to no tensor", parameter="body"
        )
    return tensors


@cache
def _decoder(element: type, depth: int) -> Callable[[Any], Any]:
    """Return a strict decoder of `depth` nested lists of `element`."""
    kind: Any = element
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind).decode


def _from_json(item: _Input) -> bytes:
    """Turn JSON data, flat or nested as the shape says, into canonical bytes."""
    name, shape = item.name, item.shape
    code, element = _CODES.get(item.datatype, ("", str))
    if not code and item.datatype != "BYTES":
        raise RequestError(f"datatype {item.datatype[:16]!r} has no JSON form here", parameter=name)
    raw = item.data
    depth = len(shape) if len(shape) > 1 and _NESTED.match(raw) else 1
    values: list[Any] = _decode(_decoder(element, depth), raw, name)
    if depth > 1:
        values = _flatten(values, shape, name)
    if not code:
        return _pack_strings(values)
    try:
        return struct.pack(f"<{len(values)}{code}", *values)
    except (struct.error, OverflowError):
        raise RequestError(f"a value is out of range for {item.datatype}", parameter=name) from None


def _flatten(values: list[Any], shape: Sequence[int], name: str) -> list[Any]:
    level = [values]
    for size in shape:
        if any(len(part) != size for part in level):
            raise RequestError("nested data does not follow the shape", parameter=name)
        level = list(itertools.chain.from_iterable(level))
    return level


def _pack_strings(values: Sequence[str]) -> bytes:
    parts: list[bytes] = []
    for value in values:
        encoded = value.encode("utf-8")
        parts.append(struct.pack("<I", len(encoded)))
        parts.append(encoded)
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class RenderedOutputs:
    """Outputs as they will be written: JSON members, and the bytes behind the JSON."""

    members: list[dict[str, Any]]
    tail: bytes | None
    """`None` where no output is binary."""


def render_outputs(outputs: Sequence[Tensor], request: InferenceRequest) -> RenderedOutputs:
    """Write tensors as `request` asked for them.

    Raises:
        EngineError: `engine-failed` for NaN or infinities that JSON would have to carry.
    """
    members: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for tensor in outputs:
        member: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if request.binary_outputs.get(tensor.name, request.binary_by_default):
            member["parameters"] = {"binary_data_size": len(tensor.data)}
            binary.append(tensor.data)
        else:
            member["data"] = json_values(tensor)
        members.append(member)
    return RenderedOutputs(members, b"".join(binary) if binary else None)


def render(
    *,
    model_name: str,
    model_version: str,
    identifier: str | None,
    parameters: Mapping[str, Any],
    outputs: RenderedOutputs,
) -> tuple[bytes, int | None]:
    """Return the response body, and the length of its JSON where binary follows."""
    answer: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if identifier is not None:
        answer["id"] = identifier
    answer["parameters"] = parameters
    answer["outputs"] = outputs.members
    head = msgspec.json.encode(answer)
    return (head, None) if outputs.tail is None else (head + outputs.tail, len(head))


def json_values(tensor: Tensor) -> list[Any]:
    """Return the elements of `tensor`, flat, as JSON values.

    Raises:
        EngineError: `engine-failed` for NaN and infinities.
    """
    if tensor.datatype == "BYTES":
        return _unpack_strings(tensor.data)
    code, element = _CODES[tensor.datatype]
    count = len(tensor.data) // struct.calcsize(code)
    values = struct.unpack(f"<{count}{code}", tensor.data)
    if element is not float:
        return list(values)
    if not all(map(math.isfinite, values)):
        raise EngineError(
            f"output {tensor.name!r} is not finite; JSON cannot carry it, binary can",
            reason=Reason.ENGINE_FAILED,
        )
    return _shortest(values, code) if code in _DIGITS else list(values)


def _shortest(values: Sequence[float], code: str) -> list[float]:
    """Return doubles with the fewest digits that still round to the same elements.

    The check goes through the double, as a JSON reader does: `7.038531e-26` is the shortest name
    of a single, but its double rounds to the neighbour, so that one gets one more digit.
    """
    result = list(values)
    pending: Sequence[int] = range(len(result))
    for digits in _DIGITS[code]:
        candidates = [float(f"{values[index]:.{digits}g}") for index in pending]
        layout = f"<{len(candidates)}{code}"
        read_back = struct.unpack(layout, struct.pack(layout, *candidates))
        missed: list[int] = []
        for index, candidate, element in zip(pending, candidates, read_back, strict=True):
            if element == values[index]:
                result[index] = candidate
            else:
                missed.append(index)
        if not missed:
            break
        pending = missed
    return result


def _unpack_strings(data: bytes) -> list[str]:
    values: list[str] = []
    offset = 0
    while offset < len(data):
        (length,) = struct.unpack_from("<I", data, offset)
        offset += 4
        values.append(data[offset : offset + length].decode("utf-8"))
        offset += length
    return values
