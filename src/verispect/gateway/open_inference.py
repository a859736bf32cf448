"""The Open Inference Protocol v2 over HTTP: metadata, health and inference of tensor models.

Every inference has a receipt: in the response's `parameters`, and its identifier in the header
`Verispect-Receipt-Id`. Models have one version, `1`: another model under the same name is another
model identity, which the receipt shows.

This module refuses model repository operations (load, unload), versions it does not have, and
parameters it would have to ignore.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, Final

import msgspec

import verispect
from verispect.core.commitments import Part
from verispect.core.encoding import to_base64url
from verispect.core.errors import Reason, RequestError
from verispect.engines.interface import Lane, TensorSpecification
from verispect.gateway.errors import HttpError
from verispect.gateway.http import HttpRequest, HttpResponse
from verispect.gateway.open_inference_codec import parse, render, render_outputs
from verispect.gateway.open_inference_content import encode_parameters, encode_tensors
from verispect.gateway.serving import ServedModel
from verispect.gateway.state import GatewayState

MODEL_VERSION: Final = "1"
"""The only version of every model."""

_MODELS: Final = "/v2/models/"
_LANE_HEADER: Final = "verispect-lane"
_STATE_OF_HEALTH: Final = {
    "/v2/health/live": b'{"live":true}',
    "/v2/health/ready": b'{"ready":true}',
}
_OFF_LOOP_BYTES: Final = 256 * 1024
"""Outputs larger than this are turned into JSON in a thread."""


async def dispatch(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer a request whose path begins with `/v2`.

    Raises:
        RequestError: for a request this server refuses; `HttpError` with its own status.
        ModelError: `model-not-found`.
        EngineError: when the model cannot run.
    """
    path = request.path
    if path.startswith(_MODELS):
        name, version, action = _split(path[len(_MODELS) :])
        if action == "infer":
            _require(request, "POST")
            served = _find(state, name, version)
            return await infer(state, request, served, name)
        _require(request, "GET")
        served = _find(state, name, version)
        return await (model_ready if action == "ready" else model_metadata)(state, served, name)
    _require(request, "GET")
    if path in ("/v2", "/v2/"):
        return server_metadata()
    if path in _STATE_OF_HEALTH:
        return HttpResponse(200, _STATE_OF_HEALTH[path], headers=[("cache-control", "no-store")])
    raise _no_route()


def server_metadata() -> HttpResponse:
    """Answer with this server's name, version and extensions."""
    return _json(
        {
            "name": "verispect",
            "version": verispect.__version__,
            "extensions": ["binary_tensor_data"],
        }
    )


async def model_ready(state: GatewayState, served: ServedModel, name: str) -> HttpResponse:
    """Answer that the model can run; it is loaded to find out."""
    await state.pool.tensor(served)
    return _json({"name": name, "ready": True})


async def model_metadata(state: GatewayState, served: ServedModel, name: str) -> HttpResponse:
    """Answer with the model's inputs and outputs."""
    model = await state.pool.tensor(served)
    response = _json(
        {
            "name": name,
            "versions": [MODEL_VERSION],
            "platform": "verispect_integer" if served.provable else "onnx_onnxruntime",
            "inputs": [_described(item) for item in model.inputs],
            "outputs": [_described(item) for item in model.outputs],
        }
    )
    response.headers.append(("verispect-model-id", served.model_id.hex()))
    return response


