"""Undoes what Ethereum's libraries do to Python's recursion limit.

Importing `py_ecc` or `eth`, which web3 does, raises it to 100,000 for the whole process; nested
JSON from a stranger then overflows the C stack and ends the process instead of raising
`RecursionError`. Every module here that imports them calls `restore` after its imports.
"""

from __future__ import annotations

import sys
from typing import Final

USUAL_LIMIT: Final = 1000
"""Python's own."""


def restore() -> None:
    """Lower the recursion limit to Python's own, where a library has raised it."""
    if sys.getrecursionlimit() > USUAL_LIMIT:
        sys.setrecursionlimit(USUAL_LIMIT)
