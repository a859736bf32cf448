"""One operator and three nodes, each a process: honest answers are audited, each lie is caught."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "network.py"


@pytest.mark.slow
def test_every_way_to_cheat_is_caught(tmp_path: Path) -> None:
    """The demonstration ends well, and its log shows each lie as FAILED or as a fork."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={
            **os.environ,
            "VERISPECT_NETWORK_HOME": str(tmp_path / "network"),
            "VERISPECT_NETWORK_MODELS": "magika",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "met; OK: verified under policy audited" in done.stdout
    for lie in ("tampered", "forged", "withheld"):
        assert re.search(rf"{lie}: FAILED \([a-z-]+\)", done.stdout), done.stdout
    assert re.search(r"proof that the log forked: \[\d+", done.stdout), done.stdout
