"""`/v1/responses` as the official client sees it, and what its receipts cover."""

from __future__ import annotations

import openai
import pytest
from pydantic import BaseModel
from running_gateway import run_gateway

from verispect.core.commitments import Part
from verispect.core.encoding import from_base64url
from verispect.gateway.response_store import MAX_STORED_BYTES
from verispect.testing.echo_model import EchoLanguageModel

LOGPROBS = "message.output_text.logprobs"
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"echo": {"type": "string"}}},
    "strict": False,
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with run_gateway(tmp_path_factory.mktemp("gateway"), EchoLanguageModel()) as running:
        yield running


def post(gateway, **fields):
    with gateway.http() as client:
        return client.post("/v1/responses", json={"model": "echo", "input": "hi", **fields})


# -- Plain --------------------------------------------------------------------------------------


def test_the_official_client_reads_a_plain_answer(gateway):
    """Text, usage, echo and receipt are where the client and its users look."""
    response = gateway.openai().responses.create(
        model="echo",
        input="one two three",
        instructions="repeat",
        temperature=0.5,
        metadata={"k": "v"},
    )
    assert response.output_text == "one two three"
    assert response.status == "completed"
    assert response.object == "response"
    assert response.usage.total_tokens == response.usage.input_tokens + 13
    assert (response.instructions, response.temperature) == ("repeat", 0.5)
    assert response.metadata == {"k": "v"}
    assert response.top_p == 1.0, "the echo says what ran"
    assert response.output[0].id.startswith("msg_")
    assert response.completed_at >= response.created_at
    assert response.verispect["inference"] in response.id


