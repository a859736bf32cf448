"""Importing the chain's libraries leaves Python's guard against deep nesting as it was."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["chain", "development_chain", "account", "eas", "contract", "publish", "check"]
)
def test_recursion_limit_is_python_s_own(module):
    """Deeply nested JSON stays an error and never ends the process."""
    script = (
        f"import sys, json, verispect.ledger.anchor.{module}\n"
        "assert sys.getrecursionlimit() == 1000, sys.getrecursionlimit()\n"
        "try:\n    json.loads('[' * 100_000)\nexcept RecursionError:\n    print('refused')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "refused"), ended.stderr
