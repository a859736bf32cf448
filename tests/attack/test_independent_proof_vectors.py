"""The published vectors of proofs, judged by the second verifier: it never saw the prover."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oracles.proof_maker import Model, Refused, Statement, judge
from verispect.core.encoding import decode
from verispect.core.errors import Error
from verispect.proof.graph import Graph

FOLDER = Path(__file__).parents[2] / "vectors" / "proof"
CASES = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]


def _model(data: bytes) -> Model:
    """What a verifier knows of a model: everything but its weights."""
    fields = decode(data)
    graph = Graph.decode(fields[2])
    nothing = [[0] * math.prod(shape) for shape in graph.weights]
    held = Model(graph, nothing, c=fields[3], rate_bits=fields[4], budget=fields[6])
    held.committed = SimpleNamespace(root=fields[5])  # type: ignore[assignment]
    held.map = data
    held.digest = hashlib.sha256(b"verispect-provable-model-v1" + data).digest()
    return held


def _accepts(case: dict[str, Any]) -> bool:
    statement = Statement(
        _model(bytes.fromhex(case["model"])),
        case.get("inputs"),
        case["outputs"],
        len(case["outputs"]),
        masked=case["mode"] == "zero-knowledge",
        context=bytes.fromhex(case["context"]),
        salt=bytes.fromhex(case["salt"]),
    )
    try:
        judge(statement, bytes.fromhex(case["proof"]))
    except (Refused, ValueError, KeyError, IndexError, TypeError, struct.error, Error):
        return False
    return True


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_second_verifier_agrees_with_the_published_answer(case: dict[str, Any]) -> None:
    """Written from the specification in plain integers, it accepts and refuses the same proofs."""
    assert _accepts(case) is (case["result"] == "verified")


def test_there_is_something_to_accept_and_to_refuse() -> None:
    """Both answers are among the vectors, in both modes."""
    kinds = {(case["mode"], case["result"] == "verified") for case in CASES}
    assert kinds >= {("succinct", True), ("succinct", False), ("zero-knowledge", True)}
