# ruff: noqa: INP001
"""The cases of proofs: of one request and of several, alone and as evidence of a receipt.

The prover is needed to make them, and what it draws comes from a published sentence: the masks of
these proofs hide nothing from anybody.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cases_formats import Case
from material import NOW, SIGNED_AT, SUBJECT, derived, model, sign1, statement, trusted_root

from verispect.appraisal.policy import PROVEN
from verispect.core.commitments import Opening, Part, encode_openings
from verispect.core.encoding import decode, encode, sha256
from verispect.core.receipt import EvidenceEntry
from verispect.core.statement import PromisedEvidence
from verispect.evidence.bindings.inference_v1 import inference_digest
from verispect.evidence.proof import ProofBody, proof_context, proof_entry, proof_salt
from verispect.models.integer_model import register_integer
from verispect.models.registry import ModelRegistry
from verispect.proof.binary_fraction import BinaryFraction
from verispect.proof.exchange import answer_datatype, answer_octets, answer_shape
from verispect.proof.graph import (
    Affine,
    Convolve,
    Epilogue,
    Graph,
    Input,
    Output,
    Requantise,
    Table,
)
from verispect.proof.parameters import Code
from verispect.proof.proof_file import Proof
from verispect.proof.provable import ProvableModel, encode_weights
from verispect.proof.prover.prove import Prover, commit_model, make_prover, prove_requests
from verispect.proof.prover.requested import Request

VERIFIED = ("verified", None)
_ONE = BinaryFraction.of(1.0)


def _random(label: str) -> Callable[[int], bytes]:
    """Return what draws octets that depend on `label` only."""
    state = hashlib.shake_256(derived(label))
    drawn = 0

    def draw(count: int) -> bytes:
        nonlocal drawn
        drawn += count
        return state.digest(drawn)[drawn - count :]

    return draw


def _integers(label: str, *shape: int, limit: int) -> Any:
    count = int(np.prod(shape))
    octets = np.frombuffer(_random(label)(count), np.uint8).astype(np.int16)
    return (octets % (2 * limit + 1) - limit).reshape(shape)


def _graph() -> Graph:
    """Two layers, the first with a table, the second raw."""
    table = np.clip(np.arange(-32, 32), 0, 31).astype("<i2").tobytes()
    return Graph(
        Input((5,), -15, 15, _ONE, (0,)),
        ((1, 4, 5), (4,), (1, 3, 4)),
        (Table(-32, table),),
        (
            Affine((Convolve(0, 0, (), (), ()),), 1, Requantise(8, 0), (4,)),
            Affine((Convolve(1, 2, (), (), ()),), None, None, (3,)),
        ),
        Output(2, _ONE, Epilogue.NONE),
        8,
    )


@cache
def _prover(budget: int = 0, name: str = "weights") -> Prover:
    weights = tuple(
        _integers(f"{name} {number}", *shape, limit=40)
        for number, shape in enumerate(_graph().weights)
    )
    held, commitment = commit_model(
        _graph(),
        weights,
        columns=6,
        rate_bits=3,
        masking_budget=budget,
        randomness=_random("commitment"),
    )
    return make_prover(held, weights, commitment, lambda: None)


def _mode(prover: Prover) -> Any:
    held = prover.model
    return Code(held.columns, held.rate_bits, held.budget).mode


@dataclass(frozen=True)
class _Asked:
    """One request, its answer and a proof that covers it."""

    prover: Prover
    request: Request
    outputs: Any
    proof: bytes

    def members(self, **changes: Any) -> dict[str, Any]:
        """Return the members of a vector, with `changes`."""
        given = {
            "model": self.prover.model.encode().hex(),
            "mode": _mode(self.prover).value,
            "context": self.request.context.hex(),
            "salt": self.request.salt.hex(),
            "inputs": _rows(self.request.inputs),
            "outputs": _rows(self.outputs),
            "proof": self.proof.hex(),
        }
        return {name: value for name, value in (given | changes).items() if value is not None}


def _rows(array: Any) -> list[list[int]]:
    return [[int(value) for value in row.reshape(-1)] for row in array]


@cache
def _asked(rows: tuple[int, ...], budget: int = 0, hidden: bool = False) -> list[_Asked]:
    """Prove requests of so many rows together."""
    prover = _prover(budget)
    requests = [
        Request(
            _integers(f"input {number}", count, 5, limit=15),
            derived(f"context {number}"),
            derived(f"salt {number}"),
        )
        for number, count in enumerate(rows)
    ]
    made = prove_requests(
        prover,
        requests,
        mode=_mode(prover),
        hidden_input=hidden,
        randomness=_random("masks"),
    )
    proof = replace(made.proof, metadata={}).encode()
    outputs = made.trace.output
    asked, first = [], 0
    for request in requests:
        end = first + len(request.inputs)
        asked.append(_Asked(prover, request, outputs[first:end], proof))
        first = end
    return asked


def proofs() -> Iterator[Case]:
    """Yield the cases of proofs by themselves."""
    yield from _accepted()
    yield from _about_something_else()
    yield from _false()
    yield from _not_a_proof()
    yield from _lists()


def _accepted() -> Iterator[Case]:
    (one,) = _asked((1,))
    yield ("accept", "one request of one row, mode succinct", one.members(), *VERIFIED)
    (three,) = _asked((3,))
    yield ("accept-rows", "one request of three rows", three.members(), *VERIFIED)
    shared = _asked((1, 2, 1))
    for number, each in enumerate(shared):
        title = f"request {number} of three that share the proof"
        yield (f"accept-shared-{number}", title, each.members(), *VERIFIED)
    yield (
        "accept-shared-zero-knowledge",
        "the second of two that share a proof in mode zero-knowledge",
        _asked((1, 1), 1)[1].members(),
        *VERIFIED,
    )
    (hidden,) = _asked((1,), 1, True)
    title = "the input is hidden, and not needed"
    yield ("accept-hidden-input", title, hidden.members(inputs=None), *VERIFIED)
    told = replace(Proof.decode(one.proof), metadata={"prover": "x", "security_bits": "9999"})
    title = "metadata is the prover's word, and verified by nobody"
    yield ("accept-metadata", title, one.members(proof=told.encode().hex()), *VERIFIED)


def _about_something_else() -> Iterator[Case]:
    first, second, _ = _asked((1, 2, 1))
    far = [[16, *_rows(first.request.inputs)[0][1:]]]
    large = [[1 << 52, *_rows(first.outputs)[0][1:]]]
    for name, title, reason, changes in (
        (
            "model",
            "other weights",
            "proof-wrong-model",
            {"model": _prover(0, "other weights").model.encode().hex()},
        ),
        (
            "mode",
            "mode zero-knowledge was asked for",
            "proof-wrong-mode",
            {"mode": "zero-knowledge"},
        ),
        ("context", "another context", "proof-wrong-context", {"context": derived("x").hex()}),
        ("salt", "another salt", "proof-wrong-context", {"salt": derived("x").hex()}),
        (
            "salt-neighbour",
            "the neighbour's",
            "proof-wrong-context",
            {"salt": second.request.salt.hex()},
        ),
        (
            "rows",
            "a row more than the proof says",
            "proof-wrong-batch",
            {
                "inputs": _rows(first.request.inputs) * 2,
                "outputs": _rows(first.outputs) * 2,
            },
        ),
        (
            "input",
            "another input",
            "proof-wrong-input",
            {"inputs": [[-value for value in row] for row in _rows(first.request.inputs)]},
        ),
        (
            "input-range",
            "an input that the model does not take",
            "proof-wrong-input",
            {"inputs": far},
        ),
        (
            "output",
            "one output more by one",
            "proof-wrong-output",
            {"outputs": [[row[0] + 1, *row[1:]] for row in _rows(first.outputs)]},
        ),
        ("output-range", "an output of 2^52", "proof-wrong-output", {"outputs": large}),
        (
            "neighbour",
            "the neighbour's answer",
            "proof-wrong-output",
            {"outputs": _rows(second.outputs)[:1]},
        ),
        ("input-hidden", "said to be hidden", "proof-wrong-mode", {"inputs": None}),
    ):
        yield (f"other-{name}", title, first.members(**changes), "refused", reason)
    alone = _asked((1,))[0]
    title = "a true proof of another batch, in which this request is not"
    absent = _asked((1, 2, 1))[2].members(proof=alone.proof.hex())
    yield ("other-batch", title, absent, "refused", "proof-wrong-context")


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


def _false() -> Iterator[Case]:
    (one,) = _asked((1,))
    proof = Proof.decode(one.proof)
    for name, part, place in (
        ("first-message", "messages", 0),
        ("last-message", "messages", -16),
        ("combination", "combination", 0),
        ("column", "columns", 0),
        ("node", "nodes", 0),
        ("root", "witness_root", 0),
    ):
        octets = getattr(proof, part)
        changed = replace(proof, **{part: _flipped(octets, place % len(octets))})
        title = f"one bit of the part {part.replace('_', ' ')}"
        yield (
            f"false-{name}",
            title,
            one.members(proof=changed.encode().hex()),
            "refused",
            "proof-invalid",
        )
    lie = [[row[0] + 1, *row[1:]] for row in _rows(one.outputs)]
    digest = Request(one.request.inputs, one.request.context, one.request.salt)
    said = _digest_of(digest, lie)
    changed = replace(proof, requests=(replace(proof.requests[0], output=said),))
    members = one.members(proof=changed.encode().hex(), outputs=lie)
    title = "a false output, with its digest put into a proof of the true one"
    yield ("false-digest", title, members, "refused", "proof-invalid")


def _digest_of(request: Request, outputs: list[list[int]]) -> bytes:
    octets = np.array(outputs, "<i8").tobytes()
    return hashlib.sha256(b"verispect-proof-output-v1" + request.salt + octets).digest()


def _not_a_proof() -> Iterator[Case]:
    (one,) = _asked((1,))
    proof, fields = Proof.decode(one.proof), decode(one.proof)
    modulus = (0xFFFFFFFF00000001).to_bytes(8, "little")
    for name, title, reason, key, value in (
        ("message-missing", "a message less", "malformed-proof", 7, proof.messages[:-16]),
        ("message-more", "a message more", "malformed-proof", 7, proof.messages + bytes(16)),
        (
            "column-more",
            "octets after the last column",
            "malformed-proof",
            9,
            proof.columns + b"\0",
        ),
        ("node-more", "a node that is not needed", "malformed-proof", 10, proof.nodes + bytes(32)),
        ("element", "zero written as p", "malformed-proof", 7, modulus + proof.messages[8:]),
        ("mode", "a mode that there is not", "malformed-proof", 2, 2),
        ("masks", "masks in mode succinct", "malformed-proof", 11, bytes(32)),
        ("metadata", "metadata of numbers", "malformed-proof", 13, {1: 2}),
        ("unknown-field", "a field that there is not", "malformed-proof", 14, b""),
    ):
        changed = encode(dict(sorted({**fields, key: value}.items())))
        yield (f"form-{name}", title, one.members(proof=changed.hex()), "malformed", reason)
    later = encode({**fields, 1: 2}).hex()
    title = "version 2"
    yield ("form-version", title, one.members(proof=later), "unsupported", "unsupported-version")
    cut = one.members(proof=one.proof[:-1].hex())
    yield ("form-cut", "an octet less", cut, "malformed", "malformed-cbor")


def _lists() -> Iterator[Case]:
    mine, *_ = _asked((1, 2, 1))
    fields = decode(mine.proof)
    said: Sequence[Any] = fields[4]
    foreign = [1, derived("a"), derived("b"), derived("c")]
    refused, malformed = ("refused", "proof-invalid"), ("malformed", "malformed-proof")
    for name, title, rows, answer in (
        ("reordered", "two neighbours exchanged", [said[0], said[2], said[1]], refused),
        ("moved", "own request last", [*said[1:], said[0]], refused),
        ("replaced", "a neighbour's digests are others", [*said[:2], foreign], refused),
        ("dropped", "a neighbour left out", said[:2], malformed),
        ("added", "a neighbour more", [*said, foreign], malformed),
        ("twice", "own request twice", [said[0], said[0], said[2]], malformed),
        ("none", "no request", [], malformed),
        ("no-row", "a request of no row", [said[0], [0, *said[1][1:]], said[2]], malformed),
        ("many-rows", "4097 rows", [said[0], [4095, *said[1][1:]], said[2]], malformed),
        (
            "hidden",
            "a neighbour's input is hidden",
            [*said[:2], [1, *said[2][1:2], None, said[2][3]]],
            malformed,
        ),
    ):
        changed = encode({**fields, 4: list(rows)}).hex()
        yield (f"shared-{name}", title, mine.members(proof=changed), *answer)


# -- As evidence of a receipt ----------------------------------------------------------------------


@cache
def _evident() -> tuple[Any, dict[Part, Opening], EvidenceEntry]:
    """Return a statement, its openings and the proof of it, shared with another request."""
    prover = _prover()
    held: ProvableModel = prover.model
    with tempfile.TemporaryDirectory() as place:
        registered = register_integer(
            ModelRegistry(Path(place)),
            "vector",
            held.encode(),
            encode_weights(prover.runtime.weights),
            commitment_holds=lambda *_: True,
        )
        manifest = registered.manifest.to_bytes()
    inputs = _integers("evident", 1, 5, limit=15)
    outputs = prover.runtime.run(inputs).output
    graph = held.graph
    given = ["input", "FP32", [1, 5], inputs.astype("<f4").tobytes()]
    shape = [1, *answer_shape(graph)]
    answered = ["output", answer_datatype(graph), shape, answer_octets(graph, outputs)]
    opened = {
        part: Opening.of(part, [row], salt=derived("proof salt " + part.label))
        for part, row in ((Part.EFFECTIVE_INPUT, given), (Part.OUTPUT, answered))
    }
    said = statement(
        model=replace(model(), model_id=sha256(manifest)),
        commitments={part: opening.commitment() for part, opening in opened.items()},
        evidence=[PromisedEvidence("signature"), PromisedEvidence("proof", due_at=NOW)],
        operation="infer",
        stream=None,
        price=None,
    )
    mine = Request(
        inputs,
        proof_context([inference_digest(SUBJECT, said)]),
        proof_salt(opened[Part.EFFECTIVE_INPUT].salt, opened[Part.OUTPUT].salt),
    )
    other = _asked((1,))[0].request
    made = prove_requests(
        prover, [other, mine], mode=_mode(prover), randomness=_random("masks")
    ).proof
    body = ProofBody(replace(made, metadata={}).encode(), outputs.astype("<i8").tobytes())
    entry = proof_entry(body, manifest=manifest, model=held.encode(), collected_at=SIGNED_AT + 1000)
    return said, opened, entry


def proof_evidence() -> Iterator[Case]:
    """Yield the cases of proofs as evidence of a receipt."""
    said, opened, entry = _evident()
    body, endorsed = decode(entry.body), decode(entry.endorsements)

    def case(
        name: str,
        title: str,
        result: str,
        reason: str | None,
        *,
        of: Any = said,
        shown: dict[Part, Opening] | None = None,
        carried: EvidenceEntry = entry,
    ) -> Case:
        unprotected = encode({-70001: [carried.to_row()]})
        inputs = {
            "receipt": sign1(of.encode(), unprotected=unprotected).hex(),
            "openings": encode_openings(opened if shown is None else shown).hex(),
            "trustedRoot": trusted_root(),
            "policy": PROVEN.to_toml(),
            "now": NOW,
        }
        return (f"proof-{name}", title, inputs, result, reason)

    yield case("accept", "the receipt with its proof, which another request shares", *VERIFIED)
    only_input = {Part.EFFECTIVE_INPUT: opened[Part.EFFECTIVE_INPUT]}
    title = "the output is not opened"
    yield case("not-opened", title, "undetermined", "content-not-opened", shown=only_input)
    later = replace(said, received_at=said.received_at + 1)
    title = "the proof is of another inference"
    yield case("context", title, "refused", "proof-wrong-context", of=later)
    elsewhere = replace(said, model=model())
    title = "the statement names another model"
    yield case("model", title, "refused", "proof-wrong-model", of=elsewhere)
    held = encode({**endorsed, "model": _prover(0, "other weights").model.encode()})
    title = "a provable model that the manifest does not name"
    other = replace(entry, endorsements=held)
    yield case("weights", title, "refused", "proof-wrong-model", carried=other)
    integers = np.frombuffer(body["outputs"], "<i8").copy()
    integers[0] += 1
    lying = replace(entry, body=encode({**body, "outputs": integers.tobytes()}))
    title = "integers that are not those of the answer"
    yield case("output", title, "refused", "proof-wrong-output", carried=lying)
    proof = Proof.decode(body["proof"])
    broken = replace(proof, messages=_flipped(proof.messages, 0)).encode()
    changed = replace(entry, body=encode({**body, "proof": broken}))
    title = "one bit of the proof"
    yield case("bit", title, "refused", "proof-invalid", carried=changed)
    less = replace(entry, body=encode({"proof": body["proof"]}))
    title = "a body without integers"
    yield case("body", title, "refused", "malformed-evidence", carried=less)
    profile = replace(entry, profile="verispect/proof-v2")
    title = "a profile that is not known"
    yield case("profile", title, "refused", "unsupported-evidence", carried=profile)
    name, datatype, _, data = opened[Part.EFFECTIVE_INPUT].content()[0]
    shaped = Opening.of(
        Part.EFFECTIVE_INPUT,
        [[name, datatype, [5], data]],
        salt=opened[Part.EFFECTIVE_INPUT].salt,
    )
    flat = opened | {Part.EFFECTIVE_INPUT: shaped}
    moved = replace(said, commitments={part: each.commitment() for part, each in flat.items()})
    title = "an input without its rows"
    yield case("input", title, "refused", "proof-wrong-input", of=moved, shown=flat)
