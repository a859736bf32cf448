"""`POST /v1/embeddings`: one vector per input, with a receipt.

What is committed to is the vectors as float32, little-endian; the answer's numbers are exactly
those, whether written as base64 or as JSON numbers. `dimensions` is refused unless it is the
model's own: a shortened vector would not be the model's output.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from verispect.core.commitments import Part
from verispect.core.errors import EngineError, Reason, RequestError
from verispect.engines.interface import PromptInput
from verispect.gateway.chat_shapes import Identifier
from verispect.gateway.http import HttpRequest, HttpResponse
from verispect.gateway.state import GatewayState
from verispect.gateway.wire import decode_body, read_lane, receipt_member

MAX_INPUTS: Final = 2048
"""Inputs of one request, as OpenAI's."""

MAX_TOKENS: Final = 300_000
"""Token ids of one request, all inputs together, as OpenAI's."""

_FRAME_TOKENS: Final = 2
"""Tokens that a model may put around each input."""

_MAX_TOKEN_ID: Final = (1 << 31) - 1
_MAX_FLOAT32: Final = 3.4028234663852886e38


class EmbeddingsBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body."""

    model: Identifier
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    user: Identifier | None = None
    assurance: str | dict[str, Any] | None = None


async def create_embeddings(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `POST /v1/embeddings`.

    Raises:
        RequestError: `invalid-request` naming the field, or the recorder's assurance reasons.
        ModelError: `model-not-found`.
        EngineError: when the engine fails.
    """
    body = decode_body(request.body, EmbeddingsBody, state.limits)
    inputs = _read_inputs(body.input)
    served = state.pool.find(body.model)
    lane = read_lane(request)
    inference = state.recorder.begin(
        request,
        operation="embeddings",
        served=served,
        requested_model=body.model,
        lane=lane,
        assurance=body.assurance,
    )
    model = await state.pool.language(served, lane)
    inference.use_engine(model.identity)
    if state.recorder.sells:
        counted = [await model.prepare(PromptInput(each)) for each in inputs]
        tokens = sum(each.token_count + _FRAME_TOKENS for each in counted)
        await inference.pay(max_input_tokens=tokens, max_output_tokens=0)
    vectors, tokens = await model.embed(inputs)
    packed = _pack(vectors, len(inputs), body.dimensions)
    inference.commit(Part.EFFECTIVE_INPUT, {"inputs": inputs})
    inference.commit(
        Part.PARAMETERS,
        {
            name: value
            for name, value in (
                ("encoding_format", body.encoding_format),
                ("dimensions", body.dimensions),
                ("user", body.user),
            )
            if value is not None
        },
    )
    inference.commit(Part.OUTPUT, packed)
    issued = await inference.finish(
        finish_reasons=["stop"], usage={"input_tokens": tokens, "output_tokens": 0}
    )
    as_shown = _to_base64 if body.encoding_format == "base64" else _to_numbers
    answer = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": as_shown(vector)}
            for index, vector in enumerate(packed)
        ],
        "model": served.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "verispect": receipt_member(issued.receipt, issued.receipt_id, inference.identifier),
    }
    return HttpResponse(200, msgspec.json.encode(answer), headers=inference.headers)


def _read_inputs(value: str | list[Any]) -> list[str | list[int]]:
    """Return one entry per vector: text, or token ids."""
    if isinstance(value, list) and value and type(value[0]) is int:
        value = [value]
    inputs: list[Any] = [value] if isinstance(value, str) else value
    if not 0 < len(inputs) <= MAX_INPUTS:
        raise RequestError(
            f"expected 1 to {MAX_INPUTS} inputs, got {len(inputs)}", parameter="input"
        )
    if len({type(one) for one in inputs}) != 1 or not isinstance(inputs[0], (str, list)):
        raise RequestError("expected text, token ids, or a list of either", parameter="input")
    tokens = 0
    for index, one in enumerate(inputs):
        if not one:
            raise RequestError("an input is empty", parameter=f"input[{index}]")
        if isinstance(one, list):
            tokens += len(one)
            _check_tokens(one, index)
    if tokens > MAX_TOKENS:
        raise RequestError(f"expected at most {MAX_TOKENS} tokens", parameter="input")
    return inputs


def _check_tokens(tokens: Sequence[Any], index: int) -> None:
    for token in tokens:
        if type(token) is not int or not 0 <= token <= _MAX_TOKEN_ID:
            raise RequestError("expected token ids", parameter=f"input[{index}]")


def _pack(vectors: Sequence[Sequence[float]], expected: int, dimensions: int | None) -> list[bytes]:
    """Return each vector as float32, little-endian."""
    for vector in vectors:
        if dimensions is not None and dimensions != len(vector):
            raise RequestError(
                f"this model has {len(vector)} dimensions, and its vectors are not shortened",
                parameter="dimensions",
            )
    usable = len(vectors) == expected and all(
        vector and all(abs(number) <= _MAX_FLOAT32 for number in vector) for vector in vectors
    )
    if not usable:  # A comparison with NaN is false too.
        raise EngineError("the engine returned no usable vectors", reason=Reason.ENGINE_FAILED)
    return [struct.pack(f"<{len(vector)}f", *vector) for vector in vectors]


def _to_base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode("ascii")


def _to_numbers(vector: bytes) -> list[float]:
    # Read back from the committed bytes: the numbers shown are the numbers signed.
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))
