"""The whole file of shared attestation cases, through the command line as anybody would run it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tee_vectors import cases, vectors_path


def _run(path: Path) -> tuple[int, list[dict[str, Any]], str]:
    completed = subprocess.run(
        [sys.executable, "-m", "verispect.cli.main", "plumbing", "tee-cases", str(path)],
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
    )
    lines = [json.loads(line) for line in completed.stdout.splitlines()]
    return completed.returncode, lines, completed.stderr


def test_every_shared_case_gets_its_stated_result_and_reason() -> None:
    """One line for each case, every line ok, exit code 0."""
    code, lines, errors = _run(vectors_path() / "cases.json")
    assert [line for line in lines if not line["ok"]] == []
    assert (code, errors) == (0, "")
    assert [line["id"] for line in lines] == [case["id"] for case in cases()]


def test_classes_and_gaps_are_part_of_every_line() -> None:
    """What was accepted has a class; trust in the evidence's own anchor is never hardware."""
    _, lines, _ = _run(vectors_path() / "cases.json")
    own = {case["id"] for case in cases() if case["policy"].get("trust") == "dev"}
    for line in lines:
        if line["result"] in {"accept", "policy"}:
            assert line["not_checked"], line["id"]
            hardware = line["class"] == "hardware"
            assert hardware is (line["id"] not in own), line["id"]


def test_a_wrong_expectation_is_told_and_ends_with_1(tmp_path: Path) -> None:
    """The command can fail: one altered expectation is one line that is not ok."""
    shutil.copytree(vectors_path(), tmp_path / "tee")
    path = tmp_path / "tee" / "cases.json"
    path.chmod(0o600)
    path.parent.chmod(0o700)
    document = json.loads(path.read_text())
    changed = document["cases"][0]
    changed["expect"], changed["reason"] = "reject", "expired"
    path.unlink()
    path.write_text(json.dumps({"cases": document["cases"][:2]}))
    code, lines, _ = _run(path)
    assert code == 1
    assert [line["ok"] for line in lines] == [False, True]
    assert lines[0]["expected_reason"] == "expired"


@pytest.fixture(autouse=True)
def _writable_after(tmp_path: Path) -> Any:
    # The shared folder is read-only, and so is a copy of it; pytest must be able to remove it.
    yield
    for path in tmp_path.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)
