"""The parts of the llama.cpp engine that need no model: text, template, tools, parameters."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verispect.core.errors import ModelError, Reason, RequestError
from verispect.engines.chat_template import ChatTemplate
from verispect.engines.interface import ChatInput, Sampling
from verispect.engines.llama_native import kernel_class
from verispect.engines.llama_parameters import MAX_SEED, resolve_sampling
from verispect.engines.llama_process import WorkerProcess
from verispect.engines.llama_prompt import template_messages
from verispect.engines.llama_text import TextAssembler
from verispect.engines.tool_calls import (
    ToolCallReader,
    ToolUse,
    build_grammar,
    read_tools,
    tool_section,
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = ("<|im_start|>", "<|im_end|>")


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos="<s>", eos="</s>", control_texts=CONTROL)


def tool(name: str = "f", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def resolve(**fields: Any) -> Sampling:
    return resolve_sampling(
        Sampling(**fields), prompt_tokens=10, context_tokens=100, vocabulary_size=1000
    )


# Text ---------------------------------------------------------------------------------------------


@given(
    st.text(max_size=60),
    st.lists(st.integers(0, 240), max_size=12),
    st.lists(st.text(min_size=1, max_size=4), max_size=3),
)
def test_text_is_what_comes_before_the_first_stop(
    text: str, cuts: list[int], stop: list[str]
) -> None:
    """However the bytes are split, the text ends before the stop string that is complete first."""
    data = text.encode("utf-8", "surrogatepass")
    whole = data.decode("utf-8", "replace")
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    assembler = TextAssembler(tuple(stop))
    given_out, stopped = "", False
    for start, end in itertools.pairwise(edges):
        piece = assembler.push(data[start:end])
        given_out += piece.text
        if piece.stopped:
            stopped = True
            break
    if not stopped:
        given_out += assembler.finish().text
    assert whole.startswith(given_out)
    assert not any(text in given_out for text in stop)
    if not any(text in whole for text in stop):
        assert given_out == whole


def test_half_a_character_waits_for_the_other_half() -> None:
    """Nothing is given out until a character is whole; its tokens' entries come with it."""
    assembler = TextAssembler()
    first = assembler.push(b"\xf0\x9f", "a")
    second = assembler.push(b"\x98\x80", "b")
    assert (first.text, first.entries) == ("", [])
    assert (second.text, second.entries) == ("😀", ["a", "b"])


def test_a_possible_stop_string_is_held_back() -> None:
    """The beginning of a stop string is given out only when it turns out not to be one."""
    assembler = TextAssembler(("STOP",))
    assert assembler.push(b"go ST", "a").text == "go "
    assert assembler.push(b"AR", "b").text == "STAR"
    assert assembler.push(b" ST", "c").text == " "
    last = assembler.push(b"OP now", "d")
    assert (last.text, last.entries, last.stopped) == ("", [], True)


def test_an_unfinished_character_at_the_end_is_replaced() -> None:
    """Bytes that never became a character are one replacement character, and its entry is kept."""
    assembler = TextAssembler()
    assembler.push(b"\xe6\xbc", "a")
    end = assembler.finish()
    assert (end.text, end.entries) == ("\ufffd", ["a"])


# Template -----------------------------------------------------------------------------------------


def test_segments_tell_template_from_content() -> None:
    """Only what the template itself wrote is marked as its own."""
    segments = template(CHATML).render([{"role": "user", "content": "<|im_end|>x"}], [])
    assert segments == [
        ("<|im_start|>user\n", True),
        ("<|im_end|>x", False),
        ("<|im_end|>\n<|im_start|>assistant\n", True),
    ]


def test_content_that_cannot_be_kept_apart_is_refused_only_where_it_matters() -> None:
    """A template that rewrites content is fine until content spells a control token."""
    trimming = template(CHATML.replace("message.content", "message.content | trim | upper"))
    rendered = trimming.render([{"role": "user", "content": " hello "}], [])
    assert rendered == [("<|im_start|>user\nHELLO<|im_end|>\n<|im_start|>assistant\n", True)]
    with pytest.raises(RequestError) as refusal:
        trimming.render([{"role": "user", "content": " <|im_end|> "}], [])
    assert refusal.value.parameter == "messages"


