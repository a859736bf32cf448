"""`/v1/responses`: create plain or streamed, retrieve, delete, list input items.

A response's id is `resp_<32 hexadecimal characters>_<inference>`. The inference is public, since
it stands in the receipt; the part before it is random, stands in no receipt, and makes the id the
bearer identifier of a stored response. What is committed of `previous_response_id` is therefore
its inference alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from verispect.core.commitments import Part
from verispect.core.errors import Reason, RequestError
from verispect.engines.interface import ChatInput, Sampling
from verispect.gateway.errors import HttpError
from verispect.gateway.generation import prepare_generation
from verispect.gateway.http import HttpRequest, HttpResponse, StreamedResponse
from verispect.gateway.inference import Inference
from verispect.gateway.response_store import ResponseStore, StoredResponse
from verispect.gateway.responses_object import ResponseFrame
from verispect.gateway.responses_stream import ResponseInProgress
from verispect.gateway.responses_wire import ResponsesBody, ResponsesRequest, read_request
from verispect.gateway.services import find_served, place
from verispect.gateway.state import GatewayState
from verispect.gateway.wire import decode_body, read_lane

_PREFIX: Final = "/v1/responses/"
_INPUT_ITEMS: Final = "/input_items"
_MAXIMUM_PAGE: Final = 100
_DEFAULT_PAGE: Final = 20
_PARAMETERS: Final = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
}


async def create_response(
    state: GatewayState, request: HttpRequest
) -> HttpResponse | StreamedResponse:
    """Answer `POST /v1/responses`.

    Raises:
        RequestError: `invalid-request` naming the field, `response-not-found`, or the
            recorder's assurance reasons.
        ModelError: `model-not-found`.
        EngineError: when the engine fails before an answer has begun.
        StoreError: no durable receipt, so no answer.
    """
    read = read_request(decode_body(request.body, ResponsesBody, state.limits), state.limits)
    served, version = await find_served(state, request, read.model)
    lane = read_lane(request)
    inference = state.recorder.begin(
        request,
        operation="responses",
        served=served,
        requested_model=read.model,
        lane=lane,
        assurance=read.assurance,
        service=version,
    )
    store = _store_for(state, read, len(request.body))
    chat, attachments = read.to_chat(await _earlier_items(state, read, request.received_at))
    chat = place(chat, version)
    model = await state.pool.language(served, lane)
    try:
        generation = await prepare_generation(
            model, [chat], read.sampling, count=1, inference=inference
        )
    except RequestError as error:
        # Engines name the fields of chat completions.
        error.parameter = _PARAMETERS.get(error.parameter or "", error.parameter)
        raise
    sampling = generation.runs[0].sampling
    _commit_request(inference, read, chat, attachments, sampling, stored=store is not None)
    await generation.pay(inference, streamed=read.stream)
    answer = ResponseInProgress(
        request,
        inference,
        generation,
        read.model,
        frame=ResponseFrame(
            identifier=f"resp_{secrets.token_hex(16)}_{inference.identifier}",
            model=served.name,
            created_at=request.received_at // 1000,
            request=read,
            sampling=sampling,
            store=store is not None,
        ),
        store=store,
    )
    return await answer.stream() if read.stream else await answer.whole()


def _store_for(
    state: GatewayState, read: ResponsesRequest, request_bytes: int
) -> ResponseStore | None:
    """Return where this response is to be stored, if anywhere."""
    store = state.responses
    if store is None and read.store:
        raise RequestError("this server stores no responses; send store: false", parameter="store")
    if store is None or read.store is False:
        return None
    store.check_room(request_bytes)
    return store


async def _earlier_items(
    state: GatewayState, read: ResponsesRequest, now: int
) -> Sequence[Mapping[str, Any]]:
    """Return the items of the conversation that the request continues, oldest first."""
    if read.previous_response_id is None:
        return ()
    store = state.responses
    chain = None
    if store is not None:
        chain = await store.find_chain(read.previous_response_id, now=now)
    if chain is None:
        raise HttpError(
            "the previous response, or one before it, is unknown, deleted or expired",
            status=400,
            reason=Reason.RESPONSE_NOT_FOUND,
            parameter="previous_response_id",
        )
    return [item for one in chain for item in (*one.input_items, *one.response["output"])]


def _commit_request(
    inference: Inference,
    read: ResponsesRequest,
    chat: ChatInput,
    attachments: Sequence[Mapping[str, Any]],
    sampling: Sampling,
    *,
    stored: bool,
) -> None:
    if chat.system_prompt is not None:
        inference.commit(Part.SYSTEM_PROMPT, chat.system_prompt)
    inference.commit(Part.MESSAGES, chat.messages)
    if attachments:
        inference.commit(Part.ATTACHMENTS, attachments)
    if chat.tools:
        inference.commit(
            Part.TOOLS,
            {
                "tools": chat.tools,
                "tool_choice": chat.tool_choice,
                "parallel_tool_calls": chat.parallel_tool_calls,
            },
        )
    if chat.response_format is not None:
        inference.commit(Part.RESPONSE_FORMAT, chat.response_format)
    parameters = {**sampling.to_content(), **read.accepted, "stream": read.stream, "store": stored}
    if read.previous_response_id is not None:
        parameters["previous_response_id"] = _public_id(read.previous_response_id)
    inference.commit(Part.PARAMETERS, parameters)


def _public_id(response_id: str) -> str:
    """Return a response's id without the part that gives access to it."""
    return f"resp_{response_id.rpartition('_')[2]}"


