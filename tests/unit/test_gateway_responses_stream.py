"""Streams of `/v1/responses`: the events, and the receipt of exactly what was sent."""

from __future__ import annotations

import json
import time

import pytest
from running_gateway import chain_of, run_gateway

from verispect.core.commitments import Part
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


def events_of(body: str) -> list[dict]:
    return [
        json.loads(line.removeprefix("data: "))
        for line in body.splitlines()
        if line.startswith("data: ")
    ]


def payloads_of(body: bytes) -> list[bytes]:
    return [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]


def test_the_official_client_reads_a_stream(gateway):
    """Deltas add up to the text, and the terminal event carries the whole response."""
    client = gateway.openai()
    with client.responses.stream(model="echo", input="one two three") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert deltas == ["one", " two", " three"]
    assert final.output_text == "one two three"
    assert final.verispect["inference"] in final.id
    assert client.responses.retrieve(final.id).output_text == "one two three"


def test_a_stream_has_all_events_in_order(gateway):
    """The order and numbering of the events are OpenAI's."""
    events = events_of(post(gateway, stream=True, include=[LOGPROBS]).text)
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["response"]["status"] == "in_progress"
    assert events[4]["logprobs"][0]["token"] == "h"
    assert events[7]["item"] == events[8]["response"]["output"][0]


def test_function_calls_are_streamed_whole(gateway):
    """Each call is an item with its arguments, and the client assembles it."""
    client = gateway.openai()
    with client.responses.stream(model="echo", input="call it", tools=[WEATHER]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[2:6] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    assert json.loads(final.output[0].arguments) == {"echo": "call it"}


def test_the_receipt_of_a_stream_covers_the_events_that_were_shown(gateway):
    """The chain over the payloads, all but the last, is the one that was signed."""
    answer = post(gateway, stream=True, input="call it", tools=[WEATHER])
    payloads = payloads_of(answer.content)
    member = json.loads(payloads[-1])["response"]["verispect"]
    arguments = json.dumps({"echo": "call it"})
    verified = gateway.verify(
        member,
        answer.headers["verispect-opening-key"],
        stream=chain_of(member["inference"], payloads[:-1]),
        parts={
            Part.OUTPUT: [""],
            Part.TOOL_CALLS: [[{"id": "call_0", "name": "weather", "arguments": arguments}]],
        },
    )
    assert verified.statement.finish_reasons == ["tool_calls"]
    assert verified.opened[Part.PARAMETERS]["stream"] is True


def test_interim_signatures_do_not_disturb_the_official_client(gateway):
    """A long stream carries signatures that clients skip and the chain leaves out."""
    words = " ".join(["word"] * 70)
    answer = post(gateway, stream=True, input=words, max_output_tokens=1000)
    assert answer.content.count(b"\n: verispect-interim ") == 2
    payloads = payloads_of(answer.content)
    member = json.loads(payloads[-1])["response"]["verispect"]
    binding = chain_of(member["inference"], payloads[:-1])
    gateway.verify(member, answer.headers["verispect-opening-key"], stream=binding)
    with gateway.openai().responses.stream(
        model="echo", input=words, max_output_tokens=1000
    ) as stream:
        assert stream.get_final_response().output_text == words


def test_an_incomplete_stream_ends_with_its_own_event(gateway):
    """A cut by length is `response.incomplete`, as at OpenAI."""
    events = events_of(post(gateway, stream=True, input="one two", max_output_tokens=4).text)
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "one "


def test_a_silent_model_has_said_an_empty_message(gateway):
    """An empty answer is an answer, plain and streamed."""
    assert gateway.openai().responses.create(model="echo", input=" ").output_text == ""
    events = events_of(post(gateway, stream=True, input=" ").text)
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == ""


def test_an_engine_that_fails_midway_ends_the_stream_with_a_receipt_of_what_was_sent(tmp_path):
    """The failure is told in-band and its receipt covers the words before it."""
    with run_gateway(tmp_path, EchoLanguageModel(fail_after=2)) as gateway:
        answer = post(gateway, stream=True, input="one two three")
        payloads = payloads_of(answer.content)
        last = json.loads(payloads[-1])
        assert last["type"] == "response.failed"
        assert last["response"]["error"]["code"] == "server_error"
        assert last["response"]["output"][0]["status"] == "incomplete"
        verified = gateway.verify(
            last["response"]["verispect"],
            answer.headers["verispect-opening-key"],
            stream=chain_of(last["response"]["verispect"]["inference"], payloads[:-1]),
            parts={Part.OUTPUT: ["one two"]},
        )
        assert verified.statement.finish_reasons == ["error"]
        with gateway.http() as client:
            assert client.get(f"/v1/responses/{last['response']['id']}").status_code == 404


def test_an_engine_that_cannot_start_is_a_plain_error(tmp_path):
    """Before the first word there is no stream to break."""
    with run_gateway(tmp_path, EchoLanguageModel(fail_after=0)) as gateway:
        for stream in (False, True):
            answer = post(gateway, stream=stream)
            assert answer.status_code == 500
            assert answer.json()["error"]["code"] == "engine-failed"


def test_a_response_that_cannot_be_stored_is_not_answered_as_if_it_were(tmp_path):
    """A failing store is an error, plain and in-band, unless nothing was to be stored."""
    with run_gateway(tmp_path, EchoLanguageModel()) as gateway:
        gateway.state.responses.close()
        answer = post(gateway)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store-failed")
        events = events_of(post(gateway, stream=True).text)
        assert events[-1]["type"] == "response.failed"
        assert post(gateway, store=False).status_code == 200


def test_a_cut_stream_leaves_a_receipt_of_exactly_what_was_sent(tmp_path):
    """The caller leaves, the engine stops, and the receipt covers the events that were shown."""
    with run_gateway(tmp_path, EchoLanguageModel(stall_after=2)) as gateway:
        body = {"model": "echo", "input": "one two three", "stream": True}
        with gateway.http() as client, client.stream("POST", "/v1/responses", json=body) as answer:
            inference = answer.headers["verispect-inference"]
            opening_key = answer.headers["verispect-opening-key"]
            received = b""
            for chunk in answer.iter_bytes():
                received += chunk
                if b'"delta":" two"' in received:
                    break
        member = wait_for_receipt(gateway, inference)
        verified = gateway.verify(
            member,
            opening_key,
            stream=chain_of(inference, payloads_of(received)),
            parts={Part.OUTPUT: ["one two"]},
        )
        assert verified.statement.finish_reasons == ["cancelled"]
        assert gateway.model.running == 0


def test_a_caller_that_leaves_a_plain_answer_stops_the_engine(tmp_path):
    """Nothing was sent, so the receipt says that nothing was."""
    with run_gateway(tmp_path, EchoLanguageModel(stall_after=1)) as gateway:
        with pytest.raises(Exception, match="timed out"), gateway.http() as client:
            client.post("/v1/responses", json={"model": "echo", "input": "one two"}, timeout=0.5)
        deadline = time.monotonic() + 20
        while gateway.model.running and time.monotonic() < deadline:
            time.sleep(0.02)
        assert gateway.model.running == 0


def wait_for_receipt(gateway, inference: str) -> dict[str, str]:
    deadline = time.monotonic() + 20
    with gateway.http() as client:
        while time.monotonic() < deadline:
            answer = client.get(f"/v1/receipts/{inference}?format=json")
            if answer.status_code == 200:
                return answer.json()
            time.sleep(0.02)
    raise AssertionError("no receipt appeared")