@pytest.mark.parametrize("mark", ["\uf8f0", "\uf8f1", "\uf8f1<|im_end|>\uf8f0"])
def test_marks_in_content_do_not_open_the_template(mark: str) -> None:
    """Content that holds our own marks cannot pass for the template's text."""
    messages = [{"role": "user", "content": f"a{mark}b"}]
    if "<|im_end|>" in mark:
        with pytest.raises(RequestError):
            template(CHATML).render(messages, [])
    else:
        ((text, _),) = template(CHATML).render(messages, [])
        assert f"a{mark}b" in text


@pytest.mark.parametrize(
    "source",
    [
        "{{ strftime_now('%Y') }}",
        "{{ raise_exception('secret words') }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ messages[0].content + 1 }}",
        "{{ messages[9].content.x }}",
        "{{ 1 / 0 }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_that_fails_refuses_the_request(source: str) -> None:
    """No clock, no way out of the sandbox, and no template message in ours."""
    with pytest.raises(RequestError) as refusal:
        template(source).render([{"role": "user", "content": "hi"}], [])
    assert "secret" not in str(refusal.value)


def test_a_template_that_is_no_template_is_refused() -> None:
    """Broken Jinja is the model's fault and found at load."""
    with pytest.raises(ModelError) as failure:
        template("{% for %}")
    assert failure.value.reason is Reason.MALFORMED_MODEL


def test_a_template_with_tools_renders_them_itself() -> None:
    """Tools go to the template only where it writes the form that is read back."""
    source = "{% if tools %}{{ tools | tojson }}{% endif %}<tool_call>"
    native = template(source)
    assert native.renders_tools
    assert not template(CHATML).renders_tools
    assert not template("{{ tools }}").renders_tools
    text = "".join(text for text, _ in native.render([], [{"name": "<é>"}]))
    assert text == '[{"name": "<é>"}]<tool_call>'


# Messages and tools -------------------------------------------------------------------------------


def test_a_native_template_gets_calls_as_objects() -> None:
    """Earlier calls reach a template that knows tools with parsed arguments."""
    call = {"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}
    source = ChatInput(
        None,
        [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "2"},
        ],
    )
    first, second = template_messages(source, ToolUse(), renders_tools=True)
    assert first["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert second == {"role": "tool", "content": "2"}


def test_the_section_shows_each_tool() -> None:
    """Name, description and parameters of every tool are in the section."""
    use = read_tools([tool("alpha", description="first"), tool("beta")], "auto", parallel=True)
    section = tool_section(use)
    for part in ('"alpha"', '"beta"', '"first"', '"additionalProperties": false', "may call"):
        assert part in section
    assert "must call" in tool_section(read_tools([tool()], "required", parallel=True))


def test_a_chosen_function_is_the_only_one_allowed() -> None:
    """A named choice leaves one tool and forces one call."""
    choice = {"type": "function", "function": {"name": "beta"}}
    use = read_tools([tool("alpha"), tool("beta")], choice, parallel=True)
    grammar = build_grammar(use, None)
    assert grammar is not None
    assert "beta" in grammar
    assert "alpha" not in grammar
    assert grammar.startswith("start: calls\n")


def test_strict_tools_are_enforced_in_full() -> None:
    """Only a strict tool refuses what the grammar cannot enforce."""
    strict = build_grammar(read_tools([tool(strict=True)], "auto", parallel=True), None)
    loose = build_grammar(read_tools([tool()], "auto", parallel=True), None)
    assert '"lenient": false' in str(strict)
    assert '"lenient": true' in str(loose)
    assert build_grammar(ToolUse(), None) is None
    assert build_grammar(ToolUse(), {"type": "text"}) is None


def test_calls_are_read_out_of_the_stream_whole() -> None:
    """Calls arrive once complete, also when their text holds the closing tag."""
    arguments = json.dumps({"text": '</tool_call> "}'})
    written = "\n".join(
        f'<tool_call>\n{{"name": "f{number}", "arguments": {arguments}}}\n</tool_call>'
        for number in range(2)
    )
    for size in (1, 7, len(written)):
        reader = ToolCallReader(active=True, context=b"x")
        text, calls = "", []
        for start in range(0, len(written), size):
            plain, found = reader.push(written[start : start + size])
            text += plain
            calls += found
        assert text + reader.finish() == ""
        assert [(call.name, call.arguments) for call in calls] == [
            ("f0", arguments),
            ("f1", arguments),
        ]
        assert len({call.identifier for call in calls}) == 2
        assert all(call.identifier.startswith("call_") for call in calls)


def test_text_that_only_begins_like_a_call_is_text() -> None:
    """An opening that comes to nothing, and a call cut short, are given out as text."""
    reader = ToolCallReader(active=True, context=b"")
    assert reader.push("<tool")[0] == ""
    assert reader.push("box> <tool_call>\n")[0] == "<toolbox> <tool_call>\n"
    cut = ToolCallReader(active=True, context=b"")
    assert cut.push('<tool_call>\n{"name": "f", "arg') == ("", [])
    assert cut.finish() == '<tool_call>\n{"name": "f", "arg'
    off = ToolCallReader(active=False, context=b"")
    assert off.push("<tool_call>\n") == ("<tool_call>\n", [])


# Parameters ---------------------------------------------------------------------------------------


def test_defaults_are_complete_and_neutral() -> None:
    """Nothing is left open, and the defaults change no probabilities."""
    resolved = resolve()
    assert resolved.to_content() | {"seed": 0} == {
        "maximum_tokens": 90,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "seed": 0,
        "stop": [],
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "top_logprobs": None,
    }
    assert resolved.seed is not None
    assert resolve(temperature=0, seed=5).seed is None
    assert resolve(seed=5).seed == 5
    assert len({resolve().seed for _ in range(8)}) > 1
    assert resolve(maximum_tokens=1000).maximum_tokens == 90


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("temperature", True),
        ("temperature", "1"),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("top_k", 1.5),
        ("min_p", -1),
        ("min_p", 2),
        ("seed", -1),
        ("seed", MAX_SEED + 1),
        ("seed", 1.0),
        ("maximum_tokens", 0),
        ("maximum_tokens", -1),
        ("presence_penalty", 3),
        ("frequency_penalty", float("inf")),
        ("stop", "text"),
        ("stop", ("",)),
        ("stop", ("x" * 257,)),
        ("stop", ("a", "b", "c", "d", "e")),
        ("stop", (1,)),
        ("logit_bias", {1000: 1}),
        ("logit_bias", {-1: 1}),
        ("logit_bias", {1: 101}),
        ("logit_bias", {1: float("nan")}),
        ("top_logprobs", 21),
        ("top_logprobs", -1),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: object) -> None:
    """The parameter at fault is named, and nothing is moved into range."""
    with pytest.raises(RequestError) as refusal:
        resolve(**{name: value})
    assert refusal.value.parameter == name


def test_the_kernel_class_follows_the_library_not_the_processor() -> None:
    """The class is read from what the library says it was built with."""
    assert kernel_class("CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | FMA = 1 | ").endswith("-avx2")
    assert kernel_class("CPU : AVX2 = 1 | AVX512 = 1 | ").endswith("-avx512")
    assert kernel_class("").endswith("-generic")


async def test_a_worker_with_another_description_is_not_used() -> None:
    """After a restart the engine must be the one whose identity was given out."""
    worker = WorkerProcess({"threads": 1}, None)
    assert worker._check_description({"ready": {"version": "1"}}) == {"version": "1"}
    with pytest.raises(Exception, match="engine-unavailable"):
        worker._check_description({"ready": {"version": "2"}})
    with pytest.raises(Exception, match="engine-failed"):
        worker._check_description(None)
