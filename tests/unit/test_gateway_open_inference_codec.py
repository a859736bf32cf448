"""The Open Inference Protocol codec: tensors in, tensors out, and nothing loose in between."""

from __future__ import annotations

import json
import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verispect.core.errors import EngineError, Reason, RequestError
from verispect.engines.interface import Tensor
from verispect.engines.tensors import pack_strings
from verispect.gateway.open_inference_codec import (
    HEADER_LENGTH,
    json_values,
    parse,
    render,
    render_outputs,
)


def body(*inputs: object, **members: object) -> bytes:
    return json.dumps({"inputs": list(inputs), **members}).encode()


def one(datatype: str, shape: list[int], data: object, **members: object) -> bytes:
    return body({"name": "x", "shape": shape, "datatype": datatype, "data": data}, **members)


JSON_FORMS = [
    ("BOOL", [2], [True, False], b"\1\0"),
    ("UINT8", [2], [0, 255], b"\0\xff"),
    ("UINT16", [2], [0, 65535], struct.pack("<2H", 0, 65535)),
    ("UINT32", [1], [2**32 - 1], b"\xff" * 4),
    ("UINT64", [1], [2**64 - 1], b"\xff" * 8),
    ("INT8", [2], [-128, 127], b"\x80\x7f"),
    ("INT16", [1], [-32768], b"\0\x80"),
    ("INT32", [1], [-(2**31)], b"\0\0\0\x80"),
    ("INT64", [2], [2**63 - 1, 2**53 + 1], struct.pack("<2q", 2**63 - 1, 2**53 + 1)),
    ("FP16", [2], [1.5, 2], struct.pack("<2e", 1.5, 2)),
    ("FP32", [2], [0.1, 7], struct.pack("<2f", 0.1, 7)),
    ("FP64", [2], [0.1, 7], struct.pack("<2d", 0.1, 7)),
    ("BYTES", [2], ["", "é\0"], pack_strings(["", "é\0"])),
]


@pytest.mark.parametrize(("datatype", "shape", "data", "expected"), JSON_FORMS)
def test_every_datatype_is_read_from_json(datatype, shape, data, expected):
    """JSON elements become the one canonical form of their datatype."""
    (tensor,) = parse(one(datatype, shape, data), {}).inputs
    assert tensor == Tensor("x", datatype, tuple(shape), expected)


@pytest.mark.parametrize(("datatype", "shape", "data", "expected"), JSON_FORMS)
def test_every_datatype_is_written_to_json(datatype, shape, data, expected):
    """Canonical bytes become the JSON elements that they were read from."""
    assert json_values(Tensor("x", datatype, tuple(shape), expected)) == data


def test_nested_and_flat_data_are_the_same_tensor():
    """Nesting that follows the shape is another way to write the same elements."""
    flat = parse(one("INT32", [2, 1, 3], [1, 2, 3, 4, 5, 6]), {}).inputs
    nested = parse(one("INT32", [2, 1, 3], [[[1, 2, 3]], [[4, 5, 6]]]), {}).inputs
    assert nested == flat


REFUSED_DATA = [
    ("INT32", [1], [1.5]),
    ("INT32", [1], [1.0]),
    ("INT32", [1], [True]),
    ("INT32", [1], ["1"]),
    ("INT32", [1], [2**31]),
    ("UINT8", [1], [-1]),
    ("UINT64", [1], [2**64]),
    ("INT64", [1], [10**40]),
    ("BOOL", [1], [1]),
    ("BOOL", [1], [None]),
    ("FP32", [1], [True]),
    ("FP32", [1], ["1.5"]),
    ("FP32", [1], [1e39]),
    ("FP16", [1], [70000]),
    ("FP64", [1], [None]),
    ("FP64", [1], {}),
    ("FP64", [], 1.0),
    ("BYTES", [1], [1]),
    ("FP32", [2, 2], [[1, 2], [3]]),
    ("FP32", [2, 2], [[1, 2, 3, 4]]),
    ("FP32", [2, 2], [[[1, 2]], [[3, 4]]]),
    ("FP32", [2, 2], [[1, 2], 3]),
    ("FP32", [4], [[1, 2], [3, 4]]),
    ("BF16", [1], [1.0]),
    ("FP8", [1], [1.0]),
    ("", [1], [1.0]),
    ("FP32", [1] * 9, [1.0]),
]


@pytest.mark.parametrize(("datatype", "shape", "data"), REFUSED_DATA)
def test_elements_are_never_coerced(datatype, shape, data):
    """An element of another JSON type, out of range or out of place is refused by tensor name."""
    with pytest.raises(RequestError) as refused:
        parse(one(datatype, shape, data), {})
    assert refused.value.parameter in ("x", "body")