def test_the_receipt_covers_all_that_the_answer_depends_on(gateway):
    """Instructions, conversation, tools, format, sampling, labels, rendered prompt and output."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    answer = post(
        gateway,
        instructions="obey",
        tools=[WEATHER],
        text={"format": {"type": "json_schema", "name": "shape", "schema": schema}},
        seed=3,
        top_logprobs=2,
        user="u",
        store=False,
    )
    body = answer.json()
    verified = gateway.verify(
        body["verispect"],
        answer.headers["verispect-opening-key"],
        parts={
            Part.SYSTEM_PROMPT: "obey",
            Part.MESSAGES: [{"role": "user", "content": "hi"}],
            Part.RESPONSE_FORMAT: {
                "type": "json_schema",
                "json_schema": {"name": "shape", "schema": schema},
            },
            Part.OUTPUT: ['{"a": 7}'],
        },
    )
    assert verified.statement.operation == "responses"
    assert verified.statement.finish_reasons == ["stop"]
    assert verified.opened[Part.TOOLS]["tools"][0]["function"]["name"] == "weather"
    assert verified.opened[Part.TOOLS]["parallel_tool_calls"] is True
    parameters = verified.opened[Part.PARAMETERS]
    assert (parameters["seed"], parameters["user"], parameters["store"]) == (3, "u", False)
    assert parameters["stream"] is False
    assert verified.opened[Part.EFFECTIVE_INPUT]["text"].endswith("user: hi")
    tokens = "".join(entry["token"] for entry in verified.opened[Part.LOGPROBS][0])
    assert tokens == body["output"][0]["content"][0]["text"]


def test_log_probabilities_are_in_the_answer_only_when_asked_for(gateway):
    """The client finds token, bytes and alternatives."""
    client = gateway.openai()
    response = client.responses.create(model="echo", input="hi", include=[LOGPROBS], top_logprobs=2)
    first = response.output[0].content[0].logprobs[0]
    assert (first.token, first.bytes, len(first.top_logprobs)) == ("h", [104], 2)
    assert client.responses.create(model="echo", input="hi").output[0].content[0].logprobs == []


def test_a_length_limit_makes_the_answer_incomplete(gateway):
    """The client can tell a cut answer from a whole one."""
    response = gateway.openai().responses.create(
        model="echo", input="one two three", max_output_tokens=5
    )
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output_text == "one t"
    assert response.output[0].status == "incomplete"
    assert response.completed_at is None


def test_a_tool_round_trip(gateway):
    """A call is answered by its output in the next request, as agents do it."""
    client = gateway.openai()
    asked = [{"role": "user", "content": "call all"}]
    other = {**WEATHER, "name": "time"}
    first = client.responses.create(model="echo", input=asked, tools=[WEATHER, other])
    assert [item.type for item in first.output] == ["function_call", "function_call"]
    assert [item.name for item in first.output] == ["weather", "time"]
    assert first.status == "completed"
    outputs = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "sunny"}
        for item in first.output
    ]
    second = client.responses.create(
        model="echo", input=[*asked, *first.output, *outputs], tools=[WEATHER, other]
    )
    assert second.output_text == "sunny"
    third = client.responses.create(
        model="echo", previous_response_id=first.id, input=outputs, tools=[WEATHER, other]
    )
    assert third.output_text == "sunny"


class Weather(BaseModel):
    """What a caller wants to have parsed."""

    city: str
    degrees: int


def test_the_official_client_parses_structured_output(gateway):
    """A schema from a Pydantic model comes back as an instance of it."""
    response = gateway.openai().responses.parse(model="echo", input="hi", text_format=Weather)
    assert response.output_parsed == Weather(city="echo", degrees=7)


# -- Conversations ------------------------------------------------------------------------------


def test_a_conversation_continues_and_its_receipt_holds_all_of_it(gateway):
    """The model receives, and the receipt covers, every message of the chain."""
    client = gateway.openai()
    first = client.responses.create(model="echo", input="one", instructions="only then")
    second = client.responses.create(model="echo", input="two", previous_response_id=first.id)
    answer = post(gateway, input="three", previous_response_id=second.id)
    conversation = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    verified = gateway.verify(
        answer.json()["verispect"],
        answer.headers["verispect-opening-key"],
        parts={Part.MESSAGES: conversation},
    )
    assert Part.SYSTEM_PROMPT not in verified.opened, "instructions are not carried over"
    assert answer.json()["previous_response_id"] == second.id
    named = verified.opened[Part.PARAMETERS]["previous_response_id"]
    assert named == f"resp_{second.verispect['inference']}"


def test_a_receipt_gives_no_access_to_the_stored_response(gateway):
    """What stands in a receipt, which may be public, is not the id that opens the content."""
    response = gateway.openai().responses.create(model="echo", input="private")
    inference = response.verispect["inference"]
    with gateway.http() as client:
        assert client.get(f"/v1/receipts/{response.id}").status_code == 200
        for guess in (inference, f"resp_{inference}", f"resp__{inference}"):
            assert client.get(f"/v1/responses/{guess}").status_code == 404
        assert client.get(f"/v1/responses/{response.id}").status_code == 200


def test_a_stored_response_is_retrieved_and_deleted(gateway):
    """Deleting ends access and the conversation."""
    client = gateway.openai()
    response = client.responses.create(model="echo", input="hi")
    assert client.responses.retrieve(response.id).to_dict() == response.to_dict()
    client.responses.delete(response.id)
    for use in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            use(response.id)
    with pytest.raises(openai.BadRequestError) as refusal:
        client.responses.create(model="echo", input="hi", previous_response_id=response.id)
    assert (refusal.value.code, refusal.value.param) == (
        "response-not-found",
        "previous_response_id",
    )


def test_input_items_are_listed_in_pages(gateway):
    """The client pages through the items of the request."""
    client = gateway.openai()
    items = [{"role": "user", "content": word} for word in ("a", "b", "c")]
    response = client.responses.create(model="echo", input=items)
    listed = client.responses.input_items.list(response.id, order="asc", limit=2)
    assert [item.content[0].text for item in listed] == ["a", "b", "c"]
    newest = client.responses.input_items.list(response.id, limit=1).data[0]
    assert newest.content[0].text == "c"


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "after=msg_x"])
def test_a_page_that_cannot_be_given_is_refused(gateway, query):
    """Bad paging is an error and not a first page."""
    response = gateway.openai().responses.create(model="echo", input="hi")
    with gateway.http() as client:
        answer = client.get(f"/v1/responses/{response.id}/input_items?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


def test_store_false_is_not_stored(gateway):
    """A caller that says no finds nothing afterwards."""
    response = gateway.openai().responses.create(model="echo", input="hi", store=False)
    assert response.store is False
    with pytest.raises(openai.NotFoundError):
        gateway.openai().responses.retrieve(response.id)


def test_a_server_without_a_store_says_so(tmp_path):
    """It answers, does not claim to store, and refuses what needs a store."""
    with run_gateway(tmp_path, EchoLanguageModel(), with_responses=False) as gateway:
        client = gateway.openai()
        response = client.responses.create(model="echo", input="hi")
        assert response.store is False
        with pytest.raises(openai.BadRequestError) as refusal:
            client.responses.create(model="echo", input="hi", store=True)
        assert refusal.value.param == "store"
        with pytest.raises(openai.BadRequestError) as refusal:
            client.responses.create(model="echo", input="hi", previous_response_id="resp_x")
        assert refusal.value.param == "previous_response_id"
        with pytest.raises(openai.NotFoundError):
            client.responses.delete(response.id)


# -- Refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"temprature": 1}, "temprature"),
        ({"model": 5}, "model"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"background": True}, "background"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": "a"}] * 3000}, "input"),
        ({"previous_response_id": "resp_unknown"}, "previous_response_id"),
        ({"previous_response_id": "x" * 1000}, "previous_response_id"),
        ({"input": "x" * 10_000}, "input"),
        ({"max_output_tokens": 10_000}, "max_output_tokens"),
        ({"input": "x" * (MAX_STORED_BYTES // 2)}, "store"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": 5}]}]},
            "input[0].content[0].text",
        ),
    ],
)
def test_bad_input_is_refused_before_the_model_runs(gateway, fields, parameter):
    """The refusal names the field, and no generation is started."""
    started = gateway.model.started
    for stream in (False, True):
        answer = post(gateway, stream=stream, **fields)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == parameter
    assert gateway.model.started == started


def test_an_unknown_model_is_404(gateway):
    """No other model answers in its place."""
    with pytest.raises(openai.NotFoundError) as refusal:
        gateway.openai().responses.create(model="unknown", input="hi")
    assert refusal.value.code == "model_not_found"


def test_assurance_and_lane_are_checked_before_any_work(gateway):
    """A misspelt assurance, an unavailable one and an unknown lane are refused."""
    client = gateway.openai()
    for word, code in (("sined", "assurance-unknown"), ("proven", "assurance-unavailable")):
        with pytest.raises(openai.BadRequestError) as refusal:
            client.responses.create(model="echo", input="hi", extra_body={"assurance": word})
        assert refusal.value.code == code
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="echo", input="hi", extra_headers={"Verispect-Lane": "fast"})


def test_a_nonce_comes_back_in_the_receipt(gateway):
    """The caller ties the receipt to its own request."""
    with gateway.http() as client:
        answer = client.post(
            "/v1/responses",
            json={"model": "echo", "input": "hi"},
            headers={"verispect-nonce": "AAECAwQFBgc", "verispect-lane": "deterministic"},
        )
    verified = gateway.verify(
        answer.json()["verispect"],
        answer.headers["verispect-opening-key"],
        nonce=from_base64url("AAECAwQFBgc"),
    )
    assert verified.statement.model.lane.name == "DETERMINISTIC"
