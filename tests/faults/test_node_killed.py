"""A node process is killed at random moments, again and again: it loses and repeats nothing."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from log_leaves import NODES
from node_world import Operator, trusted_root
from verispect.attesters.signer import Issuer
from verispect.core.envelope import open_envelope
from verispect.core.keys import PublicKey
from verispect.tlog.verdict import VERDICT_TYPE, NodeVerdict

RECEIPTS = 12


def test_a_node_that_is_killed_again_and_again_says_everything_once(tmp_path: Path) -> None:
    """Every receipt gets one verdict, whatever was under way when the process died."""
    identity = Issuer.create(tmp_path / "node" / "keys", name="node-x", development=False, now=0)
    root = tmp_path / "root.json"
    root.write_bytes(trusted_root().to_json())
    chance = random.Random(5)
    with Operator() as operator:
        expected = {operator.issue(sequence=number + 1).receipt_id for number in range(RECEIPTS)}
        command = [
            *(sys.executable, "-m", "verispect.cli.main", "node", "serve"),
            *("--state", str(tmp_path / "node"), "--operator", operator.url),
            *("--trusted-root", str(root)),
        ]
        for attempt in range(8):
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(0.6 + chance.random() * 0.6 if attempt < 7 else 6)
            process.kill()
            process.wait()
        found = _verdicts(operator.posted, identity.signer.public_key)
    # A delivery whose answer was lost is repeated with the same bytes; the log takes it once.
    assert len(set(operator.posted)) == RECEIPTS
    assert {each.receipt for each in found} == expected
    assert "node-x" not in NODES


def _verdicts(bodies: list[bytes], key: PublicKey) -> list[NodeVerdict]:
    verdicts = []
    for body in bodies:
        envelope = open_envelope(body, content_type=VERDICT_TYPE)
        envelope.verify(key)
        verdicts.append(NodeVerdict.decode(envelope.payload))
    return verdicts