REFUSED_BODIES = [
    b"",
    b"[]",
    b"{}",
    b"{",
    b"\xff",
    b'{"inputs":[]} x',
    b'{"inputs":[{"name":"\xff","shape":[1],"datatype":"FP32","data":[1]}]}',
    b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["\xff"]}]}',
    b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["\\ud800"]}]}',
    b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}',
    b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[Infinity]}]}',
    b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[1e999]}]}',
    b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":' + b"[" * 100_000 + b"}]}",
    b'{"inputs":' + b"[" * 100_000,
    b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[' + b"9" * 5000 + b"]}]}",
    b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT64","data":[' + b"9" * 5000 + b"]}]}",
    b'{"inputs":[{"name":"x","shape":[1.5],"datatype":"FP32","data":[1]}]}',
    b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]}',
    b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":null}]}',
    b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1],"extra":1}]}',
    b'{"inputs":[],"asurance":"signed"}',
    b'{"inputs":[],"parameters":{"asurance":"signed"}}',
    b'{"inputs":[],"parameters":{"priority":1}}',
    b'{"inputs":[],"parameters":{"assurance":1}}',
    b'{"inputs":[],"outputs":[{"name":"y"},{"name":"y"}]}',
    b'{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":3}}]}',
    b'{"inputs":[],"id":7}',
    b'{"inputs":[],"id":"' + b"i" * 257 + b'"}',
    body(*[{"name": "x", "shape": [0], "datatype": "FP32", "data": []}] * 257),
]


@pytest.mark.parametrize("request_body", REFUSED_BODIES)
def test_bodies_that_are_not_requests_are_refused(request_body):
    """What is not the protocol, or asks for what would be ignored, is the caller's error."""
    with pytest.raises(RequestError):
        parse(request_body, {})


def test_not_json_and_wrong_json_have_different_reasons():
    """A caller can tell text that is not JSON from JSON that is not a request."""
    with pytest.raises(RequestError) as not_json:
        parse(b"{", {})
    with pytest.raises(RequestError) as not_request:
        parse(b"{}", {})
    assert not_json.value.reason is Reason.MALFORMED_JSON
    assert not_request.value.reason is Reason.INVALID_REQUEST


def binary(*tensors: tuple[str, bytes], tail: bytes = b"") -> tuple[bytes, dict[str, str]]:
    head = body(
        *[
            {
                "name": name,
                "shape": [len(data)],
                "datatype": "UINT8",
                "parameters": {"binary_data_size": len(data)},
            }
            for name, data in tensors
        ]
    )
    whole = head + b"".join(data for _, data in tensors) + tail
    return whole, {HEADER_LENGTH: str(len(head))}


def test_binary_tensors_follow_in_order():
    """Binary data is cut from behind the JSON in the order of the inputs."""
    asked = parse(*binary(("a", b"12"), ("b", b""), ("c", b"345")))
    assert [(item.name, item.data) for item in asked.inputs] == [
        ("a", b"12"),
        ("b", b""),
        ("c", b"345"),
    ]


def test_binary_and_json_tensors_mix():
    """One input can come as JSON and another as bytes."""
    head = body(
        {"name": "a", "shape": [1], "datatype": "UINT8", "data": [7]},
        {"name": "b", "shape": [1], "datatype": "UINT8", "parameters": {"binary_data_size": 1}},
    )
    asked = parse(head + b"\x09", {HEADER_LENGTH: str(len(head))})
    assert [item.data for item in asked.inputs] == [b"\7", b"\x09"]


@pytest.mark.parametrize(
    "length", ["", "-1", "+5", "1_0", "٣", "0", "999999", "9" * 30, " 5", "0x5"]
)
def test_header_length_is_a_plain_number_within_the_body(length):
    """The length of the JSON head is plain digits and not beyond the body."""
    whole, _ = binary(("a", b"12"))
    with pytest.raises(RequestError):
        parse(whole, {HEADER_LENGTH: length})


def test_binary_sizes_account_for_every_byte():
    """Bytes that belong to no tensor, and tensors without their bytes, are refused."""
    with pytest.raises(RequestError, match="belong to no tensor"):
        parse(*binary(("a", b"12"), tail=b"3"))
    whole, headers = binary(("a", b"12"))
    with pytest.raises(RequestError, match="exceeds"):
        parse(whole[:-1], headers)
    with pytest.raises(RequestError, match="header"):
        parse(whole[:-2], {})


def test_data_and_binary_exclude_each_other():
    """A tensor given twice, as JSON and as bytes, has no one meaning."""
    head = body(
        {
            "name": "a",
            "shape": [1],
            "datatype": "UINT8",
            "data": [7],
            "parameters": {"binary_data_size": 1},
        }
    )
    with pytest.raises(RequestError, match="either"):
        parse(head + b"\7", {HEADER_LENGTH: str(len(head))})


def test_shared_memory_is_refused():
    """A region of the server's memory is no input."""
    with pytest.raises(RequestError, match="shared_memory_region"):
        parse(
            body(
                {
                    "name": "a",
                    "shape": [1],
                    "datatype": "UINT8",
                    "parameters": {"shared_memory_region": "r"},
                }
            ),
            {},
        )


