"""Whatever an answer depends on, and whatever it says, changes the bytes that are signed.

Peers sign a digest of some request fields and of the text. Each row here is something that such a
signature leaves out; each is changed alone, through a real gateway or in the statement itself.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
sys.path.insert(0, str(Path(__file__).parents[2] / "vectors"))

import material
from running_gateway import run_gateway

from verispect.core.commitments import Opening, Part
from verispect.core.encoding import encode
from verispect.core.envelope import encode_protected, signed_bytes
from verispect.core.errors import Error
from verispect.core.statement import (
    Determinism,
    InferenceStatement,
    ModelIdentity,
    PaymentBinding,
    Price,
    PromisedEvidence,
    ServedLane,
    ServiceBinding,
    StreamBinding,
    TransactionBinding,
)
from verispect.engines.interface import Delta, ToolCall
from verispect.testing.echo_model import EchoLanguageModel

# -- The statement: every field of it -------------------------------------------------------------

DIGEST = b"d" * 32
FULL = material.statement(
    payment=PaymentBinding("exact", DIGEST),
    transaction=TransactionBinding(b"t" * 16, 0, 3),
    confidential=DIGEST,
    service=ServiceBinding("support", 2, DIGEST),
    evidence=[PromisedEvidence("signature"), PromisedEvidence("example", DIGEST, 5)],
)
OTHER_DIGEST = b"e" * 32


def within(field: str, **changes: Any) -> dict[str, Any]:
    return {field: replace(getattr(FULL, field), **changes)}


def promised(**changes: Any) -> dict[str, Any]:
    return {"evidence": [FULL.evidence[0], replace(FULL.evidence[1], **changes)]}


# What it is called elsewhere, and the same thing with another value here.
STATEMENT_FIELDS: dict[str, tuple[str, dict[str, Any]]] = {
    "version": ("protocol version", {"version": 2}),
    "sequence": ("place among the issuer's answers", {"sequence": 2}),
    "received_at": ("timestamp of the request", {"received_at": FULL.received_at - 1}),
    "completed_at": ("timestamp of the answer", {"completed_at": FULL.completed_at - 1}),
    "signed_at": ("timestamp of the signature", {"signed_at": FULL.signed_at + 1}),
    "operation": ("endpoint", {"operation": "completions"}),
    "requested_model": ("model as asked for", {"requested_model": "smollm3"}),
    "model.identity": (
        "how the model is known",
        within("model", identity=ModelIdentity.UPSTREAM_REPORTED),
    ),
    "model.model_id": ("weights", within("model", model_id=OTHER_DIGEST)),
    "model.engine": ("engine and version", within("model", engine=OTHER_DIGEST)),
    "model.determinism": ("determinism", within("model", determinism=Determinism.NONE)),
    "model.lane": ("lane", within("model", lane=ServedLane.THROUGHPUT)),
    "commitments": ("content", {"commitments": {**FULL.commitments, Part.OUTPUT: DIGEST}}),
    "finish_reasons": ("finish_reason", {"finish_reasons": ["length"]}),
    "usage": ("usage", {"usage": {"input_tokens": 12, "output_tokens": 3}}),
    "assurance": ("assurance asked for", {"assurance": OTHER_DIGEST}),
    "evidence.kind": ("kind of evidence", promised(kind="sample")),
    "evidence.digest": ("evidence", promised(digest=OTHER_DIGEST)),
    "evidence.due_at": ("deadline of evidence", promised(due_at=6)),
    "nonce": ("nonce", {"nonce": b"another nonce..."}),
    "stream.chunks": ("number of chunks", within("stream", chunks=3)),
    "stream.head": ("chunks and their boundaries", within("stream", head=OTHER_DIGEST)),
    "price.asset": ("currency", within("price", asset="eip155:1/slip44:61")),
    "price.input_per_million": ("price", within("price", input_per_million=1)),
    "price.output_per_million": ("price", within("price", output_per_million=1)),
    "price.charge": ("cost", within("price", charge=17)),
    "price.ceiling": ("authorised ceiling", within("price", ceiling=21)),
    "payment.scheme": ("payment scheme", within("payment", scheme="upto")),
    "payment.authorisation": ("payment id", within("payment", authorisation=OTHER_DIGEST)),
    "transaction.transaction_id": ("transaction", within("transaction", transaction_id=b"u" * 16)),
    "transaction.index": ("place in a transaction", within("transaction", index=1)),
    "transaction.count": ("size of a transaction", within("transaction", count=4)),
    "confidential": ("key of an encrypted request", {"confidential": OTHER_DIGEST}),
    "service.name": ("service", within("service", name="sales")),
    "service.version": ("version of a service", within("service", version=1)),
    "service.digest": ("digest of a version", within("service", digest=OTHER_DIGEST)),
}

NESTED = {
    "model": type(FULL.model),
    "evidence": PromisedEvidence,
    "stream": StreamBinding,
    "price": Price,
    "payment": PaymentBinding,
    "transaction": TransactionBinding,
    "service": ServiceBinding,
}


def signature_still_fits(payload: bytes, protected: bytes | None = None) -> bool:
    good = encode(material.protected_map())
    signature = material.GOOD.sign(signed_bytes(good, FULL.encode()))
    try:
        material.GOOD.public_key.verify(signed_bytes(protected or good, payload), signature)
    except Error:
        return False
    return True


def test_table_names_every_field_of_a_statement():
    """A field that is added to the statement must be added to the table below."""
    leaves = set()
    for field in dataclasses.fields(InferenceStatement):
        inner = NESTED.get(field.name)
        names = [item.name for item in dataclasses.fields(inner)] if inner else [None]
        leaves |= {f"{field.name}.{name}" if name else field.name for name in names}
    assert leaves == STATEMENT_FIELDS.keys()


@pytest.mark.parametrize("field", STATEMENT_FIELDS)
def test_statement_field_is_signed(field):
    """No field of a statement can change under its signature."""
    _, changes = STATEMENT_FIELDS[field]
    changed = replace(FULL, **changes).encode()
    assert signature_still_fits(FULL.encode())
    assert changed != FULL.encode()
    assert not signature_still_fits(changed)


HEADER_FIELDS = {
    "key identifier": {"key_id": material.OTHER.public_key.key_id},
    "who signs": {"issuer": "another.example"},
    "response id": {"subject": "f" * 32},
    "domain of the signature": {"content_type": "application/verispect-stream+cbor"},
}


@pytest.mark.parametrize("name", HEADER_FIELDS)
def test_header_field_is_signed(name):
    """Who signed what, for which response, is under the signature too."""
    good = {
        "content_type": "application/verispect-statement+cbor",
        "key_id": material.GOOD.public_key.key_id,
        "issuer": material.ISSUER,
        "subject": material.SUBJECT,
    }
    assert signature_still_fits(FULL.encode(), encode_protected(**good))
    changed = encode_protected(**(good | HEADER_FIELDS[name]))
    assert not signature_still_fits(FULL.encode(), changed)


# -- Parts: what a caller sends and gets, through a real gateway ----------------------------------


class Talkative(EchoLanguageModel):
    """Takes images, speaks beside a tool call, and reports an upstream, all from the request."""

    async def prepare(self, source):
        self.source = source
        messages = [
            {**message, "content": "call" if self._marked("CALL") else "one two three"}
            for message in source.messages
        ]
        return await super().prepare(replace(source, messages=messages))

    def _marked(self, word):
        return word in str(self.source.messages)

    async def generate(self, prepared, sampling):
        if self._marked("BESIDE"):
            yield Delta(token_ids=[65], text="beside")
        if self._marked("IDENTIFIER"):
            yield Delta(token_ids=[66], tool_calls=(ToolCall("call_9", "alpha", "{}"),))
        last = None
        async for delta in super().generate(prepared, sampling):
            last = delta
            if self._marked("UPSTREAM") and delta.finish_reason:
                delta = replace(delta, upstream={"model": "dated-name", "fingerprint": "fp_1"})
            yield delta
        assert last is not None


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def image(data: str) -> dict[str, Any]:
    url = f"data:image/png;base64,{data}"
    return user([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "a"}])


def tool(name: str, description: str = "d") -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": {"type": "object"}}
    return {"type": "function", "function": function}


TOOLS = {"tools": [tool("alpha"), tool("beta")]}
JSON_OBJECT = {"type": "json_object"}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "integer"}}}

# What is left out elsewhere, the part that holds it here, and two requests that differ in it.
REQUESTS: list[tuple[str, Part, dict[str, Any], dict[str, Any]]] = [
    ("message text", Part.MESSAGES, user("a"), user("b")),
    ("message role and name", Part.MESSAGES, {}, {"messages": [{"role": "user", "name": "n",
                                                               "content": "one two three"}]}),
    ("tool_choice", Part.TOOLS, {**TOOLS, "tool_choice": "none"},
     {**TOOLS, "tool_choice": "auto"}),
    ("parallel_tool_calls", Part.TOOLS, TOOLS, {**TOOLS, "parallel_tool_calls": False}),
    ("tool description", Part.TOOLS, TOOLS, {"tools": [tool("alpha"), tool("beta", "e")]}),
    ("response_format", Part.RESPONSE_FORMAT, {"response_format": JSON_OBJECT},
     {"response_format": SCHEMA}),
    ("top_p", Part.PARAMETERS, {"top_p": 0.5}, {"top_p": 0.6}),
    ("seed", Part.PARAMETERS, {"seed": 1}, {"seed": 2}),
    ("n", Part.PARAMETERS, {"n": 1}, {"n": 2}),
    ("presence_penalty", Part.PARAMETERS, {}, {"presence_penalty": 0.5}),
    ("frequency_penalty", Part.PARAMETERS, {}, {"frequency_penalty": 0.5}),
    ("logit_bias", Part.PARAMETERS, {}, {"logit_bias": {"65": -100}}),
    ("user", Part.PARAMETERS, {"user": "a"}, {"user": "b"}),
    ("stream", Part.PARAMETERS, {}, {"stream": True}),
    ("stop", Part.PARAMETERS, {"stop": ["x"]}, {"stop": ["y"]}),
    ("effective temperature", Part.PARAMETERS, {}, {"temperature": 0.25}),
    ("effective max_tokens", Part.PARAMETERS, {}, {"max_tokens": 255}),
    ("top_logprobs", Part.PARAMETERS, {"logprobs": True}, {"logprobs": True, "top_logprobs": 2}),
    ("image bytes", Part.ATTACHMENTS, image("AAAA"), image("AAAB")),
    ("image beside text", Part.MESSAGES, image("AAAA"), image("AAAB")),
    ("injected system text", Part.SYSTEM_PROMPT,
     {"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "x"}]},
     {"messages": [{"role": "system", "content": "b"}, {"role": "user", "content": "x"}]}),
    ("what the template made of it", Part.EFFECTIVE_INPUT,
     {"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "x"}]},
     {"messages": [{"role": "system", "content": "b"}, {"role": "user", "content": "x"}]}),
    ("text beside a tool call", Part.OUTPUT, {**TOOLS, **user("CALL")},
     {**TOOLS, **user("CALL BESIDE")}),
    ("tool call and its id", Part.TOOL_CALLS, {**TOOLS, **user("CALL")},
     {**TOOLS, **user("CALL IDENTIFIER")}),
    ("text of the answer", Part.OUTPUT, {"seed": 1}, {"seed": 2}),
    ("logprobs", Part.LOGPROBS, {"logprobs": True}, {"logprobs": True, "top_logprobs": 2}),
    ("upstream model name and fingerprint", Part.UPSTREAM, {}, user("UPSTREAM")),
]  # fmt: skip


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with run_gateway(tmp_path_factory.mktemp("gateway"), Talkative()) as running:
        yield running


def ask(gateway, **fields):
    """Ask, verify as a caller does, and return the verified receipt with everything opened."""
    body = {"model": "echo", **user("one two three"), **fields}
    with gateway.http() as http:
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        inference = answer.headers["verispect-inference"]
        key = {"verispect-opening-key": answer.headers["verispect-opening-key"]}
        receipt = http.get(f"/v1/receipts/{inference}", headers=key).content
        openings = http.get(f"/v1/receipts/{inference}/openings", headers=key).content
    return gateway.verify_bytes(receipt, openings)


@pytest.mark.parametrize(
    ("part", "before", "after"),
    [row[1:] for row in REQUESTS],
    ids=[row[0] for row in REQUESTS],
)
def test_difference_in_a_request_is_signed(gateway, part, before, after):
    """Two requests that differ in one thing have receipts that differ in the part that holds it."""
    first, second = ask(gateway, **before), ask(gateway, **after)
    assert part in second.statement.commitments
    assert first.opened.get(part) != second.opened[part]
    # The salts differ anyway; under one salt the signed commitments still differ.
    commitments = [
        Opening.of(part, verified.opened.get(part), salt=b"s" * 32).commitment()
        for verified in (first, second)
    ]
    payloads = [
        replace(FULL, commitments={part: commitment}).encode() for commitment in commitments
    ]
    assert payloads[0] != payloads[1]


def test_finish_reason_and_usage_are_the_real_ones(gateway):
    """An answer that was cut is signed as cut, with the tokens that were generated."""
    whole, cut = ask(gateway), ask(gateway, max_tokens=3)
    assert list(whole.statement.finish_reasons) == ["stop"]
    assert list(cut.statement.finish_reasons) == ["length"]
    assert cut.statement.usage["output_tokens"] == 3 < whole.statement.usage["output_tokens"]


def test_defaults_are_signed_as_resolved(gateway):
    """What the caller left open is signed with the value that was used."""
    parameters = ask(gateway).opened[Part.PARAMETERS]
    for name in ("temperature", "top_p", "seed", "maximum_tokens", "presence_penalty"):
        assert parameters[name] is not None


def test_every_part_is_in_the_table():
    """A part that is added must be added to the table above."""
    assert {row[1] for row in REQUESTS} == set(Part)
