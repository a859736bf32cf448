"""The demonstration of transactions, as `make demo-transaction` runs it, in a home of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "transaction.py"
LIES = {
    "the proof of part 1 is forged": (1, "proof-invalid"),
    "the enclave vouches for another key": (2, "attestation-nonce-mismatch"),
    "the explanation is changed before signing": (2, "evidence-refutes"),
    "the explanation is fed other scores": (2, "dependency-invalid"),
    "one of the two nodes says nothing": (2, "evidence-overdue"),
    "the stored receipt of part 0 is changed": (0, "signature-invalid"),
}
FORGERIES = {
    "one bit of the proof": "proof-invalid",
    "the quote of another key": "evidence-unbound",
    "other words as the output": "opening-mismatch",
    "no verdicts, in two hours": "evidence-overdue",
    "a part left out": "transaction-mismatch",
    "two parts exchanged": "transaction-mismatch",
    "a part twice": "transaction-mismatch",
    "a part of another transaction": "transaction-mismatch",
    "another dependency": "transaction-mismatch",
}


@pytest.mark.slow
def test_mixed_evidence_commits_and_each_sabotage_fails(tmp_path: Path) -> None:
    """Three kinds of evidence verify as one, offline; every lie fails for its reason."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, "VERISPECT_TRANSACTION_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    assert "OK: committed, 3 parts verified" in said
    for index, policy in enumerate(("signed", "proven", "audited+attested-development")):
        assert re.search(rf"ok +part-{index}:receipt +{re.escape(policy)} is met", said), said
    assert "part 1 alone, the others closed: OK: committed" in said
    for lie, (part, reason) in LIES.items():
        assert re.search(rf"{lie} +FAILED at part {part}, {reason}$", said, re.MULTILINE), said
    for forgery, reason in FORGERIES.items():
        assert re.search(rf"{forgery} +FAIL: refused: .*\({reason}\)$", said, re.MULTILINE), said
