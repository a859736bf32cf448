"""One JSON line per figure, with hardware and commit, as every benchmark prints it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any


@cache
def circumstances() -> dict[str, Any]:
    """Return what a figure was measured on."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        pass
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return {
        "commit": commit.stdout.strip() or "unknown",
        "hardware": {
            "processor": processor,
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2),
        },
        "python": platform.python_version(),
    }


def figure(
    name: str,
    value: float,
    unit: str,
    *,
    peer: str | None = None,
    peer_value: float | None = None,
    **further: Any,
) -> None:
    """Print one figure; the ratio is ours to the peer's."""
    line = {
        "name": name,
        "value": round(value, 6),
        "unit": unit,
        "peer": peer,
        "peer_value": None if peer_value is None else round(peer_value, 6),
        "ratio": None if not peer_value else round(value / peer_value, 3),
        **further,
        **circumstances(),
    }
    print(json.dumps(line), flush=True)


def progress(text: str) -> None:
    """Say on standard error what goes on."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
