# ruff: noqa: INP001, T201
"""Writes the published test vectors, one JSON file per case, byte for byte the same every time.

Run by `make vectors`; needs the extra `prover`. A test makes them again and compares; another one
runs them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

from cases_formats import (
    Case,
    cbor,
    commitment,
    envelope,
    policy_cases,
    statement_cases,
    stream,
    trusted_root_cases,
)
from cases_proofs import proof_evidence, proofs
from cases_services import services
from cases_transactions import transactions
from cases_verification import verification

NAMESPACES: dict[str, Callable[[], Iterable[Case]]] = {
    "cbor": cbor,
    "envelope": envelope,
    "statement": statement_cases,
    "commitment": commitment,
    "stream": stream,
    "trusted-root": trusted_root_cases,
    "policy": policy_cases,
    "verification": lambda: chain(verification(), services(), proof_evidence()),
    "proof": proofs,
    "transaction": transactions,
}


def build() -> dict[str, bytes]:
    """Return the text of every vector by its path below this folder."""
    files: dict[str, bytes] = {}
    for namespace, make in NAMESPACES.items():
        for name, description, inputs, result, reason in make():
            path = f"{namespace}/{name}.json"
            if path in files:
                raise ValueError(f"two cases are named {namespace}::{name}")
            document = {
                "id": f"{namespace}::{name}",
                "description": description,
                **inputs,
                "result": result,
                "reason": reason,
            }
            files[path] = json.dumps(document, indent=2).encode("ascii") + b"\n"
    return files


def main() -> int:
    """Write the vectors and remove those that are no longer made."""
    folder = Path(__file__).parent
    files = build()
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
    for namespace in NAMESPACES:
        for old in (folder / namespace).glob("*.json"):
            if f"{namespace}/{old.name}" not in files:
                old.unlink()
    print(f"{len(files)} vectors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