async def infer(
    state: GatewayState, request: HttpRequest, served: ServedModel, name: str
) -> HttpResponse:
    """Run the model once and answer with its outputs and the receipt."""
    asked = parse(request.body, request.headers)
    inference = state.recorder.begin(
        request,
        operation="infer",
        served=served,
        requested_model=name,
        lane=_lane(request, served),
        assurance=asked.assurance,
    )
    model = await state.pool.tensor(served)
    usage = {"input_bytes": sum([len(tensor.data) for tensor in asked.inputs])}
    if state.recorder.sells:
        # Sold by the number: the specification calls each number of an input a token.
        numbers = sum([math.prod(tensor.shape) for tensor in asked.inputs])
        usage |= {"input_tokens": numbers, "output_tokens": 0}
        await inference.pay(max_input_tokens=numbers, max_output_tokens=0)
    outputs = await model.infer(asked.inputs, asked.outputs)
    output_bytes = sum([len(tensor.data) for tensor in outputs])
    # Rendered before the receipt is made: an answer that cannot be written has none.
    if output_bytes > _OFF_LOOP_BYTES:
        rendered = await asyncio.to_thread(render_outputs, outputs, asked)
    else:
        rendered = render_outputs(outputs, asked)
    given = {tensor.name: tensor for tensor in asked.inputs}
    inference.use_engine(model.identity)
    inference.commit_encoded(Part.PARAMETERS, encode_parameters(asked))
    inference.commit_encoded(
        Part.EFFECTIVE_INPUT, encode_tensors([given[item.name] for item in model.inputs])
    )
    inference.commit_encoded(Part.OUTPUT, encode_tensors(outputs))
    issued = await inference.finish(
        finish_reasons=("stop",),
        usage={**usage, "output_bytes": output_bytes},
    )
    body, header_length = render(
        model_name=name,
        model_version=MODEL_VERSION,
        identifier=asked.identifier,
        parameters={
            "verispect_receipt_id": issued.receipt_id,
            "verispect_receipt": to_base64url(issued.receipt),
            "verispect_inference": inference.identifier,
            # Some clients of this protocol never show a response's headers.
            "verispect_opening_key": inference.opening_key,
        },
        outputs=rendered,
    )
    headers = [*inference.headers, ("verispect-receipt-id", issued.receipt_id)]
    if header_length is None:
        return HttpResponse(200, body, headers=headers)
    headers.append(("inference-header-content-length", str(header_length)))
    return HttpResponse(200, body, content_type="application/octet-stream", headers=headers)


def _split(rest: str) -> tuple[str, str | None, str | None]:
    """Split a path behind `/v2/models/` into model, version and action; names may have slashes."""
    action: str | None = None
    for word in ("infer", "ready"):
        if rest.endswith("/" + word):
            rest, action = rest[: -len(word) - 1], word
            break
    name, separator, version = rest.rpartition("/versions/")
    if not separator:
        name, version = rest, ""
    if not name or (separator and not version):
        raise _no_route()
    return name, version or None, action


def _find(state: GatewayState, name: str, version: str | None) -> ServedModel:
    served = state.pool.find(name)
    if version not in (None, MODEL_VERSION):
        raise HttpError(
            f"the model has only version {MODEL_VERSION}",
            status=404,
            reason=Reason.MODEL_NOT_FOUND,
            parameter="version",
        )
    return served


def _lane(request: HttpRequest, served: ServedModel) -> Lane:
    word = request.headers.get(_LANE_HEADER)
    if word is None:
        return Lane.THROUGHPUT if Lane.THROUGHPUT in served.lanes else served.lanes[0]
    for lane in served.lanes:
        if lane.value == word:
            return lane
    offered = ", ".join(lane.value for lane in served.lanes)
    raise RequestError(f"expected one of: {offered}", parameter="Verispect-Lane")


def _require(request: HttpRequest, method: str) -> None:
    if request.method == method or (method == "GET" and request.method == "HEAD"):
        return
    raise HttpError(
        f"expected {method}",
        status=405,
        reason=Reason.METHOD_NOT_ALLOWED,
        headers=[("allow", method)],
    )


def _no_route() -> HttpError:
    return HttpError("no such route", status=404, reason=Reason.ROUTE_NOT_FOUND)


def _described(item: TensorSpecification) -> dict[str, Any]:
    return {"name": item.name, "datatype": item.datatype, "shape": item.shape}


def _json(content: dict[str, Any]) -> HttpResponse:
    return HttpResponse(200, msgspec.json.encode(content))
