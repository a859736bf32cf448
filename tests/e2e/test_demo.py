"""The demonstration, as `make demo` runs it, in a home of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.py"


def _processes_that_name(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # It has ended, or is not ours.
        if text.encode() in environment:
            found.append(entry.name)
    return found


@pytest.mark.slow
def test_demo_verifies_three_answers_and_refuses_two(tmp_path: Path) -> None:
    """Three real models answer, one proven; changed answers are refused; nothing is left."""
    home = str(tmp_path / "demo home")
    done = subprocess.run(
        [sys.executable, str(DEMO)],
        env={**os.environ, "VERISPECT_DEMO_HOME": home},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines.count("OK: verified under policy signed") == 2
    assert lines.count("OK: verified under policy proven") == 1
    assert any(re.fullmatch(r"execution +asserted, proven", line) for line in lines)
    refusals = [line for line in lines if line.startswith("FAIL: ")]
    assert len(refusals) == 2
    for refusal in refusals:
        assert "refused" in refusal
        assert "-mismatch)" in refusal
    assert "Traceback" not in done.stdout + done.stderr
    assert _processes_that_name(home) == []