def test_each_output_can_choose_its_form():
    """An output's own wish comes before that of the request."""
    asked = parse(
        body(
            outputs=[{"name": "a"}, {"name": "b", "parameters": {"binary_data": False}}],
            parameters={"binary_data_output": True},
        ),
        {},
    )
    a, b = Tensor("a", "UINT8", (2,), b"\1\2"), Tensor("b", "UINT8", (1,), b"\3")
    rendered = render_outputs([a, b], asked)
    whole, length = render(
        model_name="m", model_version="1", identifier="7", parameters={}, outputs=rendered
    )
    assert length is not None
    assert json.loads(whole[:length]) == {
        "model_name": "m",
        "model_version": "1",
        "id": "7",
        "parameters": {},
        "outputs": [
            {
                "name": "a",
                "datatype": "UINT8",
                "shape": [2],
                "parameters": {"binary_data_size": 2},
            },
            {"name": "b", "datatype": "UINT8", "shape": [1], "data": [3]},
        ],
    }
    assert whole[length:] == b"\1\2"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_not_finite_outputs_need_binary(datatype, value):
    """NaN never becomes `null`: JSON is refused, binary carries it."""
    code = {"FP16": "e", "FP32": "f", "FP64": "d"}[datatype]
    tensor = Tensor("y", datatype, (1,), struct.pack(f"<{code}", value))
    with pytest.raises(EngineError, match="not finite"):
        render_outputs([tensor], parse(body(), {}))
    asked = parse(body(parameters={"binary_data_output": True}), {})
    assert render_outputs([tensor], asked).tail == tensor.data


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1, "0.1"), (1 / 3, "0.33333334"), (3.4028234663852886e38, "3.4028235e+38"), (2.0, "2.0")],
)
def test_singles_are_written_in_their_shortest_form(value, text):
    """A single is written with the digits it needs, not those of its double."""
    (written,) = json_values(Tensor("y", "FP32", (1,), struct.pack("<f", value)))
    assert repr(written) == text


def test_the_single_whose_shortest_name_is_another_single():
    """One notorious single gets a digit more, because readers go through a double."""
    data = struct.pack("<I", 0x15AE43FD)
    (written,) = json_values(Tensor("y", "FP32", (1,), data))
    assert struct.pack("<f", written) == data
    assert struct.pack("<f", float("7.038531e-26")) != data


FINITE = {
    "FP16": st.floats(width=16, allow_nan=False, allow_infinity=False),
    "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "FP64": st.floats(allow_nan=False, allow_infinity=False),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "UINT64": st.integers(0, 2**64 - 1),
    "BOOL": st.booleans(),
    "BYTES": st.text(max_size=20),
}
CODES = {"FP16": "e", "FP32": "f", "FP64": "d", "INT64": "q", "UINT64": "Q", "BOOL": "?"}


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from(sorted(FINITE)))
    values = draw(st.lists(FINITE[datatype], max_size=12))
    if datatype == "BYTES":
        data = pack_strings(values)
    else:
        data = struct.pack(f"<{len(values)}{CODES[datatype]}", *values)
    return Tensor(draw(st.text(min_size=1, max_size=8)), datatype, (len(values),), data)


def as_request(answer: bytes, length: int | None) -> tuple[bytes, dict[str, str]]:
    """Turn an answer's outputs into a request's inputs."""
    head = json.loads(answer if length is None else answer[:length])
    request = json.dumps({"inputs": head["outputs"]}).encode()
    if length is None:
        return request, {}
    return request + answer[length:], {HEADER_LENGTH: str(len(request))}


@given(st.lists(tensors(), max_size=4), st.booleans())
def test_what_is_written_reads_back_bit_for_bit(given_tensors, wants_binary):
    """Reading what was written gives the same tensors, in both forms."""
    asked = parse(body(parameters={"binary_data_output": wants_binary}), {})
    answer, length = render(
        model_name="m",
        model_version="1",
        identifier=None,
        parameters={},
        outputs=render_outputs(given_tensors, asked),
    )
    assert parse(*as_request(answer, length)).inputs == given_tensors


VALID = [
    (one("FP32", [2, 2], [[0.5, 1], [2, 3]], id="a"), {}),
    (one("BYTES", [2], ["a", "é"], outputs=[{"name": "y"}]), {}),
    binary(("a", b"1234"), ("b", b"56")),
]


@given(st.data())
@settings(max_examples=300)
def test_mutations_are_read_or_refused(data):
    """Any change to a valid request is another request or a refusal, never another error."""
    whole, headers = data.draw(st.sampled_from(VALID))
    mutated = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(mutated)))
        mutated[position : position + data.draw(st.integers(0, 3))] = data.draw(
            st.binary(max_size=3)
        )
    try:
        parse(bytes(mutated), headers)
    except RequestError:
        return


@given(st.binary(max_size=200), st.text(max_size=10))
def test_any_bytes_are_read_or_refused(noise, length):
    """Bytes of any kind under any header are refused with our own error, if not read."""
    for headers in ({}, {HEADER_LENGTH: length}, {HEADER_LENGTH: str(len(noise) // 2)}):
        try:
            parse(noise, headers)
        except RequestError:
            continue
