"""Where subcommands keep things unless they are told otherwise."""

from __future__ import annotations

import os
from pathlib import Path


def default_home() -> Path:
    """Return `$VERISPECT_HOME`, else the user's data directory for this program."""
    home = os.environ.get("VERISPECT_HOME")
    if home:
        return Path(home)
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "verispect"