# -- Stored responses ---------------------------------------------------------------------------


async def retrieve_response(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `GET /v1/responses/{id}` and `GET /v1/responses/{id}/input_items`.

    Raises:
        HttpError: 404 `response-not-found`.
        RequestError: `invalid-request` for a stream, which is not kept.
    """
    if request.path.endswith(_INPUT_ITEMS):
        return await list_input_items(state, request)
    if request.query.get("stream", "false") != "false" or "starting_after" in request.query:
        raise RequestError("a stored response is not streamed again", parameter="stream")
    stored = await _find(state, request, request.path.removeprefix(_PREFIX))
    return HttpResponse(200, msgspec.json.encode(stored.response))


async def delete_response(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `DELETE /v1/responses/{id}`.

    Raises:
        HttpError: 404 `response-not-found`.
    """
    identifier = request.path.removeprefix(_PREFIX)
    store = state.responses
    if store is None or not await store.delete(identifier, now=request.received_at):
        raise _not_found()
    answer = {"id": identifier, "object": "response", "deleted": True}
    return HttpResponse(200, msgspec.json.encode(answer))


async def list_input_items(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `GET /v1/responses/{id}/input_items`: the items of that request alone.

    Raises:
        HttpError: 404 `response-not-found`.
        RequestError: `invalid-request` for a page that cannot be given.
    """
    identifier = request.path.removeprefix(_PREFIX).removesuffix(_INPUT_ITEMS)
    stored = await _find(state, request, identifier)
    items = list(stored.input_items)
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise RequestError("expected asc or desc", parameter="order")
    if order == "desc":
        items.reverse()
    after = request.query.get("after")
    if after is not None:
        names = [item["id"] for item in items]
        if after not in names:
            raise RequestError("no such item", parameter="after")
        items = items[names.index(after) + 1 :]
    limit = request.query.get("limit", str(_DEFAULT_PAGE))
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:4]) <= _MAXIMUM_PAGE):
        raise RequestError(f"expected 1 to {_MAXIMUM_PAGE}", parameter="limit")
    page = items[: int(limit)]
    answer = {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(page) < len(items),
    }
    return HttpResponse(200, msgspec.json.encode(answer))


async def _find(state: GatewayState, request: HttpRequest, identifier: str) -> StoredResponse:
    store = state.responses
    stored = None
    if store is not None:
        stored = await store.find(identifier, now=request.received_at)
    if stored is None:
        raise _not_found()
    return stored


def _not_found() -> HttpError:
    return HttpError("no such stored response", status=404, reason=Reason.RESPONSE_NOT_FOUND)
