"""The published vectors: made again, described by their schema, answered right."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from verispect.core.errors import Reason

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "vectors"
sys.path.insert(0, str(FOLDER))

import generate  # noqa: E402
import run  # noqa: E402

PATHS = sorted(FOLDER.glob("*/*.json"))
CASES = [json.loads(path.read_text()) for path in PATHS]

JUDGED_ELSEWHERE = (
    "attestation.py",
    "attested.py",
    "log_inclusion.py",
    "verdicts.py",
)
"""Kinds of evidence whose cases are tests of their own."""

WITHOUT_VECTOR = {
    Reason.ASSURANCE_UNKNOWN,  # Of a word that somebody says, which is no document.
    # Only a further kind of evidence reaches these; tests/unit/test_appraisal_verifier.py has one.
    Reason.EVIDENCE_INVALID,
    Reason.EVIDENCE_REFUTES,
    Reason.EVIDENCE_LATE,
    # These become `malformed-trusted-root` before anyone outside sees them.
    Reason.MALFORMED_JSON,
    Reason.MALFORMED_KEY,
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_answer_is_the_published_one(case):
    """Result and reason of every vector are those that are published."""
    assert run.run_case(case) == (case["result"], case["reason"])


def test_generator_makes_the_same_bytes():
    """The files are exactly what the generator makes: none missing, none left over, none edited."""
    files = {str(path.relative_to(FOLDER)): path.read_bytes() for path in PATHS}
    assert generate.build() == files


def test_every_vector_follows_the_schema():
    """Another implementation can rely on the published schema."""
    schema = json.loads((FOLDER / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert [error.message for case in CASES for error in validator.iter_errors(case)] == []


def test_identifier_is_the_path():
    """A vector is found by its identifier."""
    names = [f"{path.parent.name}::{path.stem}" for path in PATHS]
    assert names == [case["id"] for case in CASES]


def test_every_namespace_accepts_and_refuses():
    """No namespace could pass with a verifier that always says no, or always yes."""
    for namespace in generate.NAMESPACES:
        answers = {
            case["result"] in ("accepted", "verified")
            for case in CASES
            if case["id"].startswith(namespace + "::")
        }
        assert answers == {True, False}, namespace


def test_every_reason_of_the_offline_verifier_has_a_vector():
    """Each reason code that the loaded offline verifier names is shown by a vector.

    Attestation is judged by modules that are loaded with the first entry of such a kind; its
    vectors are genuine documents of others, and run with `verispect plumbing tee-cases`.
    """
    script = (
        "import sys, verispect.appraisal.verifier\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('verispect.')))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    rooms = {"core", "evidence", "bindings", "appraisal", "tlog"}
    assert {Path(path).parent.name for path in loaded} == rooms
    named = {
        Reason[word]
        for path in loaded
        if Path(path).name not in ("errors.py", *JUDGED_ELSEWHERE)
        and Path(path).parent.name not in ("bindings", "tlog")
        for word in re.findall(r"\bReason\.([A-Z_]+)", Path(path).read_text())
    }
    shown = {Reason(case["reason"]) for case in CASES if case["reason"]}
    assert len(shown) > 30
    assert named - shown <= WITHOUT_VECTOR
