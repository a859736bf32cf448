"""Genuine attestation evidence and forgeries of it, other people's data, read where they lie.

The folder is `$VERISPECT_TEE_VECTORS`, or `../shared/vectors/tee` beside the repository. Without
it tests are skipped and say so; where `CI` is set its absence is a failure.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "VERISPECT_TEE_VECTORS"
_REPOSITORY = Path(__file__).resolve().parent.parent


def vectors_path() -> Path:
    """Return the folder of the vectors; skips the test, or fails in CI, where there is none."""
    named = os.environ.get(VARIABLE, "../shared/vectors/tee")
    folder = (_REPOSITORY / named).resolve()
    if not (folder / "cases.json").is_file():
        message = f"no attestation vectors: set {VARIABLE} to a folder with cases.json"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@lru_cache(maxsize=1)
def _all_cases(path: Path) -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(path.read_text(encoding="utf-8"))["cases"])


def cases(technology: str | None = None) -> list[dict[str, Any]]:
    """Return the cases of one technology, or all; see `vectors_path` where there are none."""
    found = _all_cases(vectors_path() / "cases.json")
    return [case for case in found if technology in (None, case["tech"])]


def case_ids(*technologies: str) -> list[str]:
    """Return the identifiers of the technologies' cases for parametrisation; never skips."""
    named = os.environ.get(VARIABLE, "../shared/vectors/tee")
    path = (_REPOSITORY / named).resolve() / "cases.json"
    if not path.is_file():
        return ["vectors-absent"]
    return [case["id"] for case in _all_cases(path) if case["tech"] in technologies]


def load_case(case_id: str) -> dict[str, Any]:
    """Return one case, its evidence read from files as bytes under the same names."""
    folder = vectors_path()
    case = next(case for case in cases() if case["id"] == case_id)
    evidence = {name: (folder / path).read_bytes() for name, path in case["evidence"].items()}
    return {**case, "evidence": evidence}


def read_vector(relative: str) -> bytes:
    """Return one file of the vectors."""
    return (vectors_path() / relative).read_bytes()


def milliseconds(moment: str) -> int:
    """Return a time of a case, for example `2025-06-01T00:00:00Z`, in milliseconds."""
    return int(datetime.fromisoformat(moment).timestamp() * 1000)
