"""Requests of `/v1/responses`: what is understood, and what is refused by name."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verispect.core.errors import Error, Reason, RequestError
from verispect.gateway.limits import Limits
from verispect.gateway.responses_items import MAX_ITEMS
from verispect.gateway.responses_wire import ResponsesBody, ResponsesRequest, read_request
from verispect.gateway.wire import decode_body

LOGPROBS = "message.output_text.logprobs"
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}


_WORDS = st.sampled_from(
    [
        "type", "role", "content", "id", "message", "function_call", "function_call_output",
        "user", "assistant", "system", "input_text", "output_text", "refusal", "input_image",
        "image_url", "text", "call_id", "name", "arguments", "output", "function", "format",
        "json_schema",
    ]
)  # fmt: skip


def read(**fields: Any) -> ResponsesRequest:
    return read_body({"model": "m", "input": "hi", **fields})


def read_body(body: dict[str, Any]) -> ResponsesRequest:
    limits = Limits()
    return read_request(decode_body(json.dumps(body).encode(), ResponsesBody, limits), limits)


def test_text_input_is_one_user_message():
    """A string is what the user says, and instructions are the system prompt."""
    chat, attachments = read(instructions="be brief").to_chat([])
    assert chat.system_prompt == "be brief"
    assert chat.messages == [{"role": "user", "content": "hi"}]
    assert list(attachments) == []


def test_items_become_messages_in_order():
    """Calls join the assistant message before them and outputs become tool messages."""
    items = [
        {"role": "developer", "content": "answer in verse"},
        {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "wait", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "[]"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "sun"}],
        },
        {"role": "system", "content": "now in prose"},
    ]
    chat, _ = read(input=items, instructions="be brief").to_chat([])
    assert chat.system_prompt == "be brief\n\nanswer in verse"
    assert chat.messages == [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": "wait",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": "{}"},
                },
                {
                    "id": "c2",
                    "type": "function",
                    "function": {"name": "weather", "arguments": "[]"},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2", "content": "sun"},
        {"role": "system", "content": "now in prose"},
    ]


def test_flat_tools_and_formats_reach_the_engine_nested():
    """The flat shapes of this interface become those that engines take."""
    schema = {"type": "object"}
    request = read(
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "s", "schema": schema, "strict": True}},
    )
    chat, _ = request.to_chat([])
    inner = {name: value for name, value in WEATHER.items() if name != "type"}
    assert chat.tools == [{"type": "function", "function": inner}]
    assert chat.tool_choice == {"type": "function", "function": {"name": "weather"}}
    assert chat.parallel_tool_calls is False
    assert chat.response_format == {
        "type": "json_schema",
        "json_schema": {"name": "s", "schema": schema, "strict": True},
    }


def test_images_are_attachments_in_the_engines_form():
    """An image is kept in its place and listed as an attachment."""
    content = [
        {"type": "input_text", "text": "what is this?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
    ]
    chat, attachments = read(input=[{"role": "user", "content": content}]).to_chat([])
    image = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"},
    }
    assert list(attachments) == [image]
    assert chat.messages[0]["content"] == [{"type": "text", "text": "what is this?"}, image]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"include": [LOGPROBS]}, 0),
        ({"top_logprobs": 3}, 3),
        ({"include": [LOGPROBS], "top_logprobs": 2}, 2),
    ],
)
def test_log_probabilities_are_on_when_asked_for(fields, expected):
    """Either way of asking turns them on; not asking leaves them off."""
    assert read(**fields).sampling.top_logprobs == expected


def test_values_that_ask_for_nothing_are_accepted():
    """Clients send many fields as null or at OpenAI's default; they change nothing."""
    request = read(
        background=False,
        truncation="disabled",
        reasoning={"effort": None, "summary": None},
        service_tier="auto",
        conversation=None,
        stream_options={"include_obfuscation": False},
        text={"verbosity": "medium"},
        include=["reasoning.encrypted_content"],
        metadata={"a": "b"},
        user="u",
    )
    assert request.text_format == {"type": "text"}
    assert request.accepted == {
        "background": False,
        "truncation": "disabled",
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "auto",
        "stream_options": {"include_obfuscation": False},
        "include": ["reasoning.encrypted_content"],
        "metadata": {"a": "b"},
        "user": "u",
    }


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"temprature": 0.5}, "temprature"),
        ({"model": 3}, "model"),
        ({"model": ""}, "model"),
        ({"model": "x" * 300}, "model"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["hi"]}, "input[0]"),
        ({"input": [{"role": "user", "content": "a"}] * (MAX_ITEMS + 1)}, "input"),
        ({"input": [{"role": "robot", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": []}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": "a", "mood": 1}]}, "input[0].mood"),
        ({"input": [{"id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "reasoning", "id": "r", "summary": []}]}, "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_video"}]}]},
            "input[0].content[0]",
        ),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": 5}]},
            "input[0].output",
        ),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 1.5}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"include": ["everything"]}, "include"),
        ({"metadata": {str(index): "" for index in range(17)}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{**WEATHER, "colour": "red"}]}, "tools[0].colour"),
        ({"tools": [{**WEATHER, "parameters": 7}]}, "tools[0].parameters"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [WEATHER] * 129}, "tools"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "other"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "s"}}}, "text.format.schema"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"background": True}, "background"),
        ({"background": 0}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"truncation": "auto"}, "truncation"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields, parameter):
    """A field that is wrong, unknown or would change the answer is named in the refusal."""
    with pytest.raises(RequestError) as refusal:
        read(**fields)
    assert refusal.value.reason is Reason.INVALID_REQUEST
    assert refusal.value.parameter == parameter


@pytest.mark.parametrize("missing", ["model", "input"])
def test_a_missing_field_is_named(missing):
    """Model and input are required."""
    body = {"model": "m", "input": "hi"}
    del body[missing]
    with pytest.raises(RequestError) as refusal:
        read_body(body)
    assert refusal.value.parameter == missing


def test_an_output_without_its_call_is_refused():
    """A function's output must answer a call of the conversation."""
    request = read(input=[{"type": "function_call_output", "call_id": "c", "output": "x"}])
    with pytest.raises(RequestError, match="names a call that is not in the conversation"):
        request.to_chat([])


def test_an_earlier_conversation_counts_towards_the_limit():
    """The items of the chain and of the request together are bounded."""
    earlier = list(read(input=[{"role": "user", "content": "a"}] * MAX_ITEMS).items)
    with pytest.raises(RequestError, match="items in a conversation"):
        read().to_chat(earlier)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS | st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(field=st.sampled_from(sorted(ResponsesBody.__struct_fields__)), value=_JSON)
def test_any_value_of_any_field_is_understood_or_refused(field, value):
    """No JSON value makes reading fail with anything but one of our errors."""
    with contextlib.suppress(Error):
        read_body({"model": "m", "input": "hi", field: value}).to_chat([])


@settings(max_examples=200, deadline=None)
@given(item=st.dictionaries(_WORDS, _JSON | _WORDS, max_size=6))
def test_any_item_is_understood_or_refused(item):
    """No input item makes reading or converting fail with anything but one of our errors."""
    with contextlib.suppress(Error):
        read_body({"model": "m", "input": [item]}).to_chat([])
